"""The questions about a video: what is shown, under which name, and with which seed."""

import numpy as np

from tempo_ray.config import RespondConfig
from tempo_ray.data.prompts import SHAPEWORLD, Show
from tempo_ray.data.questions import (
    AnswerSpec,
    answer_specs,
    make_request,
    media_id,
    parts_text,
    request_seed,
    whole_parts,
)
from tests.data.rows import kept_video


def test_a_seed_is_the_same_in_every_release() -> None:
    assert request_seed(5, "v", "caption", 0) == 1519807570
    first = AnswerSpec("reverse", 4, (3, 2, 1, 0))
    assert first.seed(5, "v", "clip") == request_seed(5, "v", "clip", "reverse", 4)
    second_clean = AnswerSpec("clean", None, (0, 1, 2, 3), sample=1)
    assert second_clean.seed(5, "v", "clip") == request_seed(5, "v", "clip", "clean", None, 1)


def test_clean_answers_come_first() -> None:
    specs = answer_specs(kept_video(), RespondConfig(model="m", clean_samples=2), 5)
    assert [(spec.perturbation, spec.sample) for spec in specs[:2]] == [("clean", 0), ("clean", 1)]
    assert all(spec.order == (0, 1, 2, 3) for spec in specs[:2])
    assert all(spec.perturbation != "clean" and spec.order != (0, 1, 2, 3) for spec in specs[2:])
    published = RespondConfig(model="m", levels="published")
    assert len(answer_specs(kept_video(), published, 5)) == 1 + 3 * 4


def test_a_request_shows_the_key_frames_of_its_clips_in_order() -> None:
    row = kept_video()
    indices = [index for clip in row.clips for index in clip.key_frames]
    key_frames = {index: np.full((4, 4, 3), index, np.uint8) for index in indices}
    parts = [Show((2, 0)), "What happens?", Show((1,))]
    request = make_request(row, key_frames, parts, fps=2.0, max_tokens=9, seed=3)
    assert request.parts == (None, "What happens?", None)
    shown = [frames.pixels[:, 0, 0, 0].tolist() for frames in request.videos]
    assert shown == [[55, 63, 7, 15], [31, 39]]
    assert request.video_ids == ("v/2/55,63,7,15", "v/2/31,39")
    assert media_id(row, (1,), 0.5) == "v/0.5/31,39"
    assert (request.max_tokens, request.seed) == (9, 3)


def test_each_form_puts_the_clips_in_the_order_given() -> None:
    row, order = kept_video(), (3, 0)

    def text(form: str) -> str:
        config = RespondConfig(model="m", form=form)
        return parts_text(whole_parts(row, order, config, SHAPEWORLD, paraphrase=7))

    assert text("caption") == "1. caption 3\n2. caption 0\nTell all of this in order."
    assert text("clip").startswith("<video: clips [3]>\n<video: clips [0]>\n")
    assert text("video") == f"<video: clips [3, 0]>\n{SHAPEWORLD.describe[7 % 6]}"
