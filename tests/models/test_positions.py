"""Our positions are vLLM's, and transformers' are not where a video is longer than it is wide."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import Frames, sample_indices
from tempo_ray.models.positions import mrope_positions
from tempo_ray.models.vlm import chat_text, encode, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES, make_random


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {}
    for family in FAMILIES:
        folder: Path = tmp_path_factory.mktemp(family)
        make_random(family, folder)
        made[family] = str(folder)
    return made


def video(frames: int, height: int = 64, width: int = 64) -> Frames:
    return Frames.presented(
        np.random.default_rng(frames).integers(0, 255, (frames, height, width, 3), dtype=np.uint8),
        2.0,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_of_a_message_by_hand(folders: dict[str, str], family: str) -> None:
    config, processor = load_model_config(folders[family]), load_processor(folders[family])
    [one] = encode(
        processor,
        config,
        [chat_text(processor, [None, "Describe this video in order."])],
        [[video(6)]],
    )
    shown = one.input_ids == config.video_token_id
    assert shown.sum() == 12
    time = one.positions[0, shown]
    if family == "qwen2_5_vl":
        assert (
            np.diff(time[::4]) == 2
        ).all()  # one second from patch to patch, two positions a second
    after = np.flatnonzero(shown)[-1] + 1
    assert (one.positions[:, after] == one.positions[:, :after].max() + 1).all()
    assert (np.diff(one.positions[:, after:], axis=1) == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(4, 640, 480), (64, 320, 640), (120, 64, 64)]
)
def test_a_video_is_scaled_down_to_its_tokens(
    folders: dict[str, str], family: str, frames: int, height: int, width: int, tmp_path: Path
) -> None:
    """And by the processor that is saved with the model."""
    config, processor = load_model_config(folders[family]), load_processor(folders[family], 200)
    processor.save_pretrained(tmp_path)
    for one in (processor, load_processor(str(tmp_path))):
        [encoded] = encode(
            one, config, [chat_text(one, [None, "?"])], [[video(frames, height, width)]]
        )
        tokens = int((encoded.input_ids == config.video_token_id).sum())
        assert frames // 2 <= tokens <= 200


def test_text_alone_counts_up(folders: dict[str, str]) -> None:
    config = load_model_config(folders["qwen2_5_vl"])
    assert (mrope_positions(config, [1, 2, 3]) == np.arange(3)).all()


def test_grids_and_tokens_must_agree(folders: dict[str, str]) -> None:
    config = load_model_config(folders["qwen2_5_vl"])
    ids = [1] + [config.video_token_id] * 4
    with pytest.raises(ValueError, match="announced"):
        mrope_positions(config, ids, np.array([[2, 4, 4]]))
    with pytest.raises(ValueError, match="too many"):
        mrope_positions(config, [*ids, config.video_token_id], np.array([[1, 4, 4]]))


def test_transformers_still_places_the_text_after_a_long_video_elsewhere(
    folders: dict[str, str],
) -> None:
    """The day this fails, transformers has come back to the positions that are served: say so in docs/positions.md."""
    from transformers import AutoModelForImageTextToText

    config, processor = (
        load_model_config(folders["qwen2_5_vl"]),
        load_processor(folders["qwen2_5_vl"]),
    )
    [one] = encode(
        processor, config, [chat_text(processor, [None, "What happens?"])], [[video(16)]]
    )
    model = AutoModelForImageTextToText.from_pretrained(folders["qwen2_5_vl"])
    ids = torch.from_numpy(one.input_ids)[None]
    kinds = 2 * (ids == config.video_token_id).int()
    stock, _ = model.model.get_rope_index(
        ids, kinds, video_grid_thw=one.video_grid_thw, second_per_grid_ts=torch.tensor([1.0])
    )
    # the video starts at 4: text goes on from 4 + 7 x 2 + 1 = 19 here, from 4 + max(height, width) = 6 there
    assert one.positions[0, -1] - int(stock[0, 0, -1]) == 13


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_are_sampled_as_vllm_samples_them(family: str) -> None:
    from vllm.multimodal.video import (
        VIDEO_LOADER_REGISTRY,
        VideoSourceMetadata,
        VideoTargetMetadata,
    )

    loader = VIDEO_LOADER_REGISTRY.load("qwen2_vl" if family == "qwen2_5_vl" else "qwen3_vl")
    for total in range(2, 900, 7):
        for fps in (12.0, 24.0, 25.0, 29.97, 30.0, 59.94):
            source, target = (
                VideoSourceMetadata(total, fps, total / fps),
                VideoTargetMetadata(-1, 2, 300),
            )
            theirs = list(loader.compute_frames_index_to_sample(source, target))
            ours = sample_indices(total, fps, FramesConfig(), family)
            assert ours[: len(theirs)] == theirs
            assert len(ours) % 2 == 0
            assert set(ours[len(theirs) :]) <= {ours[-1]}
