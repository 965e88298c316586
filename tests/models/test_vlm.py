"""Loading refuses incomplete weights; messages become the text and tensors of a model.

That vLLM builds the same is tested in tests/integration/test_parity.py.
"""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tempo_ray import shapeworld
from tempo_ray.models.check import InvalidModel
from tempo_ray.models.families import SUPPORTED
from tempo_ray.models.frames import Frames
from tempo_ray.models.vlm import chat_text, encode, load_model, load_model_config, load_processor

MODEL = Path(shapeworld.__file__).parent / "models" / "qwen2_5_vl"


def video(frames: int) -> Frames:
    rng = np.random.default_rng(frames)
    return Frames.presented(rng.integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8), 2.0)


def test_missing_weights_are_not_initialised_at_random(tmp_path: Path) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    some = {name: weight for name, weight in weights.items() if "layers.0.mlp" not in name}
    save_file(some, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidModel, match="weights are missing or of another shape"):
        load_model(str(folder), torch.float32)


def test_a_cut_off_weight_file_is_not_loaded(tmp_path: Path) -> None:
    folder = copytree(MODEL, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InvalidModel, match="its weights cannot be read"):
        load_model(str(folder), torch.float32)


def test_a_conversation_ends_where_the_answer_begins() -> None:
    processor = load_processor(str(MODEL))
    text = chat_text(processor, ["What is it?"], "Be brief.", [("A circle.", "Which colour?")])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\nA circle.<|im_end|>\n"
        "<|im_start|>user\nWhich colour?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("family", SUPPORTED)
def test_sequences_encoded_together_are_those_encoded_alone(
    models: dict[str, str], family: str
) -> None:
    config, processor = load_model_config(models[family]), load_processor(models[family])
    messages: list[list[str | None]] = [[None, "Describe it."], ["Hello"], [None, "and", None]]
    videos = [[video(4)], [], [video(2), video(6)]]
    texts = [chat_text(processor, message) for message in messages]
    together = encode(processor, config, texts, videos)
    alone = [
        encode(processor, config, [text], [of_text])[0]
        for text, of_text in zip(texts, videos, strict=True)
    ]
    for joint, single in zip(together, alone, strict=True):
        assert np.array_equal(joint.input_ids, single.input_ids)
        assert np.array_equal(joint.positions, single.positions)
        assert joint.positions.shape == (3, len(joint.input_ids))
    assert together[1].pixel_values_videos is None
    for index in (0, 2):
        joint, single = together[index], alone[index]
        assert joint.pixel_values_videos is not None
        assert single.pixel_values_videos is not None
        assert joint.video_grid_thw is not None
        assert torch.equal(joint.pixel_values_videos, single.pixel_values_videos)
        assert len(joint.pixel_values_videos) == int(joint.video_grid_thw.prod(-1).sum())
