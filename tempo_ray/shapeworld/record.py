"""What the record of a tiny model's pre-training holds: `pretraining.json` in its folder.

Tested in tests/shapeworld/test_pretrain.py and tests/integration/test_models.py.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tempo_ray.shapeworld.build import ModelType
from tempo_ray.shapeworld.tasks import Medium, Show

RECORD_FILE = "pretraining.json"


@dataclass(frozen=True)
class PretrainSettings:
    """The numbers of a pre-training. The names are those in the records that ship."""

    family: ModelType
    seed: int = 0
    letter_steps: int = 300
    """First, what the letters of options mean."""
    neighbour_steps: int = 1700
    """Until this step, questions about the order of stories in words, neighbours above all. The
    stories grow from three events to twelve, by one whenever the model has mastered the longest."""
    mastery: float = 0.85
    """Share of right answers about the longest stories at which they grow."""
    check_every: int = 25
    """Steps from one check of that share to the next."""
    language_steps: int = 1900
    """Until this step, all questions about stories in words alike."""
    vision_steps: int = 400
    """Then the vision tower learns to name colour, shape and deed of single shots."""
    vision_batch: int = 128
    """Shots per step of the vision tower."""
    single_shot_steps: int = 150
    """Then the whole model captions single shots: with captions of whole videos from the start, it
    stays at chance."""
    steps: int = 3150
    """In all, without those of the vision tower. The rest is the mix of everything."""
    batch: int = 8
    """Examples per step."""
    exchanges: int = 8
    """Questions and requests about the story of an example."""
    row_tokens: int = 8192
    """Most tokens of the rows that a step's examples are packed into."""
    lr: float = 1e-3
    """AdamW's, of embeddings, norms and biases."""
    muon_lr: float = 0.005
    """Muon's, of all matrices."""
    warmup_steps: int = 100
    decay_share: float = 0.33
    """Share of the steps, the last, over which the learning rate falls."""
    weight_decay: float = 0.01
    shuffled_share: float = 0.8
    """Share of the descriptions of whole videos whose events are in random order."""
    save_every: int = 50
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
    """Held-out evaluation of a tiny model: shares from 0 to 1."""

    stories: int
    """Held-out stories per figure, of 4 to 12 events."""
    first_clip: ClipAccuracy
    next_clip: ClipAccuracy
    retelling: dict[Medium, Retelling]
    """The caption of the whole story, by how the story is shown."""
    sampled_description: SampledRetelling
    """The same of whole videos, sampled as the pipeline samples it: a model whose captions are only
    weakly tied to time may still put its likeliest one in order."""
    questions: dict[Medium, dict[str, float]]
    """Right answers, word for word, by how the story is shown and by kind."""
    blind: dict[str, float]
    """By kind, the right answers of a guess among the options."""
    valid: float
    """Share of the answers to all these questions that are one of the options."""


@dataclass(frozen=True)
class PretrainRecord:
    settings: PretrainSettings
    mix: dict[Show, float]
    data: str
    parameters: int
    seconds: int
    loss_curve: list[tuple[int, float]]
    """(step, loss)."""
    mastered: list[tuple[int, int]]
    """(step, events): when the model had mastered stories of that many events in words."""
    machine: str
    date: str
    versions: dict[str, str]
    examination: Examination | None = None
    """None until the trained model has been examined."""

    def write(self, folder: Path) -> None:
        (folder / RECORD_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")
