"""Kept videos -> clip captions, then clean and perturbed answers, by one engine with all requests in flight together."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from tempo_ray.config import DecodeConfig, RespondConfig
from tempo_ray.data import perturb
from tempo_ray.data.decode import frames_of
from tempo_ray.data.isolate import Crashed, Isolated, Limits, TookTooLong
from tempo_ray.data.prompts import Part, PromptSet, Show, read_caption
from tempo_ray.data.select import PASSING
from tempo_ray.models.engine import Completion, Engine, Refused, Request
from tempo_ray.models.frames import Frames, UnreadableVideo
from tempo_ray.retry import Passing, patiently

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tempo_ray/answer")

Row = dict[str, Any]
KeyFrames = dict[int, np.ndarray]


def request_seed(*key: object) -> int:
    """A sampling seed that depends on the key alone: a video answered again gets the same texts from the same engine."""
    return (
        int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:4], "little")
        & 0x7FFFFFFF
    )


class KeyFrameReader:
    """Rows of schema.ANSWERS -> the key frames of the kept ones; where they cannot be read, the row becomes a failed one.

    Files are decoded in processes of their own, one for each whole CPU of the actor: a codec that crashes must not take an
    engine with it.
    """

    def __init__(self, config: RespondConfig, limits: DecodeConfig) -> None:
        self._max_pixels = config.key_frame_pixels
        self._attempts = limits.attempts
        count = max(1, int(config.pool.cpus))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="key frames")
        self._idle: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(count):
            self._idle.put(Isolated(Limits(limits.timeout_s, limits.memory_bytes)))

    def __call__(self, rows: Sequence[Row]) -> dict[str, KeyFrames]:
        kept = [row for row in rows if row["status"] == "kept"]
        read = self._pool.map(self._one, kept)
        return {
            row["video_id"]: frames
            for row, frames in zip(kept, read, strict=True)
            if frames is not None
        }

    def _one(self, row: Row) -> KeyFrames | None:
        indices = [index for clip in row["clips"] for index in clip["key_frames"]]
        given = (row["uri"], row["decoder"], indices, self._max_pixels)
        apart = self._idle.get()
        try:
            return patiently(lambda: apart(frames_of, given), self._attempts, Crashed, OSError)
        except UnreadableVideo as error:
            fail(row, "undecodable", str(error))
        except Crashed as error:
            fail(row, "decoder crashed", str(error))
        except TookTooLong as error:
            fail(row, "decoder too slow", str(error))
        except Passing as error:
            fail(row, PASSING, str(error))
        except Exception as error:  # noqa: BLE001, of libraries fed with strangers' files; one file must not end the job
            fail(row, "not understood", f"{type(error).__name__}: {error}")
        finally:
            self._idle.put(apart)
        return None


def refuse(row: Row, error: Refused) -> None:
    """A prompt of this video is more than the model takes: raise respond.engine.max_model_len, or keep fewer clips a video."""
    fail(row, "refused by the engine", str(error))


def fail(row: Row, reason: str, message: str) -> None:
    row.update(status="failed", reason=reason, failed_at="respond", message=message, answers=[])


def _indices(row: Row, clips: Sequence[int]) -> list[int]:
    return [index for clip in clips for index in row["clips"][clip]["key_frames"]]


def shown(row: Row, key_frames: KeyFrames, clips: Sequence[int], fps: float) -> Frames:
    """The key frames of those clips as one video; its times are those of the order presented, so that none leaks."""
    return Frames.presented(np.stack([key_frames[index] for index in _indices(row, clips)]), fps)


def media_id(row: Row, clips: Sequence[int], fps: float) -> str:
    """The name of what `shown` gives: the same clip is the same medium in every order that contains it."""
    return f"{row['video_id']}/{fps:g}/" + ",".join(map(str, _indices(row, clips)))


def make_request(
    row: Row, key_frames: KeyFrames, parts: Sequence[Part], fps: float, max_tokens: int, seed: int
) -> Request:
    shows = [part.clips for part in parts if isinstance(part, Show)]
    return Request(
        parts=tuple(part if isinstance(part, str) else None for part in parts),
        videos=tuple(shown(row, key_frames, clips, fps) for clips in shows),
        max_tokens=max_tokens,
        seed=seed,
        video_ids=tuple(media_id(row, clips, fps) for clips in shows),
    )


def whole_parts(
    row: Row, order: Sequence[int], config: RespondConfig, prompts: PromptSet, paraphrase: int
) -> list[Part]:
    """What stands for the video, its clips in `order`: clean and perturbed answers differ in this argument alone."""
    if config.form == "caption":
        return prompts.whole_by_caption([row["clips"][clip]["caption"] for clip in order])
    if config.form == "clip":
        return prompts.whole_by_clip(order)
    return prompts.whole_by_video(order, paraphrase)


@dataclass(frozen=True)
class Wanted:
    """An answer that is to be written: which perturbation of the clips, and which sample of it."""

    perturbation: str
    strength: int | None
    order: perturb.Order
    sample: int = 0


def wanted_of(row: Row, config: RespondConfig, seed: int) -> list[Wanted]:
    """Every answer wanted for a video; the clean ones first."""
    n = len(row["clips"])
    draw = perturb.distinct if config.levels == "distinct" else perturb.reference
    perturbed = draw(n, config.types, config.strengths, seed, row["video_id"])
    clean = [
        Wanted("clean", None, tuple(range(n)), sample) for sample in range(config.clean_samples)
    ]
    return [*clean, *(Wanted(one.type, one.strength, one.order) for one in perturbed)]


def parts_text(parts: Sequence[Part]) -> str:
    """A message as one text; a video stands as the clips it shows."""
    return "\n".join(
        part if isinstance(part, str) else f"<video: clips {list(part.clips)}>" for part in parts
    )


class Answerer:
    """Rows of schema.ANSWERS in, the same rows out: those kept have captions and answers now."""

    def __init__(
        self,
        generate: Callable[[Sequence[Request]], Sequence[Completion | Refused]],
        read: Callable[[Sequence[Row]], dict[str, KeyFrames]],
        prompts: PromptSet,
        config: RespondConfig,
        seed: int,
    ) -> None:
        self._generate = generate
        self._read = read
        self._prompts = prompts
        self._config = config
        self._seed = seed

    def __call__(self, rows: Sequence[Row]) -> None:
        frames = self._read(rows)
        self._caption([row for row in rows if row["status"] == "kept"], frames)
        self._answer([row for row in rows if row["status"] == "kept"], frames)

    def _caption(self, rows: Sequence[Row], frames: dict[str, KeyFrames]) -> None:
        """Difference captions: each clip but the first is shown beside the one before it."""
        clips = [(row, clip) for row in rows for clip in range(len(row["clips"]))]
        requests = []
        for row, clip in clips:
            parts = (
                self._prompts.caption_next_clip(clip - 1, clip)
                if clip
                else self._prompts.caption_first_clip(0)
            )
            seed = request_seed(self._seed, row["video_id"], "caption", clip)
            requests.append(
                self._request(row, frames, parts, self._config.sampling.caption_tokens, seed)
            )
        for (row, clip), done in zip(clips, self._generate(requests), strict=True):
            if isinstance(done, Refused):
                refuse(row, done)
            else:
                row["clips"][clip].update(
                    caption=read_caption(done.text),
                    caption_finish_reason=done.finish_reason,
                    caption_tokens=done.completion_tokens,
                )

    def _answer(self, rows: Sequence[Row], frames: dict[str, KeyFrames]) -> None:
        asked = []
        for row in rows:
            row["answers"] = []
            paraphrase = request_seed(self._seed, row["video_id"], "paraphrase")
            for wanted in wanted_of(row, self._config, self._seed):
                parts = whole_parts(row, wanted.order, self._config, self._prompts, paraphrase)
                key = (
                    wanted.perturbation,
                    wanted.strength,
                    *([wanted.sample] if wanted.sample else []),
                )
                seed = request_seed(self._seed, row["video_id"], self._config.form, *key)
                request = self._request(
                    row, frames, parts, self._config.sampling.answer_tokens, seed
                )
                asked.append((row, wanted, parts, request))
        answers = self._generate([one[-1] for one in asked])
        for (row, wanted, parts, request), done in zip(asked, answers, strict=True):
            if isinstance(done, Refused):
                refuse(row, done)
            elif row["status"] == "kept":
                row["answers"].append(self._row(row, wanted, parts, request.seed, done))

    def _row(
        self, row: Row, wanted: Wanted, parts: Sequence[Part], seed: int, done: Completion
    ) -> Row:
        """schema.ANSWER"""
        form = self._config.form
        key = f"{row['video_id']}/{form}/{wanted.perturbation}/{wanted.strength}/{wanted.order}/{seed}/{row['model_hash']}"
        return {
            "answer_id": str(uuid.uuid5(_NAMESPACE, key)),
            "form": form,
            "perturbation": wanted.perturbation,
            "strength": wanted.strength,
            "sample": wanted.sample,
            "order": list(wanted.order),
            "order_distance": perturb.order_distance(wanted.order),
            "kept_share": len(wanted.order) / len(row["clips"]),
            "prompt": parts_text(parts),
            "text": done.text,
            "seed": seed,
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "finish_reason": done.finish_reason,
        }

    def _request(
        self,
        row: Row,
        frames: dict[str, KeyFrames],
        parts: Sequence[Part],
        max_tokens: int,
        seed: int,
    ) -> Request:
        return make_request(
            row, frames[row["video_id"]], parts, self._config.frames.fps, max_tokens, seed
        )


def make_engine(config: RespondConfig, threads: int) -> Engine:
    return Engine(config.model, config.engine, config.sampling, threads)
