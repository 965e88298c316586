"""Seeds -> stories: ordered events, each a shape that does one thing in front of one background.

Tested in tests/shapeworld/test_language.py.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "heldout", "test"]
Action = Literal["moves", "grows", "shrinks", "spins", "appears", "vanishes", "turns"]

COLORS = {
    "red": (225, 40, 40),
    "green": (50, 200, 60),
    "blue": (60, 90, 245),
    "yellow": (240, 225, 50),
    "purple": (165, 60, 200),
    "orange": (250, 140, 30),
    "white": (245, 245, 245),
}
"""Name -> RGB."""
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slowly": 0.18, "quickly": 0.5}
"""Name -> share of the frame's side that is crossed during the shot."""
BACKGROUNDS = tuple((hue, pattern) for pattern in range(3) for hue in range(6))


@dataclass(frozen=True)
class Event:
    """A shape doing one thing. `detail` is the direction, or the colour that it turns; `speed` is
    that of a move."""

    color: str
    shape: str
    action: Action
    detail: str = ""
    speed: str = ""

    @property
    def thing(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def deed(self) -> str:
        return " ".join(word for word in (self.action, self.detail, self.speed) if word)

    def text(self, article: str = "a") -> str:
        if article == "a" and self.color[0] in "aeiou":
            article = "an"
        return f"{article} {self.thing} {self.deed}"


@dataclass(frozen=True)
class Shot:
    """An event, where and in front of what it is drawn, and for how long."""

    event: Event
    background: tuple[int, int]
    """Hue and pattern."""
    x: float
    """Centre of the shape in the middle of the shot, as a share of the frame's width."""
    y: float
    """The same of its height."""
    size: float
    """Radius as a share of the frame's shorter side."""
    seconds: float


@dataclass(frozen=True)
class Story:
    shots: tuple[Shot, ...]

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(shot.event for shot in self.shots)

    @property
    def seconds(self) -> float:
        return sum(shot.seconds for shot in self.shots)

    @property
    def split(self) -> Split:
        """The hash of its events decides, so that no story is in two splits: one in ten is for
        testing, one in ten is held out."""
        text = "; ".join(event.text() for event in self.events)
        bucket = hashlib.sha256(text.encode()).digest()[0] % 10
        if bucket == 0:
            return "test"
        return "heldout" if bucket == 1 else "train"


def draw_event(rng: np.random.Generator, color: str, shape: str) -> Event:
    actions: list[Action] = ["moves", "moves", "moves"]
    actions += ["grows", "shrinks", "appears", "vanishes", "turns"]
    if shape != "circle":
        actions.append("spins")  # a circle cannot be seen to spin
    action = actions[int(rng.choice(len(actions)))]
    if action == "moves":
        direction = str(rng.choice(list(DIRECTIONS)))
        return Event(color, shape, "moves", direction, str(rng.choice(list(SPEEDS))))
    if action == "turns":
        new_color = str(rng.choice([name for name in COLORS if name != color]))
        return Event(color, shape, "turns", new_color)
    return Event(color, shape, action)


def draw_story(
    rng: np.random.Generator, shots: int, seconds: tuple[float, float] = (1.0, 1.0)
) -> Story:
    """A story of `shots` events, each lasting between the two numbers of `seconds`.

    No thing (colour and shape) and no background recurs before all have occurred.
    """
    things = [(color, shape) for color in COLORS for shape in SHAPES]
    thing_order = _shuffled_rounds(rng, len(things), shots)
    background_order = _shuffled_rounds(rng, len(BACKGROUNDS), shots)
    drawn = []
    for thing, background in zip(thing_order[:shots], background_order[:shots], strict=True):
        event = draw_event(rng, *things[thing])
        dx, dy = DIRECTIONS.get(event.detail, (0, 0))
        drawn.append(
            Shot(
                event,
                BACKGROUNDS[background],
                x=float(0.5 if dx else rng.uniform(0.35, 0.65)),
                y=float(0.5 if dy else rng.uniform(0.35, 0.65)),
                size=float(rng.uniform(0.2, 0.24)),
                seconds=float(rng.uniform(*seconds)),
            )
        )
    return Story(tuple(drawn))


def _shuffled_rounds(rng: np.random.Generator, items: int, count: int) -> list[int]:
    """At least `count` numbers below `items`: one shuffled round of all after the other."""
    rounds = -(-count // items)
    return [int(item) for _ in range(rounds) for item in rng.permutation(items)]


def draw_split(
    rng: np.random.Generator, split: Split, shots: int, seconds: tuple[float, float] = (1.0, 1.0)
) -> Story:
    """A story of that split."""
    while True:
        story = draw_story(rng, shots, seconds)
        if story.split == split:
            return story


def story_rng(seed: int, split: Split, index: int) -> np.random.Generator:
    """The generator of one video: the same on every machine, whatever was drawn before."""
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
