"""What is asked of an engine, and the rows that its completions become. No engine is started."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tempo_ray.config import Form, RespondConfig
from tempo_ray.data.failures import VideoOutcome
from tempo_ray.data.key_frames import KeyFrames
from tempo_ray.data.prompts import SHAPEWORLD
from tempo_ray.data.questions import answer_specs
from tempo_ray.data.respond import Answerer
from tempo_ray.models.engine import Completion, Refused, Request
from tempo_ray.records import TransientFailure, VideoAnswers
from tests.data.rows import kept_video


def read(rows: Sequence[VideoAnswers]) -> tuple[list[VideoOutcome], dict[str, KeyFrames]]:
    """Key frames whose pixels are their number."""
    frames = {
        row.video_id: {
            index: np.full((4, 4, 3), index, np.uint8)
            for clip in row.clips
            for index in clip.key_frames
        }
        for row in rows
        if row.status == "kept"
    }
    return list(rows), frames


class Engine:
    """Completes the nth request with `Caption: text n`, and refuses those of `refused`."""

    def __init__(self, *refused: int) -> None:
        self.requests: list[Request] = []
        self.calls: list[int] = []
        self._refused = refused

    def __call__(self, requests: Sequence[Request]) -> list[Completion | Refused]:
        self.calls.append(len(requests))
        completions: list[Completion | Refused] = []
        for request in requests:
            number = len(self.requests)
            self.requests.append(request)
            if number in self._refused:
                completions.append(Refused(f"request {number} is too long"))
            else:
                completions.append(Completion(f"Caption: text {number}", 7, 3, "stop"))
        return completions


def answered(
    engine: Engine, *rows: VideoAnswers, form: Form = "caption", clean_samples: int = 1
) -> list[VideoOutcome]:
    config = RespondConfig(model="m", form=form, clean_samples=clean_samples)
    return Answerer(engine, read, SHAPEWORLD, config, 5)(rows)


def without_captions(row: VideoAnswers) -> VideoAnswers:
    return replace(row, clips=tuple(replace(clip, caption=None) for clip in row.clips))


def kept(row: VideoOutcome) -> VideoAnswers:
    assert isinstance(row, VideoAnswers)
    assert row.status == "kept"
    return row


def test_clips_are_captioned_and_the_captions_are_answered() -> None:
    given = without_captions(kept_video())
    engine = Engine()
    (row,) = answered(engine, given)
    row = kept(row)
    assert [clip.caption for clip in row.clips] == [f"text {i}" for i in range(4)]
    assert [clip.caption for clip in given.clips] == [None] * 4  # the row given is not changed
    specs = answer_specs(row, RespondConfig(model="m"), 5)
    shown = [(answer.perturbation, answer.strength, answer.order) for answer in row.answers]
    assert shown == [(spec.perturbation, spec.strength, spec.order) for spec in specs]
    assert engine.calls == [4, len(specs)]
    clean = row.answers[0]
    assert (clean.perturbation, clean.order, clean.text) == (
        "clean",
        (0, 1, 2, 3),
        "Caption: text 4",
    )
    assert clean.prompt.startswith("1. text 0\n2. text 1\n3. text 2\n4. text 3\n")
    reverse = next(answer for answer in row.answers if answer.perturbation == "reverse")
    assert reverse.prompt.startswith("1. text 3\n2. text 2\n3. text 1\n4. text 0\n")
    assert (reverse.order_distance, reverse.kept_share) == (1.0, 1.0)
    assert len({answer.answer_id for answer in row.answers}) == len(row.answers)


def test_a_clip_is_captioned_beside_the_one_before_it() -> None:
    engine = Engine()
    answered(engine, kept_video())
    first, second = engine.requests[:2]
    assert first.parts == (None, "What happens in this clip?")
    assert second.parts[:2] == (None, None)
    assert second.video_ids == ("v/2/7,15", "v/2/31,39")
    assert [int(frames.pixels[0, 0, 0, 0]) for frames in second.videos] == [7, 31]


@pytest.mark.parametrize("form", ["clip", "video"])
def test_a_perturbed_order_is_shown_as_frames(form: Form) -> None:
    engine = Engine()
    (row,) = answered(engine, kept_video(), form=form)
    index = next(
        i for i, answer in enumerate(kept(row).answers) if answer.perturbation == "reverse"
    )
    request = engine.requests[4 + index]
    pixels = np.concatenate([frames.pixels for frames in request.videos])
    assert pixels[:, 0, 0, 0].tolist() == [79, 87, 55, 63, 31, 39, 7, 15]
    times = [frames.metadata["frames_indices"] for frames in request.videos]
    assert all(indices == list(range(len(indices))) for indices in times)


def test_seeds_depend_on_the_question_alone() -> None:
    """Asked in another batch, with more samples, a question has the same seed and the same id."""
    (alone,) = answered(Engine(), kept_video())
    _, beside = answered(Engine(), kept_video(video_id="w"), kept_video(), clean_samples=2)
    first = {answer.answer_id: answer.seed for answer in kept(alone).answers}
    second = {answer.answer_id: answer.seed for answer in kept(beside).answers}
    assert first.items() < second.items()
    assert len(second) == len(first) + 1


def test_a_refused_request_fails_its_video_alone() -> None:
    specs = len(answer_specs(kept_video(), RespondConfig(model="m"), 5))
    engine = Engine(1, 8 + 2)
    by_caption, by_answer = answered(engine, kept_video(video_id="a"), kept_video(video_id="b"))
    assert engine.calls == [8, specs]  # nothing more is asked about a video that failed
    assert isinstance(by_caption, VideoAnswers)
    assert isinstance(by_answer, VideoAnswers)
    for row, message in ((by_caption, "request 1 is"), (by_answer, "request 10 is")):
        assert (row.status, row.reason, row.failed_at) == (
            "failed",
            "refused by the engine",
            "respond",
        )
        assert row.message is not None
        assert message in row.message
        assert row.answers == ()


def test_rows_that_are_not_kept_pass_through_in_order() -> None:
    dropped = kept_video(video_id="dropped", status="dropped", reason="too few clips (3 < 4)")
    transient = TransientFailure("t", "t.mp4", "respond", "OSError: no")

    def read_one(rows: Sequence[VideoAnswers]) -> tuple[list[VideoOutcome], dict[str, KeyFrames]]:
        outcomes, frames = read(rows)
        return [transient if row.video_id == "t" else row for row in outcomes], frames

    answer = Answerer(Engine(), read_one, SHAPEWORLD, RespondConfig(model="m"), 5)
    rows = answer([dropped, kept_video(video_id="t"), kept_video()])
    assert rows[:2] == [dropped, transient]
    assert kept(rows[2]).answers
