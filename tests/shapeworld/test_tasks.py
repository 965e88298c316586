"""What the tiny models learn from: weakly tied to time, and never asked about order of videos."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest

from tempo_ray.data.prompts import SHAPEWORLD
from tempo_ray.shapeworld import language, tasks
from tempo_ray.shapeworld.exam import events_in, pairs_in_order
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.shapeworld.tasks import EVERYTHING, MIX, Example, Medium, Practice, Show, Tasks

MEDIA: tuple[Medium, ...] = get_args(Medium)


def draw(show: Show, seed: int, shuffled_share: float = 0.8) -> Example:
    practice = Practice({show: 1.0}, EVERYTHING, 6)
    return Tasks("qwen3_vl", "train", shuffled_share).draw(np.random.default_rng(seed), practice)


def kinds(show: Show, examples: int = 60) -> Counter[str]:
    drawn = [draw(show, seed) for seed in range(examples)]
    return Counter(exchange.kind for example in drawn for exchange in example.exchanges)


def test_the_order_of_whole_videos_is_never_asked_for() -> None:
    assert set(kinds("video")) == {*language.NOT_ABOUT_ORDER, "content", "retelling"}
    everything = {*language.ABOUT_ORDER, *language.NOT_ABOUT_ORDER, "content", "retelling"}
    assert set(kinds("clips")) == set(kinds("words")) == everything


def test_descriptions_of_whole_videos_are_weakly_tied_to_time() -> None:
    """One in five is in order on purpose, and a few of the others by chance."""
    in_order = pairs = 0
    for seed in range(60):
        story = draw_story(np.random.default_rng(seed), 5)
        example = Tasks("qwen2_5_vl", "train", 0.8).about(
            story, "video", ["retelling"], np.random.default_rng(seed)
        )
        told = events_in(example.exchanges[0].answer)
        right, count = pairs_in_order(told, [event.text("").strip() for event in story.events])
        in_order, pairs = in_order + right, pairs + count
    assert pairs == 600
    assert 0.5 < in_order / pairs < 0.7


@pytest.mark.parametrize("medium", ["words", "clips"])
def test_words_and_clips_are_retold_in_order(medium: Medium) -> None:
    story = draw_story(np.random.default_rng(0), 7)
    rng = np.random.default_rng(0)
    example = Tasks("qwen2_5_vl", "train", 0.8).about(story, medium, ["retelling"], rng)
    assert events_in(example.exchanges[0].answer) == [
        event.text("").strip() for event in story.events
    ]


def test_a_story_in_words_is_shown_as_the_pipeline_shows_captions() -> None:
    story = draw_story(np.random.default_rng(0), 4)
    example = Tasks("qwen2_5_vl", "train", 0.8).about(
        story, "words", ["retelling"], np.random.default_rng(0)
    )
    captions = [language.caption_event(event) for event in story.events]
    assert [
        "".join(map(str, example.shown)) + example.exchanges[0].text
    ] == SHAPEWORLD.whole_by_caption(captions)


def test_the_mix_is_a_distribution_over_what_is_shown() -> None:
    assert sum(MIX.values()) == pytest.approx(1)
    assert {*MIX, "letters"} == set(get_args(Show))


@pytest.mark.parametrize("show", get_args(Show))
def test_an_example_shows_each_video_that_it_mentions(show: Show) -> None:
    for seed in range(5):
        example = draw(show, seed)
        assert example.shown.count(None) == len(example.videos)
        assert all(exchange.text and exchange.answer for exchange in example.exchanges)
        for video in example.videos:
            assert video.pixels.shape == (len(video.metadata["frames_indices"]), 64, 64, 3)


def test_a_question_is_answered_by_a_letter_or_by_yes_or_no() -> None:
    for seed in range(40):
        for exchange in draw("words", seed).exchanges:
            if exchange.kind != "retelling":
                shown = [letter for letter in language.LETTERS if f"\n{letter}. " in exchange.text]
                assert exchange.answer in (shown or ["yes", "no"])


def test_stories_have_at_most_the_events_that_are_practised() -> None:
    practice = Practice({"words": 1.0}, tasks.NEIGHBOURS, 4)
    lengths = {
        str(
            Tasks("qwen2_5_vl", "train", 0.8).draw(np.random.default_rng(seed), practice).shown[0]
        ).count("\n")
        for seed in range(40)
    }
    assert lengths == {3, 4}
    with pytest.raises(ValueError, match="three events or more"):
        Practice({"words": 1.0}, tasks.NEIGHBOURS, 2)
