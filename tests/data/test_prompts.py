"""Prompts: what is shown where, and how a caption is read."""

import pytest

from tempo_ray.data.prompts import CAPTION_MARK, DEFAULT, PROMPT_SETS, Show, read_caption


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A red square.", "A red square."),
        ("First it is. Caption: A red\n square. ", "A red square."),
        ("Caption: no. Caption: yes.", "yes."),
    ],
)
def test_a_caption_follows_the_last_mark(text: str, caption: str) -> None:
    assert read_caption(text) == caption


def test_the_default_prompts_ask_for_the_mark() -> None:
    assert CAPTION_MARK in DEFAULT.first_clip
    assert CAPTION_MARK in DEFAULT.next_clip


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_each_form_shows_the_clips_in_the_order_given(name: str) -> None:
    prompts = PROMPT_SETS[name]
    (text,) = prompts.whole_by_caption(["b {x}", "a"])
    assert isinstance(text, str)
    assert "1. b {x}\n2. a" in text
    assert prompts.whole_by_clip((1, 0))[:2] == [Show((1,)), Show((0,))]
    count = len(prompts.describe)
    assert prompts.whole_by_video((1, 0), count + 1) == [Show((1, 0)), prompts.describe[1]]
