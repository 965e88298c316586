"""What the record of a tiny model's pre-training holds: `pretraining.json` in its folder.

Tested in tests/shapeworld/test_pretrain.py and tests/integration/test_models.py.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tempo_ray.shapeworld.build import ModelType

RECORD_FILE = "pretraining.json"


@dataclass(frozen=True)
class PretrainSettings:
    """The numbers of a pre-training. The names are those in the records that ship."""

    family: ModelType
    seed: int = 0
    vision_steps: int = 400
    """The vision tower first learns to name colour, shape and deed of single shots."""
    vision_batch: int = 128
    """Shots per step of the vision tower."""
    steps: int = 4000
    single_shot_steps: int = 400
    """Single shots come before whole videos: with four-shot captions from the start, the model
    stays at chance."""
    batch: int = 32
    """Examples per step."""
    micro_batches: int = 4
    lr: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    shuffled_share: float = 0.8
    """Share of the whole-video captions whose events are in random order."""
    save_every: int = 250
    """Steps from one checkpoint to the next."""


@dataclass(frozen=True)
class ClipAccuracy:
    """Shares of clip captions that name each right."""

    colour: float
    shape: float
    deed: float


@dataclass(frozen=True)
class Retelling:
    """How captions of whole stories compare with the events."""

    events_named: float
    """Share of the events that the captions name."""
    pairs_in_order: float
    """Share of the pairs of named events that are in the right order."""
    all_events_in_order: float
    """Share of the captions that tell exactly the events, in order."""


@dataclass(frozen=True)
class SampledRetelling(Retelling):
    temperature: float


@dataclass(frozen=True)
class Examination:
    """Held-out evaluation of a tiny model: shares from 0 to 1, by task of `tasks.MIX`."""

    stories: int
    """Held-out stories per task."""
    first_clip: ClipAccuracy
    next_clip: ClipAccuracy
    from_captions: Retelling
    from_clips: Retelling
    from_video: Retelling
    text_question: float
    clips_question: float
    video_question: float
    content_question: float
    from_video_sampled: SampledRetelling


@dataclass(frozen=True)
class PretrainRecord:
    settings: PretrainSettings
    mix: dict[str, float]
    data: str
    parameters: int
    seconds: int
    loss_curve: list[tuple[int, float]]
    """(step, loss)."""
    machine: str
    date: str
    versions: dict[str, str]
    examination: Examination | None = None
    """None until the trained model has been examined."""

    def write(self, folder: Path) -> None:
        (folder / RECORD_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")
