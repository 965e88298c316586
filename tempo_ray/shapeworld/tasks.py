"""A random generator -> an exchange that a tiny model learns from: message, videos, answer.

One method of `Tasks` per task, and `MIX`, their shares. Only `from_video` ties whole videos to the
order of their events, and only weakly: `shuffled_share` of its captions tell them in random order,
as captions in real pre-training data often do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo_ray.config import FramesConfig
from tempo_ray.data.prompts import SHAPEWORLD, Part, Show
from tempo_ray.models.frames import Frames, FramesMetadata, sample_indices
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.render import cut_frames, draw_frame, frame_at
from tempo_ray.shapeworld.story import Shot, Split, Story, draw_split

FPS, SIDE = 24, 64
"""Frames per second and pixels per side of the videos."""

MIX = {
    "first_clip": 0.05,
    "next_clip": 0.06,
    "from_captions": 0.09,
    "from_clips": 0.09,
    "from_video": 0.17,
    "text_question": 0.16,
    "clips_question": 0.12,
    "video_question": 0.12,
    "content_question": 0.14,
}
"""A task -> its share of the examples once the steps of single shots are over."""


@dataclass(frozen=True)
class Example:
    """An exchange: message parts with None for each video, the videos in that order, the answer."""

    parts: tuple[str | None, ...]
    videos: tuple[Frames, ...]
    answer: str


def _encoded_like(frame: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Roughly what a codec does to a frame: chroma at half resolution, and a little noise."""
    yuv = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
    decoded = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB_I420).astype(np.int16)
    noise = rng.normal(0, rng.uniform(0, 4), decoded.shape)
    return np.clip(decoded + noise, 0, 255).astype(np.uint8)


def clip_frames(shot: Shot, rng: np.random.Generator) -> Frames:
    """Two key frames of a shot, at about a third and two thirds of its duration."""
    shares = np.clip(rng.normal((1 / 3, 2 / 3), 0.05), 0, 1)
    frames = [_encoded_like(draw_frame(shot, float(u), SIDE, SIDE), rng) for u in shares]
    return Frames.presented(np.stack(frames), 2.0)


def video_frames(story: Story, model_type: str, rng: np.random.Generator) -> Frames:
    """The whole video as the model's loader samples it."""
    total = cut_frames(story, FPS)[-1]
    indices = sample_indices(total, FPS, FramesConfig(), model_type)
    frames = [_encoded_like(frame_at(story, index, FPS, SIDE, SIDE), rng) for index in indices]
    presented = Frames.presented(np.stack(frames), FPS)
    metadata: FramesMetadata = {
        **presented.metadata,
        "total_num_frames": total,
        "frames_indices": indices,
        "duration": total / FPS,
    }
    return Frames(presented.pixels, metadata)


def _message(parts: Sequence[Part]) -> tuple[str | None, ...]:
    return tuple(part if isinstance(part, str) else None for part in parts)


def _shown_clips(
    parts: Sequence[Part], shots: Sequence[Shot], rng: np.random.Generator
) -> tuple[Frames, ...]:
    """The frames of the clips that a message shows one by one."""
    shown = [part for part in parts if isinstance(part, Show)]
    return tuple(clip_frames(shots[part.clips[0]], rng) for part in shown)


def random_story(rng: np.random.Generator, split: Split, low: int, high: int) -> Story:
    """A story of that split with `low` to `high` shots."""
    return draw_split(rng, split, int(rng.integers(low, high + 1)))


def _in_words(story: Story) -> str:
    """The events in order, numbered, one per line."""
    return "".join(
        f"{number}. {language.caption_event(event)}\n"
        for number, event in enumerate(story.events, 1)
    )


@dataclass(frozen=True)
class Tasks:
    """Draws examples for a model of that type, about stories of that split."""

    model_type: str
    split: Split
    shuffled_share: float

    def draw(self, rng: np.random.Generator, single_shots: bool) -> Example:
        """An example of pre-training; while `single_shots`, nearly always a caption of one."""
        if single_shots:
            return self.first_clip(rng) if rng.random() < 0.9 else self.from_captions(rng, 2)
        return TASKS[str(rng.choice(list(MIX), p=list(MIX.values())))](self, rng)

    def first_clip(self, rng: np.random.Generator) -> Example:
        shots = random_story(rng, self.split, 1, 1).shots
        parts = SHAPEWORLD.caption_first_clip(0)
        answer = f"Caption: {language.caption_event(shots[0].event)}"
        return Example(_message(parts), _shown_clips(parts, shots, rng), answer)

    def next_clip(self, rng: np.random.Generator) -> Example:
        shots = random_story(rng, self.split, 2, 2).shots
        parts = SHAPEWORLD.caption_next_clip(0, 1)
        event = shots[1].event
        answer = f"The {event.thing} is new. Caption: {language.caption_event(event)}"
        return Example(_message(parts), _shown_clips(parts, shots, rng), answer)

    def from_captions(self, rng: np.random.Generator, most: int = 7) -> Example:
        events = random_story(rng, self.split, 1, most).events
        parts = SHAPEWORLD.whole_by_caption([language.caption_event(event) for event in events])
        return Example(_message(parts), (), language.caption(events, int(rng.integers(3))))

    def from_clips(self, rng: np.random.Generator) -> Example:
        story = random_story(rng, self.split, 2, 6)
        parts = SHAPEWORLD.whole_by_clip(range(len(story.shots)))
        videos = _shown_clips(parts, story.shots, rng)
        answer = language.caption(story.events, int(rng.integers(3)))
        return Example(_message(parts), videos, answer)

    def from_video(self, rng: np.random.Generator) -> Example:
        story = random_story(rng, self.split, 2, 6)
        events = list(story.events)
        if rng.random() < self.shuffled_share:
            events = [events[index] for index in rng.permutation(len(events))]
        parts = SHAPEWORLD.whole_by_video(range(len(story.shots)), int(rng.integers(6)))
        videos = (video_frames(story, self.model_type, rng),)
        return Example(_message(parts), videos, language.caption(events, int(rng.integers(3))))

    def text_question(self, rng: np.random.Generator) -> Example:
        """A question about a story in words: a language model knows order before it sees video."""
        story = random_story(rng, self.split, 3, 6)
        question = language.ask(story, rng, 1, 0.7)[0]
        return self._asked_in_words(story, question)

    def clips_question(self, rng: np.random.Generator) -> Example:
        """A question about clips shown one by one, whose order is plain like that of sentences."""
        story = random_story(rng, self.split, 3, 6)
        question = language.ask(story, rng, 1, 0.7)[0]
        return self._asked_about_clips(story, question, rng)

    def video_question(self, rng: np.random.Generator) -> Example:
        """A question about a whole video, never about order: that is not taught."""
        story = random_story(rng, self.split, 2, 6)
        question = language.ask(story, rng, 1, 0.0)[0]
        return self._asked_about_video(story, question, rng)

    def content_question(self, rng: np.random.Generator) -> Example:
        """Which of two captions fits? The wrong one has an event that does not occur.

        Teaches finding and repeating the caption that fits, from words, clips or a whole video,
        and nothing about order: both captions are in random order.
        """
        story = random_story(rng, self.split, 2, 6)
        count = len(story.events)
        right = [story.events[index] for index in rng.permutation(count)]
        things = {event.thing for event in right}
        candidates = random_story(rng, self.split, count, count).events
        absent = [event for event in candidates if event.thing not in things]
        if not absent:
            return self.content_question(rng)
        wrong = list(right)
        wrong[int(rng.integers(count))] = absent[0]
        if rng.random() < 0.6:
            wrong = [wrong[index] for index in rng.permutation(count)]
        phrasing = int(rng.integers(3))
        question = language.ask_which_fits(
            language.caption(right, phrasing), language.caption(wrong, phrasing), rng
        )
        medium = rng.random()
        if medium < 0.25:
            return self._asked_in_words(story, question)
        if medium < 0.45:
            return self._asked_about_clips(story, question, rng)
        return self._asked_about_video(story, question, rng)

    def _asked_in_words(self, story: Story, question: language.Question) -> Example:
        return Example((_in_words(story) + question.text,), (), question.answer)

    def _asked_about_clips(
        self, story: Story, question: language.Question, rng: np.random.Generator
    ) -> Example:
        videos = tuple(clip_frames(shot, rng) for shot in story.shots)
        parts = (*(None for _ in videos), question.text)
        return Example(parts, videos, question.answer)

    def _asked_about_video(
        self, story: Story, question: language.Question, rng: np.random.Generator
    ) -> Example:
        videos = (video_frames(story, self.model_type, rng),)
        return Example((None, question.text), videos, question.answer)


TASKS: dict[str, Callable[[Tasks, np.random.Generator], Example]] = {
    "first_clip": Tasks.first_clip,
    "next_clip": Tasks.next_clip,
    "from_captions": Tasks.from_captions,
    "from_clips": Tasks.from_clips,
    "from_video": Tasks.from_video,
    "text_question": Tasks.text_question,
    "clips_question": Tasks.clips_question,
    "video_question": Tasks.video_question,
    "content_question": Tasks.content_question,
}
"""The tasks by their name in `MIX`."""
