"""A kept video -> the questions about it: prompts, the frames shown, and sampling seeds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tempo_ray.config import RespondConfig
from tempo_ray.data import perturb
from tempo_ray.data.key_frames import KeyFrames
from tempo_ray.data.prompts import Part, PromptSet, Show
from tempo_ray.models.engine import Request
from tempo_ray.models.frames import Frames
from tempo_ray.records import Clip, PerturbationName, VideoAnswers


def request_seed(*key: object) -> int:
    """A sampling seed that depends on the key alone: a video that is answered again gets the same
    texts from the same engine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def _key_frame_indices(row: VideoAnswers, clips: Sequence[int]) -> list[int]:
    return [index for clip in clips for index in row.clips[clip].key_frames]


def shown_frames(
    row: VideoAnswers, key_frames: KeyFrames, clips: Sequence[int], fps: float
) -> Frames:
    """The key frames of those clips as one video of `fps` frames per second. Its timestamps are
    those of the order shown, so that they give nothing away."""
    pixels = [key_frames[index] for index in _key_frame_indices(row, clips)]
    return Frames.presented(np.stack(pixels), fps)


def media_id(row: VideoAnswers, clips: Sequence[int], fps: float) -> str:
    """The engine's cache key for `shown_frames`: a clip has the same one in every order that
    contains it."""
    indices = ",".join(map(str, _key_frame_indices(row, clips)))
    return f"{row.video_id}/{fps:g}/{indices}"


def make_request(
    row: VideoAnswers,
    key_frames: KeyFrames,
    parts: Sequence[Part],
    fps: float,
    max_tokens: int,
    seed: int,
) -> Request:
    """`key_frames` are (height, width, 3) uint8 RGB; `fps` is that of the videos shown."""
    videos = [part.clips for part in parts if isinstance(part, Show)]
    return Request(
        parts=tuple(part if isinstance(part, str) else None for part in parts),
        videos=tuple(shown_frames(row, key_frames, clips, fps) for clips in videos),
        max_tokens=max_tokens,
        seed=seed,
        video_ids=tuple(media_id(row, clips, fps) for clips in videos),
    )


def whole_parts(
    row: VideoAnswers,
    order: Sequence[int],
    config: RespondConfig,
    prompts: PromptSet,
    paraphrase: int,
) -> list[Part]:
    """The prompt for the whole video, its clips in `order`: clean and perturbed answers differ in
    this argument alone."""
    if config.form == "caption":
        return prompts.whole_by_caption([_caption_of(row.clips[clip]) for clip in order])
    if config.form == "clip":
        return prompts.whole_by_clip(order)
    return prompts.whole_by_video(order, paraphrase)


def _caption_of(clip: Clip) -> str:
    assert clip.caption is not None, "clips are captioned before the whole video is asked about"
    return clip.caption


def parts_text(parts: Sequence[Part]) -> str:
    """A message as one text, with each video as the clips it shows."""
    return "\n".join(
        part if isinstance(part, str) else f"<video: clips {list(part.clips)}>" for part in parts
    )


@dataclass(frozen=True)
class AnswerSpec:
    """An answer to ask for: the order in which the clips are shown, and which sample of it."""

    perturbation: PerturbationName
    strength: int | None
    order: perturb.Order
    sample: int = 0

    def seed(self, seed: int, video_id: str, form: str) -> int:
        # the first sample's key has no number: it is the key of runs with one sample
        sample = [self.sample] if self.sample else []
        return request_seed(seed, video_id, form, self.perturbation, self.strength, *sample)


def answer_specs(row: VideoAnswers, config: RespondConfig, seed: int) -> list[AnswerSpec]:
    """Every answer to ask for about a video, the clean ones first."""
    n = len(row.clips)
    draw = perturb.distinct if config.levels == "distinct" else perturb.published
    clean_order = tuple(range(n))
    clean = [AnswerSpec("clean", None, clean_order, i) for i in range(config.clean_samples)]
    perturbed = [
        AnswerSpec(drawn.type, drawn.strength, drawn.order)
        for drawn in draw(n, config.types, config.strengths, seed, row.video_id)
    ]
    return [*clean, *perturbed]
