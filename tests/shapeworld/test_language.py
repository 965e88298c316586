"""Stories, captions and questions: exact answers, and distractors that differ in what is asked."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.story import draw_split, draw_story, story_rng


@given(seed=st.integers(0, 10_000), shots=st.integers(2, 12))
def test_questions_have_one_right_option(seed: int, shots: int) -> None:
    rng = np.random.default_rng(seed)
    story = draw_story(rng, shots)
    for question in language.ask(story, rng, 5, 0.5):
        assert question.options.count(question.answer) == 1
        assert len(set(question.options)) == len(question.options)
        assert question.kind == "yes_no" or all(
            option in question.text for option in question.options
        )


@given(seed=st.integers(0, 10_000))
def test_order_distractors_name_events_of_the_same_video(seed: int) -> None:
    rng = np.random.default_rng(seed)
    story = draw_story(rng, 5)
    texts = [event.text() for event in story.events]
    for ask in (language.ask_first, language.ask_last, language.ask_after, language.ask_before):
        question = ask(story.events, rng)
        assert question.needs == "order"
        assert set(question.options) <= set(texts)
    assert language.ask_first(story.events, rng).answer == texts[0]
    assert language.ask_last(story.events, rng).answer == texts[-1]
    first_words, second_words = (
        sorted(option.replace(",", " ").replace(";", " ").replace(".", " ").split())
        for option in language.ask_caption(story.events, rng).options
    )
    assert first_words == second_words  # in another order


def test_captions_tell_every_event_in_order() -> None:
    story = draw_story(np.random.default_rng(0), 6)
    for phrasing in range(3):
        text = language.caption(story.events, phrasing)
        places = [text.index(event.text()) for event in story.events]
        assert places == sorted(places)


def test_a_story_is_in_one_split_and_is_drawn_alike_again() -> None:
    texts: dict[str, set[str]] = {}
    for split in ("train", "heldout", "test"):
        stories = [draw_split(story_rng(0, split, index), split, 4) for index in range(60)]
        again = [draw_split(story_rng(0, split, index), split, 4) for index in range(60)]
        assert stories == again
        texts[split] = {"; ".join(event.text() for event in story.events) for story in stories}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["heldout"]


def test_nothing_occurs_twice_in_a_video() -> None:
    story = draw_story(np.random.default_rng(1), 12)
    assert len({event.thing for event in story.events}) == 12
    assert len({shot.background for shot in story.shots}) == 12
