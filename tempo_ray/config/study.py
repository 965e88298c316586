"""jobs/study.py: a table of arms x seeds -> paired differences."""

from typing import Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tempo_ray.config.base import Config, LocalPath, Location, Share
from tempo_ray.config.shapeworld import WorldConfig


class ArmConfig(Config):
    """One way of training."""

    pairs: tuple[dict[str, Any], ...] = ({},)
    """Keys of generate_pairs, over the config's; with several, the arm trains on all their
    pairs. Arms with the same ones share their answers."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Keys of train, over the config's."""
    order_share: Share = 0.0
    """Share of the drawn instructions that ask about the order of events."""


class DrawnDataConfig(Config):
    """ShapeWorld videos, anew for every seed."""

    train_videos: PositiveInt = 160
    test_videos: PositiveInt = 120
    world: WorldConfig = WorldConfig()


class GivenDataConfig(Config):
    """Data sets that exist: every seed trains on them and is asked the same questions."""

    videos: Location
    """Folder of the videos that pairs are made from."""
    instructions: Location
    """SFT data, as train's sft.data."""
    questions: Location
    """As evaluate's questions."""


class StudyConfig(Config):
    """Arms x seeds -> one table of differences."""

    run: LocalPath = "runs/study"
    """The tables, the plot and the logs; and all runs, unless `storage` is set. The same command
    resumes an interrupted study."""
    storage: Location | None = None
    """Where the runs go: a URI, or a disk that all nodes share. Null: into `run`."""
    config: str = "embedded"
    """The config whose sections the jobs run with: a shipped one's name, or a file."""
    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=2)
    baseline: str
    """The arm that every other one is compared to."""
    arms: dict[str, ArmConfig] = Field(min_length=2)
    drawn: DrawnDataConfig = DrawnDataConfig()
    given: GivenDataConfig | None = None
    """Instead of drawn data."""
    at_once: PositiveInt = 1
    """Jobs that run at the same time. On one machine each needs some 5 GB of memory, which is
    checked unless `storage` is set."""
    served_at_once: PositiveInt = 8
    """Models behind one endpoint while they are asked."""

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline} is none of the arms {', '.join(self.arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one of them is there twice")
        for name, arm in self.arms.items():
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"arms.{name}: a name has letters, digits, - and _ only")
            if self.given is not None and arm.order_share:
                raise ValueError(f"arms.{name}: order_share is for drawn data, not for given")
        return self
