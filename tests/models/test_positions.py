"""Our positions are those that vLLM serves; transformers' differ for videos longer than wide."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from tempo_ray.models.families import SUPPORTED
from tempo_ray.models.frames import Frames
from tempo_ray.models.positions import mrope_positions
from tempo_ray.models.vlm import chat_text, encode, load_model_config, load_processor


def video(frames: int) -> Frames:
    rng = np.random.default_rng(frames)
    return Frames.presented(rng.integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8), 2.0)


@pytest.mark.parametrize("family", SUPPORTED)
def test_positions_of_a_message_by_hand(models: dict[str, str], family: str) -> None:
    config, processor = load_model_config(models[family]), load_processor(models[family])
    text = chat_text(processor, [None, "Describe this video in order."])
    [encoded] = encode(processor, config, [text], [[video(6)]])
    is_video = encoded.input_ids == config.video_token_id
    assert is_video.sum() == 12
    time = encoded.positions[0, is_video]
    if family == "qwen2_5_vl":
        # one second from patch to patch, two positions per second
        assert (np.diff(time[::4]) == 2).all()
    after = np.flatnonzero(is_video)[-1] + 1
    before = encoded.positions[:, :after]
    assert (encoded.positions[:, after] == before.max() + 1).all()
    assert (np.diff(encoded.positions[:, after:], axis=1) == 1).all()


def test_text_alone_counts_up(models: dict[str, str]) -> None:
    config = load_model_config(models["qwen2_5_vl"])
    assert (mrope_positions(config, [1, 2, 3]) == np.arange(3)).all()


def test_grids_and_tokens_must_agree(models: dict[str, str]) -> None:
    config = load_model_config(models["qwen2_5_vl"])
    ids = [1] + [config.video_token_id] * 4
    with pytest.raises(ValueError, match="a grid has 8 video tokens, the sequence 4"):
        mrope_positions(config, ids, np.array([[2, 4, 4]]))
    with pytest.raises(ValueError, match="1 video tokens too many"):
        mrope_positions(config, [*ids, config.video_token_id], np.array([[1, 4, 4]]))
    with pytest.raises(ValueError, match="4 video tokens and no grid_thw"):
        mrope_positions(config, ids)


def test_transformers_still_places_the_text_after_a_long_video_elsewhere(
    models: dict[str, str],
) -> None:
    """The day this fails, transformers uses the served positions again: say so in
    docs/positions.md."""
    folder = models["qwen2_5_vl"]
    config, processor = load_model_config(folder), load_processor(folder)
    text = chat_text(processor, [None, "What happens?"])
    [encoded] = encode(processor, config, [text], [[video(16)]])
    model = AutoModelForImageTextToText.from_pretrained(folder)
    ids = torch.from_numpy(encoded.input_ids)[None]
    kinds = 2 * (ids == config.video_token_id).int()
    stock, _ = model.model.get_rope_index(
        ids, kinds, video_grid_thw=encoded.video_grid_thw, second_per_grid_ts=torch.tensor([1.0])
    )
    # the video starts at 4: the text after it continues from 4 + 7 x 2 + 1 = 19 here, there from
    # 4 + max(height, width) = 6
    assert encoded.positions[0, -1] - int(stock[0, 0, -1]) == 13
