"""Kept videos -> clip captions, then clean and perturbed answers, by one engine that has all
requests in flight together."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from tempo_ray.config import RespondConfig
from tempo_ray.data.failures import VideoOutcome, failed, failure_of
from tempo_ray.data.key_frames import KeyFrames
from tempo_ray.data.perturb import order_distance
from tempo_ray.data.prompts import Part, PromptSet, read_caption
from tempo_ray.data.questions import (
    AnswerSpec,
    answer_specs,
    make_request,
    parts_text,
    request_seed,
    whole_parts,
)
from tempo_ray.models.engine import Completion, Engine, Refused, Request
from tempo_ray.records import Answer, Clip, VideoAnswers

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/answer")

Generate = Callable[[Sequence[Request]], Sequence[Completion | Refused]]
ReadKeyFrames = Callable[[Sequence[VideoAnswers]], tuple[list[VideoOutcome], dict[str, KeyFrames]]]


@dataclass(frozen=True)
class Question:
    """An answer to ask for, and the request that asks."""

    spec: AnswerSpec
    parts: list[Part]
    request: Request


def make_answer(row: VideoAnswers, question: Question, form: str, completion: Completion) -> Answer:
    spec, seed = question.spec, question.request.seed
    key = (
        f"{row.video_id}/{form}/{spec.perturbation}/{spec.strength}/{spec.order}/{seed}/"
        f"{row.model_hash}"
    )
    return Answer(
        answer_id=str(uuid.uuid5(_NAMESPACE, key)),
        form=form,
        perturbation=spec.perturbation,
        strength=spec.strength,
        sample=spec.sample,
        order=spec.order,
        order_distance=order_distance(spec.order),
        kept_share=len(spec.order) / len(row.clips),
        prompt=parts_text(question.parts),
        text=completion.text,
        seed=seed,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        finish_reason=completion.finish_reason,
    )


def _captioned(clip: Clip, completion: Completion | Refused) -> Clip:
    if isinstance(completion, Refused):
        return clip
    return replace(
        clip,
        caption=read_caption(completion.text),
        caption_finish_reason=completion.finish_reason,
        caption_tokens=completion.completion_tokens,
    )


def _kept(rows: Sequence[VideoOutcome]) -> list[VideoAnswers]:
    return [row for row in rows if isinstance(row, VideoAnswers) and row.status == "kept"]


def _failed_if_refused(
    row: VideoAnswers, completions: Sequence[Completion | Refused]
) -> VideoAnswers:
    refusals = [completion for completion in completions if isinstance(completion, Refused)]
    return failed(row, failure_of(refusals[-1], "respond")) if refusals else row


class Answerer:
    """Rows -> the same rows in the same order; the kept ones now have captions and answers.

    May be called from several threads at a time.
    """

    def __init__(
        self,
        generate: Generate,
        read: ReadKeyFrames,
        prompts: PromptSet,
        config: RespondConfig,
        seed: int,
    ) -> None:
        self._generate = generate
        self._read = read
        self._prompts = prompts
        self._config = config
        self._seed = seed

    def __call__(self, rows: Sequence[VideoAnswers]) -> list[VideoOutcome]:
        """Raises EngineDied, as `generate` does."""
        outcomes, key_frames = self._read(rows)
        captioned = self._caption(_kept(outcomes), key_frames)
        answered = self._answer(_kept(captioned), key_frames)
        latest = {row.video_id: row for row in [*captioned, *answered]}
        return [latest.get(row.video_id, row) for row in outcomes]

    def _caption(
        self, rows: Sequence[VideoAnswers], key_frames: dict[str, KeyFrames]
    ) -> list[VideoAnswers]:
        """Difference captions: every clip but the first is shown after the one before it."""
        requests = [self._caption_requests(row, key_frames[row.video_id]) for row in rows]
        captioned = []
        for row, completions in zip(rows, self._generate_by_row(requests), strict=True):
            clips = tuple(
                _captioned(clip, completion)
                for clip, completion in zip(row.clips, completions, strict=True)
            )
            captioned.append(_failed_if_refused(replace(row, clips=clips), completions))
        return captioned

    def _caption_requests(self, row: VideoAnswers, key_frames: KeyFrames) -> list[Request]:
        requests = []
        for clip in range(len(row.clips)):
            parts = self._prompts.caption_first_clip(0)
            if clip:
                parts = self._prompts.caption_next_clip(clip - 1, clip)
            seed = request_seed(self._seed, row.video_id, "caption", clip)
            max_tokens = self._config.sampling.caption_tokens
            requests.append(self._request(row, key_frames, parts, max_tokens, seed))
        return requests

    def _answer(
        self, rows: Sequence[VideoAnswers], key_frames: dict[str, KeyFrames]
    ) -> list[VideoAnswers]:
        questions = [self._questions(row, key_frames[row.video_id]) for row in rows]
        by_row = self._generate_by_row(
            [[question.request for question in of_row] for of_row in questions]
        )
        return [
            self._answered(row, of_row, completions)
            for row, of_row, completions in zip(rows, questions, by_row, strict=True)
        ]

    def _questions(self, row: VideoAnswers, key_frames: KeyFrames) -> list[Question]:
        paraphrase = request_seed(self._seed, row.video_id, "paraphrase")
        max_tokens = self._config.sampling.answer_tokens
        questions = []
        for spec in answer_specs(row, self._config, self._seed):
            parts = whole_parts(row, spec.order, self._config, self._prompts, paraphrase)
            seed = spec.seed(self._seed, row.video_id, self._config.form)
            request = self._request(row, key_frames, parts, max_tokens, seed)
            questions.append(Question(spec, parts, request))
        return questions

    def _answered(
        self,
        row: VideoAnswers,
        questions: Sequence[Question],
        completions: Sequence[Completion | Refused],
    ) -> VideoAnswers:
        answers = tuple(
            make_answer(row, question, self._config.form, completion)
            for question, completion in zip(questions, completions, strict=True)
            if isinstance(completion, Completion)
        )
        return _failed_if_refused(replace(row, answers=answers), completions)

    def _request(
        self,
        row: VideoAnswers,
        key_frames: KeyFrames,
        parts: Sequence[Part],
        max_tokens: int,
        seed: int,
    ) -> Request:
        return make_request(row, key_frames, parts, self._config.frames.fps, max_tokens, seed)

    def _generate_by_row(
        self, requests: Sequence[Sequence[Request]]
    ) -> list[list[Completion | Refused]]:
        """One call for all rows, so that the engine has their requests together; the completions
        row by row."""
        completions = iter(self._generate(list(chain.from_iterable(requests))))
        return [list(islice(completions, len(of_row))) for of_row in requests]


def make_engine(config: RespondConfig, threads: int) -> Engine:
    return Engine(config.model, config.engine, config.sampling, threads)
