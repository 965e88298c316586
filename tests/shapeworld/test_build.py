"""Random models load with stock libraries and are the same for the same seed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tempo_ray.models.check import check_model
from tempo_ray.models.families import SUPPORTED
from tempo_ray.shapeworld.build import FAMILIES, SPECIAL, ModelType, make_random, make_tokenizer


def test_there_is_a_tiny_model_of_every_supported_family() -> None:
    assert FAMILIES == SUPPORTED


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_decides_the_weights(family: ModelType, tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        make_random(family, tmp_path / name, seed)
        check_model(str(tmp_path / name))
    first, again, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other")
    )
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_nearly_every_word_is_one_token() -> None:
    tokenizer = make_tokenizer()
    words = tokenizer.tokenize("a red square moves left slowly, then a blue cross grows.")
    assert len(words) <= 14
    assert len(tokenizer) <= 1024
    assert all(len(tokenizer.encode(token)) == 1 for token in SPECIAL)
