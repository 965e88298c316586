"""What the tiny models learn from, and that an interrupted pre-training goes on as if nothing had happened."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tempo_ray.shapeworld import pretrain
from tempo_ray.shapeworld.build import FAMILIES, Family
from tempo_ray.shapeworld.exam import events_in, pairs_in_order
from tempo_ray.shapeworld.pretrain import MIX, PretrainSettings, Tasks


def test_whole_videos_are_never_asked_for_their_order() -> None:
    tasks = Tasks("qwen2_5_vl", "train", shuffled_share=0.8)
    texts = [str(tasks.video_question(np.random.default_rng(seed)).parts[1]) for seed in range(200)]
    order = ("first", "last", "right after", "right before", "Is it true", "Which caption")
    assert not any(word in text for text in texts for word in order)
    kinds = Counter(text.split("\n")[0].split()[0] for text in texts)
    assert {"Which", "How", "What"} <= set(kinds)


def test_captions_of_whole_videos_are_weakly_tied_to_time() -> None:
    """One in five is in order by intent, and a few of the others by chance."""
    right = pairs = 0
    for seed in range(100):
        told, true = (
            events_in(
                Tasks("qwen2_5_vl", "train", share).from_video(np.random.default_rng(seed)).answer
            )
            for share in (0.8, 0.0)
        )
        if set(told) == set(true):  # the same story was drawn
            one, other = pairs_in_order(told, true)
            right, pairs = right + one, pairs + other
    assert pairs > 300
    assert 0.5 < right / pairs < 0.7


def test_a_token_of_a_long_answer_weighs_less() -> None:
    labels = torch.full((2, 6), pretrain.IGNORE)
    labels[0, 2:6] = 1
    labels[1, 5] = 1
    weights = pretrain.answer_weights(labels)
    assert weights.tolist() == [[0, 0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0, 1]]


def test_the_mix_is_a_distribution_over_tasks() -> None:
    assert sum(MIX.values()) == pytest.approx(1)
    assert all(hasattr(Tasks, name) for name in MIX)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_run_ends_with_the_same_weights(family: Family, tmp_path: Path) -> None:
    settings = PretrainSettings(
        family,
        vision_steps=1,
        vision_batch=4,
        steps=4,
        single_shot_steps=1,
        batch=4,
        micro_batches=2,
        save_every=2,
    )
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain.pretrain(settings, whole, lambda line: None)

    class Killed(Exception): ...

    def save_then_die(state: dict, file: Path) -> None:
        torch_save(state, file)
        file.rename(file.with_suffix(".pt"))
        raise Killed

    torch_save = torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save_then_die)
        with pytest.raises(Killed):
            pretrain.pretrain(settings, halves, lambda line: None)
    pretrain.pretrain(settings, halves, lambda line: None)
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, halves))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
