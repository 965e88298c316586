"""What the tiny models learn from: weakly tied to time, and never asked about order of videos."""

from collections import Counter

import numpy as np
import pytest

from tempo_ray.shapeworld.exam import events_in, pairs_in_order
from tempo_ray.shapeworld.tasks import MIX, TASKS, Tasks


def test_whole_videos_are_never_asked_for_their_order() -> None:
    tasks = Tasks("qwen2_5_vl", "train", shuffled_share=0.8)
    texts = [str(tasks.video_question(np.random.default_rng(seed)).parts[1]) for seed in range(200)]
    order = ("first", "last", "right after", "right before", "Is it true", "Which caption")
    assert not any(word in text for text in texts for word in order)
    kinds = Counter(text.split("\n")[0].split()[0] for text in texts)
    assert {"Which", "How", "What"} <= set(kinds)


def test_captions_of_whole_videos_are_weakly_tied_to_time() -> None:
    """One in five is in order on purpose, and a few of the others by chance."""
    in_order = pairs = 0
    for seed in range(100):
        told, true = (
            events_in(
                Tasks("qwen2_5_vl", "train", share).from_video(np.random.default_rng(seed)).answer
            )
            for share in (0.8, 0.0)
        )
        if set(told) == set(true):  # the same story was drawn
            right, count = pairs_in_order(told, true)
            in_order, pairs = in_order + right, pairs + count
    assert pairs > 300
    assert 0.5 < in_order / pairs < 0.7


def test_the_mix_is_a_distribution_over_tasks() -> None:
    assert sum(MIX.values()) == pytest.approx(1)
    assert set(MIX) == set(TASKS)
    assert all(task.__name__ == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_an_example_shows_each_video_that_it_mentions(name: str) -> None:
    tasks = Tasks("qwen3_vl", "heldout", shuffled_share=0.0)
    for seed in range(5):
        example = TASKS[name](tasks, np.random.default_rng(seed))
        assert example.parts.count(None) == len(example.videos)
        assert example.answer
        for video in example.videos:
            assert video.pixels.shape == (len(video.metadata["frames_indices"]), 64, 64, 3)
