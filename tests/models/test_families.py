"""What differs between model families, and that nothing else in the package knows it.

Adding a family: one more entry in `CASES`.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY
from vllm.multimodal.video_decoders.base import VideoSourceMetadata, VideoTargetMetadata

import tempo_ray
from tempo_ray.config import FramesConfig
from tempo_ray.models.families import (
    FAMILIES,
    SUPPORTED,
    InvalidModel,
    family_of,
    family_of_processor,
)
from tempo_ray.models.frames import Frames, sample_indices
from tempo_ray.models.vlm import chat_text, encode, load_model_config, load_processor

PACKAGE = Path(tempo_ray.__file__).parent
MARKED = "<|vision_start|><|video_pad|><|vision_end|>"


@dataclass(frozen=True)
class Case:
    """What a family must do with known input."""

    vllm_loader: str
    indices: list[int]
    """Of 100 frames at 24 per second, with the default FramesConfig."""
    run_times: list[list[int]]
    """Time positions in each run of a video of 3 temporal patches of 2 x 2 tokens, one second
    apart, two positions per second."""
    marks_each_frame: bool


CASES = {
    "qwen2_5_vl": Case(
        vllm_loader="qwen2_vl",
        indices=[0, 12, 25, 37, 50, 62, 75, 87],
        run_times=[[0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4]],
        marks_each_frame=False,
    ),
    "qwen3_vl": Case(
        vllm_loader="qwen3_vl",
        indices=[0, 14, 28, 42, 57, 71, 85, 99],
        run_times=[[0, 0, 0, 0]] * 3,
        marks_each_frame=True,
    ),
}
each_family = pytest.mark.parametrize("model_type", CASES)


def test_every_family_has_a_case() -> None:
    assert set(CASES) == set(SUPPORTED)


def test_an_unsupported_family_is_refused_by_name() -> None:
    with pytest.raises(InvalidModel, match="model_type llava is not supported; use one of qwen"):
        family_of("llava")
    with pytest.raises(InvalidModel, match="processor SimpleNamespace is not supported"):
        family_of_processor(SimpleNamespace())


@each_family
def test_a_family_is_found_by_its_processor(models: dict[str, str], model_type: str) -> None:
    assert family_of_processor(load_processor(models[model_type])) is family_of(model_type)


@each_family
def test_frames_by_hand(model_type: str) -> None:
    assert sample_indices(100, 24.0, FramesConfig(), model_type) == CASES[model_type].indices


@each_family
def test_frames_are_sampled_as_vllm_samples_them(model_type: str) -> None:
    loader = VIDEO_LOADER_REGISTRY.load(CASES[model_type].vllm_loader)
    for total in range(2, 900, 7):
        for fps in (12.0, 24.0, 25.0, 29.97, 30.0, 59.94):
            source = VideoSourceMetadata(total, fps, total / fps)
            served = list(
                loader.compute_frames_index_to_sample(source, VideoTargetMetadata(-1, 2, 300))
            )
            indices = sample_indices(total, fps, FramesConfig(), model_type)
            assert indices[: len(served)] == served
            assert len(indices) % 2 == 0
            assert set(indices[len(served) :]) <= {indices[-1]}


@each_family
def test_runs_of_video_tokens_by_hand(model_type: str) -> None:
    vision = SimpleNamespace(tokens_per_second=2)
    runs = family_of(model_type).video_runs(vision, (3, 2, 2), 1.0)
    assert [run[0].tolist() for run in runs] == CASES[model_type].run_times
    for run in runs:
        assert run[1].tolist() == [0, 0, 1, 1] * (run.shape[1] // 4)
        assert run[2].tolist() == [0, 1, 0, 1] * (run.shape[1] // 4)


@each_family
def test_the_prompt_and_the_served_template_have_the_right_markers(
    models: dict[str, str], model_type: str
) -> None:
    processor = load_processor(models[model_type])
    text = chat_text(processor, [None, "Describe this video."])
    served = family_of(model_type).served_chat_template(processor)
    if CASES[model_type].marks_each_frame:
        assert "<|video_pad|>" in text
        assert "<|vision_start|>" not in text
        assert served == processor.chat_template.replace(MARKED, "<|video_pad|>")
        assert served != processor.chat_template
    else:
        assert MARKED in text
        assert served is None


@each_family
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(4, 640, 480), (64, 320, 640), (120, 64, 64)]
)
def test_a_video_is_scaled_down_to_its_tokens(
    models: dict[str, str], model_type: str, frames: int, height: int, width: int, tmp_path: Path
) -> None:
    """And by the processor that is saved with the model."""
    config, limited = load_model_config(models[model_type]), load_processor(models[model_type], 200)
    limited.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    video = Frames.presented(pixels, 2.0)
    for processor in (limited, load_processor(str(tmp_path))):
        [encoded] = encode(processor, config, [chat_text(processor, [None, "?"])], [[video]])
        tokens = int((encoded.input_ids == config.video_token_id).sum())
        assert frames // 2 <= tokens <= 200


def _names_and_strings(file: Path) -> set[str]:
    """Identifiers and string literals; neither comments nor docstrings."""
    tree = ast.parse(file.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.alias):
            words.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= set() if id(node) in prose else {node.value}
    return words


def test_no_other_file_names_a_family() -> None:
    rooms = [PACKAGE / room for room in ("models", "train", "serve", "data", "evaluate")]
    files = {file for room in rooms for file in room.rglob("*.py")}
    for file in files - {PACKAGE / "models" / "families.py"}:
        assert not [word for word in _names_and_strings(file) if "qwen" in word.lower()], file


def test_families_are_known_without_torch_and_transformers() -> None:
    script = (
        "import sys, tempo_ray.models.check, tempo_ray.models.frames; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "set()"


def test_families_are_distinguished_by_type_and_processor() -> None:
    assert len({family.model_type for family in FAMILIES}) == len(FAMILIES)
    assert len({family.processor_class for family in FAMILIES}) == len(FAMILIES)
