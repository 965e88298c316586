"""Token ids and video grids -> M-RoPE positions, as vLLM serves them.

The text after a video continues from the largest position so far + 1, the time axis included, as in
the models' own pre-training, transformers 4 and vLLM. transformers 5 continues from the video's
start + max(height, width) instead, which differs for every video that is longer than it is wide.
Training passes these positions to the model: what is trained is what is served
(docs/positions.md).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig

from tempo_ray.models.families import family_of


def mrope_positions(
    config: PretrainedConfig,
    input_ids: Sequence[int] | NDArray[np.integer],
    grid_thw: NDArray[np.integer] | None = None,
    seconds_per_grid: Sequence[float] | None = None,
) -> NDArray[np.int64]:
    """(3, tokens) int64: time, height and width of each token of one sequence.

    `input_ids` is (tokens,); `grid_thw` is (videos, 3) in patches: temporal, rows, columns;
    `seconds_per_grid` is, per video, the seconds from one temporal patch to the next (1 if None).

    Raises:
        ValueError: the video tokens and the grids do not agree.
    """
    ids = np.asarray(input_ids)
    is_video = ids == config.video_token_id
    if grid_thw is None or not is_video.any():
        if is_video.any():
            raise ValueError(f"{int(is_video.sum())} video tokens and no grid_thw")
        return np.broadcast_to(np.arange(len(ids)), (3, len(ids))).copy()
    positions = np.zeros((3, len(ids)), dtype=np.int64)
    next_token, next_position = 0, 0
    for run in _runs(config, np.asarray(grid_thw), seconds_per_grid):
        remaining = is_video[next_token:]
        ahead = np.flatnonzero(remaining)
        start = next_token + int(ahead[0]) if len(ahead) else len(ids)
        end = start + run.shape[1]
        if end > len(ids) or not is_video[start:end].all():
            raise ValueError(
                f"a grid has {run.shape[1]} video tokens, the sequence {int(remaining.sum())}"
            )
        positions[:, next_token:start] = np.arange(start - next_token) + next_position
        next_position += start - next_token
        positions[:, start:end] = run + next_position
        next_position = int(positions[:, start:end].max()) + 1
        next_token = end
    if is_video[next_token:].any():
        excess = int(is_video[next_token:].sum())
        raise ValueError(f"{excess} video tokens too many for the grids")
    positions[:, next_token:] = np.arange(len(ids) - next_token) + next_position
    return positions


def _runs(
    config: PretrainedConfig,
    grid_thw: NDArray[np.integer],
    seconds_per_grid: Sequence[float] | None,
) -> list[NDArray[np.int64]]:
    """For each run of video tokens, its (3, tokens) positions relative to its start."""
    family = family_of(config.model_type)
    vision = config.vision_config
    merge = vision.spatial_merge_size
    runs = []
    for number, (patches, rows, columns) in enumerate(grid_thw.tolist()):
        grid = (patches, rows // merge, columns // merge)
        seconds = 1.0 if seconds_per_grid is None else float(seconds_per_grid[number])
        runs += family.video_runs(vision, grid, seconds)
    return runs
