"""Stories -> words: captions, and questions with exact answers.

Questions take the forms of the field's benchmarks: multiple choice, yes or no, and caption matching
as in TempCompass; captions of the same words in another order as in Vinoground. The wrong options
differ from the right one only in what the question is about, so that a model that cannot see it
scores at chance.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from tempo_ray.shapeworld.story import COLORS, DIRECTIONS, SHAPES, SPEEDS, Event, Story

Needs = Literal["order", "motion", "none"]
"""What a model must see to answer: the order of events, the motion within a shot, or neither."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Question:
    kind: str
    needs: Needs
    text: str
    """The question as it is asked, with its options."""
    options: tuple[str, ...]
    answer: str
    """One of the options."""

    @property
    def chance(self) -> float:
        return 1 / len(self.options)


Ask = Callable[[Sequence[Event], np.random.Generator], Question | None]
"""Events -> a question about them; None if they allow no question of this kind."""


def caption_event(event: Event) -> str:
    return f"{event.text()}."


def caption(events: Sequence[Event], phrasing: int) -> str:
    """The events in the order given, in one of three phrasings."""
    texts = [event.text() for event in events]
    if len(texts) == 1:
        return f"{texts[0]}."
    first, *middle, last = texts
    if phrasing % 3 == 0:
        return f"First {first}, " + _joined("then {}, ", middle) + f"finally {last}."
    if phrasing % 3 == 1:
        return f"It begins when {first}. " + _joined("Next {}. ", middle) + f"It ends when {last}."
    return f"At the start {first}; " + _joined("after that {}; ", middle) + f"at the end {last}."


def _joined(phrase: str, texts: Iterable[str]) -> str:
    return "".join(phrase.format(text) for text in texts)


def _pick(rng: np.random.Generator, items: Sequence[Item], count: int) -> list[Item]:
    """Up to `count` different items, in random order."""
    return [items[index] for index in rng.permutation(len(items))[:count]]


def _choice(
    kind: str, needs: Needs, text: str, answer: str, wrong: Sequence[str], rng: np.random.Generator
) -> Question:
    """A multiple-choice question with its options in random order."""
    options = tuple(_pick(rng, [answer, *wrong], len(wrong) + 1))
    lettered = zip("ABCDEFGH", options, strict=False)
    lines = "".join(f"\n{letter}. {option}" for letter, option in lettered)
    return Question(kind, needs, text + lines, options, answer)


def _distractors(
    events: Sequence[Event], excluded: Sequence[int], rng: np.random.Generator
) -> list[str]:
    """Up to three events of the same video, but those at the excluded places."""
    texts = [event.text() for index, event in enumerate(events) if index not in excluded]
    return _pick(rng, texts, 3)


def ask_first(events: Sequence[Event], rng: np.random.Generator) -> Question:
    wrong = _distractors(events, [0], rng)
    return _choice("first", "order", "What happens first?", events[0].text(), wrong, rng)


def ask_last(events: Sequence[Event], rng: np.random.Generator) -> Question:
    last = len(events) - 1
    wrong = _distractors(events, [last], rng)
    return _choice("last", "order", "What happens last?", events[last].text(), wrong, rng)


def ask_after(events: Sequence[Event], rng: np.random.Generator) -> Question:
    index = int(rng.integers(len(events) - 1))
    text = f"What happens right after {events[index].text()}?"
    wrong = _distractors(events, [index, index + 1], rng)
    return _choice("after", "order", text, events[index + 1].text(), wrong, rng)


def ask_before(events: Sequence[Event], rng: np.random.Generator) -> Question:
    index = int(rng.integers(1, len(events)))
    text = f"What happens right before {events[index].text()}?"
    wrong = _distractors(events, [index, index - 1], rng)
    return _choice("before", "order", text, events[index - 1].text(), wrong, rng)


def ask_yes_no(events: Sequence[Event], rng: np.random.Generator) -> Question:
    early, late = sorted(_pick(rng, range(len(events)), 2))
    yes = bool(rng.integers(2))
    before, after = (early, late) if yes else (late, early)
    text = f"Is it true that {events[before].text()} before {events[after].text()}?"
    answer = "yes" if yes else "no"
    return Question("yes_no", "order", f"{text} Answer yes or no.", ("yes", "no"), answer)


def ask_caption(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """Two captions of the same words: the story, and the story in another order."""
    phrasing = int(rng.integers(3))
    wrong = list(events)
    while wrong == list(events):
        wrong = _pick(rng, events, len(events)) if rng.integers(2) else list(events)[::-1]
    return ask_which_fits(caption(events, phrasing), caption(wrong, phrasing), rng)


def ask_which_fits(right: str, wrong: str, rng: np.random.Generator) -> Question:
    return _choice("caption", "order", "Which caption fits the video?", right, [wrong], rng)


def _unique(events: Sequence[Event], action: str) -> list[Event]:
    """The events of this action whose thing occurs only once."""
    things = [event.thing for event in events]
    return [event for event in events if event.action == action and things.count(event.thing) == 1]


def ask_direction(events: Sequence[Event], rng: np.random.Generator) -> Question | None:
    moves = _unique(events, "moves")
    if not moves:
        return None
    event = _pick(rng, moves, 1)[0]
    wrong = [name for name in DIRECTIONS if name != event.detail]
    text = f"Which way does the {event.thing} move?"
    return _choice("direction", "motion", text, event.detail, wrong, rng)


def ask_speed(events: Sequence[Event], rng: np.random.Generator) -> Question | None:
    moves = _unique(events, "moves")
    if not moves:
        return None
    event = _pick(rng, moves, 1)[0]
    wrong = [name for name in SPEEDS if name != event.speed]
    return _choice("speed", "motion", f"How does the {event.thing} move?", event.speed, wrong, rng)


def ask_change(events: Sequence[Event], rng: np.random.Generator) -> Question | None:
    turns = _unique(events, "turns")
    if not turns:
        return None
    event = _pick(rng, turns, 1)[0]
    wrong = _pick(rng, [name for name in COLORS if name not in (event.color, event.detail)], 3)
    text = f"What does the {event.thing} turn?"
    return _choice("change", "motion", text, event.detail, wrong, rng)


def ask_presence(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """Which thing is in the video at all: the only question that one frame can answer."""
    present = {event.thing for event in events}
    things = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    absent = [thing for thing in things if thing not in present]
    answer = _pick(rng, sorted(present), 1)[0]
    wrong = _pick(rng, absent, 3)
    return _choice("presence", "none", "Which of these is in the video?", answer, wrong, rng)


def ask_count(events: Sequence[Event], rng: np.random.Generator) -> Question:
    """How many events there are."""
    low = max(1, len(events) - int(rng.integers(4)))
    wrong = [str(number) for number in range(low, low + 4) if number != len(events)]
    return _choice("count", "none", "How many things happen?", str(len(events)), wrong, rng)


ABOUT_ORDER: tuple[Ask, ...] = (
    ask_first,
    ask_last,
    ask_after,
    ask_before,
    ask_yes_no,
    ask_caption,
)
NOT_ABOUT_ORDER: tuple[Ask, ...] = (
    ask_direction,
    ask_speed,
    ask_change,
    ask_presence,
    ask_count,
)


def ask(story: Story, rng: np.random.Generator, count: int, order_share: float) -> list[Question]:
    """`count` different questions about a story of two shots or more; each is about order with
    probability `order_share`."""
    questions: list[Question] = []
    while len(questions) < count:
        kinds = ABOUT_ORDER if rng.random() < order_share else NOT_ABOUT_ORDER
        question = kinds[int(rng.integers(len(kinds)))](story.events, rng)
        texts = {known.text for known in questions}
        if question is not None and question.text not in texts:
            questions.append(question)
    return questions
