"""Stories -> words: captions, and questions with exact answers.

Questions take the forms of the field's benchmarks (TempCompass: multiple choice, yes/no, caption matching; Vinoground:
captions of the same words in another order). The wrong options of a question differ from the right one only in what the
question is about, so that a model blind to it scores at chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tempo_ray.shapeworld.story import COLORS, DIRECTIONS, SHAPES, SPEEDS, Event, Story

Needs = Literal["order", "motion", "none"]
"""What a question cannot be answered without: the order of events, the motion inside one shot, or neither."""


@dataclass(frozen=True)
class Question:
    kind: str
    needs: Needs
    text: str  # as asked, options included
    options: tuple[str, ...]
    answer: str  # one of the options

    @property
    def chance(self) -> float:
        return 1 / len(self.options)


def caption_event(event: Event) -> str:
    return f"{event.text()}."


def caption(events: Sequence[Event], phrasing: int) -> str:
    """The whole story in one of three phrasings, in the order given."""
    told = [event.text() for event in events]
    if len(told) == 1:
        return f"{told[0]}."
    first, *middle, last = told
    if phrasing % 3 == 0:
        return f"First {first}, " + "".join(f"then {one}, " for one in middle) + f"finally {last}."
    if phrasing % 3 == 1:
        return (
            f"It begins when {first}. "
            + "".join(f"Next {one}. " for one in middle)
            + f"It ends when {last}."
        )
    return (
        f"At the start {first}; "
        + "".join(f"after that {one}; " for one in middle)
        + f"at the end {last}."
    )


def _pick(rng: np.random.Generator, items: Sequence, count: int) -> list:
    return [items[index] for index in rng.permutation(len(items))[:count]]


def _choice(
    kind: str, needs: Needs, text: str, answer: str, wrong: Sequence[str], rng: np.random.Generator
) -> Question:
    options = tuple(_pick(rng, [answer, *wrong], len(wrong) + 1))
    lines = "".join(
        f"\n{letter}. {option}" for letter, option in zip("ABCDEFGH", options, strict=False)
    )
    return Question(kind, needs, text + lines, options, answer)


def _others(
    events: Sequence[Event], answer: int, banned: Sequence[int], rng: np.random.Generator
) -> list[str]:
    """Up to three other events of the same video."""
    rest = [
        event.text()
        for index, event in enumerate(events)
        if index != answer and index not in banned
    ]
    return _pick(rng, rest, 3)


def ask_first(events: Sequence[Event], rng: np.random.Generator) -> Question:
    return _choice(
        "first", "order", "What happens first?", events[0].text(), _others(events, 0, (), rng), rng
    )


def ask_last(events: Sequence[Event], rng: np.random.Generator) -> Question:
    last = len(events) - 1
    return _choice(
        "last",
        "order",
        "What happens last?",
        events[last].text(),
        _others(events, last, (), rng),
        rng,
    )


def ask_after(events: Sequence[Event], rng: np.random.Generator) -> Question:
    index = int(rng.integers(len(events) - 1))
    text = f"What happens right after {events[index].text()}?"
    return _choice(
        "after",
        "order",
        text,
        events[index + 1].text(),
        _others(events, index + 1, (index,), rng),
        rng,
    )


def ask_before(events: Sequence[Event], rng: np.random.Generator) -> Question:
    index = int(rng.integers(1, len(events)))
    text = f"What happens right before {events[index].text()}?"
    return _choice(
        "before",
        "order",
        text,
        events[index - 1].text(),
        _others(events, index - 1, (index,), rng),
        rng,
    )


def ask_yes_no(events: Sequence[Event], rng: np.random.Generator) -> Question:
    early, late = sorted(_pick(rng, range(len(events)), 2))
    yes = bool(rng.integers(2))
    one, other = (early, late) if yes else (late, early)
    text = f"Is it true that {events[one].text()} before {events[other].text()}?"
    return Question(
        "yes_no", "order", f"{text} Answer yes or no.", ("yes", "no"), "yes" if yes else "no"
    )


def ask_caption(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """Two captions of the same words: the story, and the story with its order changed."""
    phrasing = int(rng.integers(3))
    wrong = list(events)
    while wrong == list(events):
        wrong = _pick(rng, events, len(events)) if rng.integers(2) else list(events)[::-1]
    return ask_which_fits(caption(events, phrasing), caption(wrong, phrasing), rng)


def ask_which_fits(right: str, wrong: str, rng: np.random.Generator) -> Question:
    return _choice("caption", "order", "Which caption fits the video?", right, [wrong], rng)


def _unique(events: Sequence[Event], action: str) -> list[Event]:
    things = [event.thing for event in events]
    return [event for event in events if event.action == action and things.count(event.thing) == 1]


def ask_direction(events: Sequence[Event], rng: np.random.Generator) -> Question | None:
    movers = _unique(events, "moves")
    if not movers:
        return None
    event = _pick(rng, movers, 1)[0]
    wrong = [name for name in DIRECTIONS if name != event.detail]
    return _choice(
        "direction", "motion", f"Which way does the {event.thing} move?", event.detail, wrong, rng
    )


def ask_speed(events: Sequence[Event], rng: np.random.Generator) -> Question | None:
    movers = _unique(events, "moves")
    if not movers:
        return None
    event = _pick(rng, movers, 1)[0]
    wrong = [name for name in SPEEDS if name != event.speed]
    return _choice("speed", "motion", f"How does the {event.thing} move?", event.speed, wrong, rng)


def ask_change(events: Sequence[Event], rng: np.random.Generator) -> Question | None:
    turners = _unique(events, "turns")
    if not turners:
        return None
    event = _pick(rng, turners, 1)[0]
    wrong = _pick(rng, [name for name in COLORS if name not in (event.color, event.detail)], 3)
    return _choice(
        "change", "motion", f"What does the {event.thing} turn?", event.detail, wrong, rng
    )


def ask_presence(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """Which thing is in the video at all; the only question that one frame can answer."""
    seen = {event.thing for event in events}
    absent = [
        thing for color in COLORS for shape in SHAPES if (thing := f"{color} {shape}") not in seen
    ]
    there = _pick(rng, sorted(seen), 1)[0]
    return _choice(
        "presence", "none", "Which of these is in the video?", there, _pick(rng, absent, 3), rng
    )


def ask_count(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """How many events there are."""
    low = max(1, len(events) - int(rng.integers(4)))
    wrong = [str(number) for number in range(low, low + 4) if number != len(events)]
    return _choice("count", "none", "How many things happen?", str(len(events)), wrong, rng)


ORDER: tuple[Callable, ...] = (ask_first, ask_last, ask_after, ask_before, ask_yes_no, ask_caption)
OTHER: tuple[Callable, ...] = (ask_direction, ask_speed, ask_change, ask_presence, ask_count)


def ask(story: Story, rng: np.random.Generator, count: int, order_share: float) -> list[Question]:
    """`count` different questions about a story of two shots or more; each is about order with chance `order_share`."""
    questions: list[Question] = []
    while len(questions) < count:
        makers = ORDER if rng.random() < order_share else OTHER
        question = makers[int(rng.integers(len(makers)))](story.events, rng)
        if question is not None and question.text not in {other.text for other in questions}:
            questions.append(question)
    return questions
