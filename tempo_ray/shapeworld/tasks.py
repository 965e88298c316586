"""A random generator -> what a tiny model learns from: something shown, and exchanges about it.

A story is shown in words, as clips one by one, or as a whole video (`Medium`). The order of events
is asked for in words and in clips only. What ties whole videos to the order of their events is
their descriptions alone, and weakly: `shuffled_share` of them tell the events in random order, as
captions in real pre-training data often do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tempo_ray.config import FramesConfig
from tempo_ray.data.prompts import SHAPEWORLD, Part
from tempo_ray.models.frames import Frames, FramesMetadata, sample_indices
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.render import cut_frames, draw_frame, frame_at
from tempo_ray.shapeworld.story import Event, Shot, Split, Story, draw_split

FPS, SIDE = 24, 64
"""Frames per second and pixels per side of the videos."""

Medium = Literal["words", "clips", "video"]
Show = Literal["letters", "first_clip", "next_clip", "words", "clips", "video"]
"""What an example shows: nothing, a clip, two clips, or a story in one of the media."""

OPEN = "open "
"""Before the name of a kind: without options, answered by the event."""
NEIGHBOURS = {
    "first": 1.0,
    "last": 1.0,
    "after": 2.0,
    "before": 2.0,
    "yes_no": 2.0,
    "caption": 1.0,
    "open first": 1.0,
    "open last": 1.0,
    "open after": 2.0,
    "open before": 2.0,
    "retelling": 1.0,
}
"""Kinds of exchanges and their weights: the neighbours of an event are the hardest to find, and
answers in full teach to find them sooner than letters do."""
EVERYTHING = {
    **dict.fromkeys(language.ABOUT_ORDER, 1.0),
    **dict.fromkeys(language.NOT_ABOUT_ORDER, 1.0),
    "content": 1.0,
    "retelling": 1.5,
}
CONTENT = {**dict.fromkeys(language.NOT_ABOUT_ORDER, 1.0), "content": 1.0, "retelling": 3.0}
"""Nothing about order but a description, which is in random order more often than not."""

MIX: dict[Show, float] = {
    "first_clip": 0.05,
    "next_clip": 0.05,
    "words": 0.2,
    "clips": 0.3,
    "video": 0.4,
}
"""What is shown -> its share of the examples once the model has learned words and single shots."""


@dataclass(frozen=True)
class Exchange:
    """A question or request, and its answer."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Example:
    """What is shown, and exchanges that each begin with it: none sees another.

    `shown` is the beginning of the user's message, with None for each video; `videos` in that
    order.
    """

    shown: tuple[str | None, ...]
    videos: tuple[Frames, ...]
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Practice:
    """What is shown and asked in a phase of the training."""

    shows: Mapping[Show, float]
    """Shares of the examples."""
    in_words: Mapping[str, float]
    """Kinds of exchanges about stories in words -> their weights. Those about clips and whole
    videos are `EVERYTHING` and `CONTENT`."""
    longest: int
    """Stories have three events to as many."""

    def __post_init__(self) -> None:
        if self.longest < 3:
            raise ValueError("a story has three events or more")


LETTERS = Practice({"letters": 1.0}, NEIGHBOURS, 3)
SINGLE_SHOTS = Practice({"first_clip": 0.8, "words": 0.2}, EVERYTHING, 12)


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


def random_story(rng: np.random.Generator, split: Split, low: int, high: int) -> Story:
    """A story of that split with `low` to `high` shots."""
    return draw_split(rng, split, int(rng.integers(low, high + 1)))


def in_words(events: Sequence[Event]) -> str:
    """The events in order, numbered, one per line."""
    return "".join(
        f"{number}. {language.caption_event(event)}\n" for number, event in enumerate(events, 1)
    )


def _request(parts: Sequence[Part]) -> str:
    """The text at the end of a message."""
    assert isinstance(parts[-1], str)
    return parts[-1]


@dataclass(frozen=True)
class Tasks:
    """Draws examples for a model of that type, about stories of that split."""

    model_type: str
    split: Split
    shuffled_share: float
    exchanges: int = 8
    """About a story."""

    def draw(self, rng: np.random.Generator, practice: Practice) -> Example:
        """An example of that practice."""
        show: Show = _drawn(rng, practice.shows)
        if show == "letters":
            return self.letters(rng)
        if show == "first_clip":
            return self.first_clip(rng)
        if show == "next_clip":
            return self.next_clip(rng)
        kinds = {"words": practice.in_words, "clips": EVERYTHING, "video": CONTENT}[show]
        story = random_story(rng, self.split, 3, practice.longest)
        asked = [_drawn(rng, kinds) for _ in range(self.exchanges)]
        example = self.about(story, show, asked, rng)
        # a story may allow none of the kinds drawn
        return example if example.exchanges else self.draw(rng, practice)

    def letters(self, rng: np.random.Generator) -> Example:
        """Which option is named? Without a story."""
        questions = [
            language.ask_named(random_story(rng, self.split, 4, 4).events, rng)
            for _ in range(self.exchanges)
        ]
        return Example((), (), tuple(_exchange(question) for question in questions))

    def first_clip(self, rng: np.random.Generator) -> Example:
        shot = random_story(rng, self.split, 1, 1).shots[0]
        request = _request(SHAPEWORLD.caption_first_clip(0))
        answer = f"Caption: {language.caption_event(shot.event)}"
        exchange = Exchange("first_clip", request, answer)
        return Example((None,), (clip_frames(shot, rng),), (exchange,))

    def next_clip(self, rng: np.random.Generator) -> Example:
        shots = random_story(rng, self.split, 2, 2).shots
        request = _request(SHAPEWORLD.caption_next_clip(0, 1))
        event = shots[1].event
        answer = f"The {event.thing} is new. Caption: {language.caption_event(event)}"
        videos = tuple(clip_frames(shot, rng) for shot in shots)
        return Example((None, None), videos, (Exchange("next_clip", request, answer),))

    def about(
        self, story: Story, medium: Medium, kinds: Sequence[str], rng: np.random.Generator
    ) -> Example:
        """The story shown in that medium, and an exchange of each kind that it allows."""
        if medium == "words":
            shown: tuple[str | None, ...] = (in_words(story.events),)
            videos: tuple[Frames, ...] = ()
        elif medium == "clips":
            videos = tuple(clip_frames(shot, rng) for shot in story.shots)
            shown = (None,) * len(videos)
        else:
            videos = (video_frames(story, self.model_type, rng),)
            shown = (None,)
        exchanges = [self._exchange(story, medium, kind, rng) for kind in kinds]
        return Example(shown, videos, tuple(known for known in exchanges if known is not None))

    def _exchange(
        self, story: Story, medium: Medium, kind: str, rng: np.random.Generator
    ) -> Exchange | None:
        """None if the story allows none of that kind."""
        if kind == "retelling":
            return self._retelling(story, medium, rng)
        if kind == "content":
            return _content(story, self.split, rng)
        question = ASK[kind.removeprefix(OPEN)](story.events, rng)
        if question is None:
            return None
        if kind.startswith(OPEN):
            return Exchange(kind, question.text.split("\n")[0], question.answer)
        return _exchange(question)

    def _retelling(self, story: Story, medium: Medium, rng: np.random.Generator) -> Exchange:
        """The caption of the whole story, in order; of whole videos often not."""
        events = list(story.events)
        if medium == "words":
            request = SHAPEWORLD.whole_from_captions.format(captions="").lstrip()
        elif medium == "clips":
            request = SHAPEWORLD.whole_from_clips
        else:
            request = _request(SHAPEWORLD.whole_by_video((), int(rng.integers(6))))
            if rng.random() < self.shuffled_share:
                events = [events[index] for index in rng.permutation(len(events))]
        return Exchange("retelling", request, language.caption(events, int(rng.integers(3))))


ASK = language.ABOUT_ORDER | language.NOT_ABOUT_ORDER


def _drawn(rng: np.random.Generator, shares: Mapping[Any, float]) -> Any:
    """A key, in proportion to its share."""
    weights = np.fromiter(shares.values(), float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _exchange(question: language.Question) -> Exchange:
    return Exchange(question.kind, question.text, question.reply)


def _content(story: Story, split: Split, rng: np.random.Generator) -> Exchange | None:
    """Which of two captions fits? The wrong one has an event that does not occur.

    Teaches to find the caption that fits, and nothing about order: both are in random order.
    """
    count = len(story.events)
    right = [story.events[index] for index in rng.permutation(count)]
    things = {event.thing for event in right}
    candidates = random_story(rng, split, count, count).events
    absent = [event for event in candidates if event.thing not in things]
    if not absent:
        return None
    wrong = list(right)
    wrong[int(rng.integers(count))] = absent[0]
    if rng.random() < 0.6:
        wrong = [wrong[index] for index in rng.permutation(count)]
    phrasing = int(rng.integers(3))
    captions = language.caption(right, phrasing), language.caption(wrong, phrasing)
    return replace(_exchange(language.ask_which_fits(*captions, rng)), kind="content")
