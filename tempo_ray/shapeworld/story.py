"""Seeds -> stories: ordered lists of events, each one shape doing one thing before one background."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "heldout", "test"]

COLORS = {
    "red": (225, 40, 40),
    "green": (50, 200, 60),
    "blue": (60, 90, 245),
    "yellow": (240, 225, 50),
    "purple": (165, 60, 200),
    "orange": (250, 140, 30),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slowly": 0.18, "quickly": 0.5}  # share of the frame's side crossed in the shot
BACKGROUNDS = tuple((hue, pattern) for pattern in range(3) for hue in range(6))


@dataclass(frozen=True)
class Event:
    """One shape doing one thing. `detail` is the direction, or the colour it turns to; `speed` belongs to moves."""

    color: str
    shape: str
    action: Literal["moves", "grows", "shrinks", "spins", "appears", "vanishes", "turns"]
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
    """An event, where and before what it is drawn, and how long it lasts."""

    event: Event
    background: tuple[int, int]  # hue, pattern
    x: float  # where the shape is in the middle of the shot, as a share of the frame
    y: float
    size: float  # radius as a share of the shorter side
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
        """One story in ten is for testing, one in ten held out: by the hash of its events, so no two splits share one."""
        text = "; ".join(event.text() for event in self.events)
        bucket = hashlib.sha256(text.encode()).digest()[0] % 10
        return "test" if bucket == 0 else "heldout" if bucket == 1 else "train"


def draw_event(rng: np.random.Generator, color: str, shape: str) -> Event:
    actions = ["moves", "moves", "moves", "grows", "shrinks", "appears", "vanishes", "turns"]
    if shape != "circle":
        actions.append("spins")  # nobody sees a circle spin
    action = str(rng.choice(actions))
    if action == "moves":
        return Event(
            color, shape, "moves", str(rng.choice(list(DIRECTIONS))), str(rng.choice(list(SPEEDS)))
        )
    if action == "turns":
        return Event(
            color, shape, "turns", str(rng.choice([name for name in COLORS if name != color]))
        )
    return Event(color, shape, action)  # type: ignore[arg-type]


def draw_story(
    rng: np.random.Generator, shots: int, seconds: tuple[float, float] = (1.0, 1.0)
) -> Story:
    """`shots` events; no thing (colour and shape) and no background comes twice before all have come."""
    things = [(color, shape) for color in COLORS for shape in SHAPES]
    thing_order = np.concatenate(
        [rng.permutation(len(things)) for _ in range(-(-shots // len(things)))]
    )
    background_order = np.concatenate(
        [rng.permutation(len(BACKGROUNDS)) for _ in range(-(-shots // len(BACKGROUNDS)))]
    )
    drawn = []
    for index in range(shots):
        event = draw_event(rng, *things[thing_order[index]])
        dx, dy = DIRECTIONS.get(event.detail, (0, 0))
        drawn.append(
            Shot(
                event,
                BACKGROUNDS[background_order[index]],
                x=float(0.5 if dx else rng.uniform(0.35, 0.65)),
                y=float(0.5 if dy else rng.uniform(0.35, 0.65)),
                size=float(rng.uniform(0.2, 0.24)),
                seconds=float(rng.uniform(*seconds)),
            )
        )
    return Story(tuple(drawn))


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
