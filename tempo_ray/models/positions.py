"""Token ids and video grids -> M-RoPE positions, as vLLM serves them.

transformers 5 lets the text after a video of Qwen2-VL and Qwen2.5-VL go on from the video's start + max(height, width),
where the models' own pre-training, transformers 4 and vLLM go on from the largest position so far + 1, the temporal
axis included. The two differ for every video that is longer than it is wide; training takes these positions, so that
what is trained is what is served.
"""

from collections.abc import Sequence

import numpy as np
from transformers import PretrainedConfig


def _grids(
    config: PretrainedConfig, grid_thw: np.ndarray, seconds_per_grid: Sequence[float] | None
) -> list[np.ndarray]:
    """For each run of video tokens, its positions relative to its start: (3, tokens)."""
    merge = config.vision_config.spatial_merge_size
    runs = []
    for number, (t, h, w) in enumerate(np.asarray(grid_thw)):
        if config.model_type == "qwen3_vl":
            # every temporal patch is a run of its own: its time stands before it in words
            runs += [np.indices((1, h // merge, w // merge)).reshape(3, -1)] * int(t)
            continue
        grid = np.indices((t, h // merge, w // merge))
        seconds = 1.0 if seconds_per_grid is None else float(seconds_per_grid[number])
        grid[0] = (grid[0] * (seconds * config.vision_config.tokens_per_second)).astype(np.int64)
        runs.append(grid.reshape(3, -1))
    return runs


def mrope_positions(
    config: PretrainedConfig,
    input_ids: Sequence[int] | np.ndarray,
    grid_thw: np.ndarray | None = None,
    seconds_per_grid: Sequence[float] | None = None,
) -> np.ndarray:
    """(3, tokens) int64: time, height and width of every token of one sequence.

    `grid_thw` is (videos, 3) in patches, `seconds_per_grid` the seconds from one temporal patch to the next (Qwen2.5-VL).
    Raises ValueError where the video tokens and the grids do not agree.
    """
    ids = np.asarray(input_ids)
    video = ids == config.video_token_id
    if grid_thw is None or not video.any():
        if video.any():
            raise ValueError(f"{int(video.sum())} video tokens and no grid_thw")
        return np.broadcast_to(np.arange(len(ids)), (3, len(ids))).copy()
    positions = np.zeros((3, len(ids)), dtype=np.int64)
    cursor, following = 0, 0  # the next token, the next free position
    for run in _grids(config, grid_thw, seconds_per_grid):
        ahead = np.flatnonzero(video[cursor:])
        start = cursor + int(ahead[0]) if len(ahead) else len(ids)
        end = start + run.shape[1]
        if end > len(ids) or not video[start:end].all():
            raise ValueError(
                f"a video of {run.shape[1]} tokens is announced and {int(video[cursor:].sum())} stand there"
            )
        positions[:, cursor:start] = np.arange(start - cursor) + following
        following += start - cursor
        positions[:, start:end] = run + following
        following = int(positions[:, start:end].max()) + 1
        cursor = end
    if video[cursor:].any():
        raise ValueError(f"{int(video[cursor:].sum())} video tokens too many for the grids")
    positions[:, cursor:] = np.arange(len(ids) - cursor) + following
    return positions
