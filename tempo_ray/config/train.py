"""jobs/train.py: preference pairs and conversations -> an aligned and fine-tuned model."""

from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from tempo_ray.config.base import Config, Location, ModelName, Placement, RayConfig, Share
from tempo_ray.config.media import FramesConfig, PositiveFinite

Recipe = Literal["pre_sft", "post_sft", "sft", "align"]
Tracker = Literal[
    "tensorboard",
    "wandb",
    "mlflow",
    "comet_ml",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
    "trackio",
]


class LoraConfig(Config):
    rank: PositiveInt = 32
    alpha: PositiveFinite = 64.0
    dropout: float = Field(0.0, ge=0, lt=1)


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a cosine decay to zero."""

    lr: PositiveFinite = 5e-6
    warmup: Share = 0.05
    """Share of the steps."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.1
    grad_clip: PositiveFinite = 1.0


class LossConfig(Config):
    type: Literal["sigmoid", "ipo", "hinge", "robust", "simpo"] = "sigmoid"
    """See tempo_ray/train/loss.py for the formulas and their papers."""
    beta: PositiveFloat = 0.1
    nll_weight: NonNegativeFloat = 1.0
    """Weight of the negative log-likelihood of chosen, per token. 1.0 in the published recipe."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    length_normalised: bool = False
    """Divide each answer's log-ratio by its number of tokens. SimPO always does."""
    simpo_gamma: float = 0.5
    """SimPO's target margin."""


class AdaptiveConfig(Config):
    """When a stage ends early: once reward accuracy and margin on held-out videos of the stage have
    stopped improving."""

    held_out: float = Field(0.1, gt=0, lt=0.5)
    """Share of the stage's videos that are held out of training."""
    every_steps: PositiveInt = 10
    """Steps between held-out evaluations."""
    patience: PositiveInt = 2
    """Evaluations in a row without improvement that end the stage."""
    accuracy_gain: NonNegativeFloat = 0.01
    """Smallest improvement of reward accuracy that counts."""
    margin_gain: NonNegativeFloat = 0.02
    """Smallest improvement of the reward margin that counts."""
    min_steps: NonNegativeInt = 20
    """Steps before a stage may end early."""


class CurriculumConfig(Config):
    schedule: Literal["easy_to_hard", "mixed", "hard_to_easy"] = "easy_to_hard"
    difficulty: Literal["strength", "order", "text"] = "strength"
    """What divides the pairs into stages: nominal strength (the paper), or quantiles of a measured
    difficulty: how much of the clean order rejected lost (`order`), or how far its text is from
    chosen (`text`)."""
    strengths: tuple[PositiveInt, ...] = (16, 8, 4, 2)
    """difficulty=strength: one stage per nominal strength; larger is easier."""
    quantiles: PositiveInt = 4
    """difficulty=order or text: number of stages, with about as many pairs each."""
    replay: Share = 0.0
    """Pairs of earlier stages that a stage trains on again, as a share of its own."""
    epochs: PositiveInt = 1
    """Epochs per stage."""
    adaptive: AdaptiveConfig | None = None
    """End a stage when it has stopped improving; null trains every stage to its end (the paper)."""

    @model_validator(mode="after")
    def _check_replay(self) -> Self:
        if self.replay and self.schedule == "mixed":
            raise ValueError(
                "replay has no effect with schedule=mixed, which is one stage: remove one of them"
            )
        return self


class HealthConfig(Config):
    """Limits that stop a run that has gone wrong. Each but the skipped share is a mean over
    `window` steps; null disables it."""

    window: PositiveInt = 20
    max_chosen_drop: float | None = Field(1.0, gt=0)
    """Nats per token that chosen answers may lose against the reference."""
    max_margin: float | None = Field(50.0, gt=0)
    """Reward margin, once every pair is told apart."""
    max_length_ratio: float | None = Field(3.0, gt=1)
    """Tokens of rejected over tokens of chosen, or the reverse."""
    max_skipped: Share = 0.2
    """Share of examples whose video is missing, unreadable or too long."""
    min_examples: PositiveInt = 64
    """Examples that must have been tried before that share counts."""


class AlignConfig(Config):
    """Curriculum DPO."""

    curriculum: CurriculumConfig = CurriculumConfig()
    reference: Literal["stage", "initial"] = "stage"
    """`stage`: the reference model is the one the stage starts from (as published); `initial`: the
    first model."""
    loss: LossConfig = LossConfig()
    lora: LoraConfig | None = LoraConfig()
    """On all linear layers of the language model; null trains all its weights, beside a frozen
    reference."""
    train_vision: bool = False
    """Train the vision tower too."""
    optimizer: OptimizerConfig = OptimizerConfig()
    pairs_per_step: PositiveInt = 16
    """Pairs per optimiser step, over all workers."""


class SftConfig(Config):
    data: Location | None = None
    """JSON or JSONL of conversations with `<video>`; video paths are relative to its folder."""
    epochs: PositiveInt = 1
    lora: LoraConfig | None = LoraConfig(alpha=32.0)
    """On all linear layers of the language model; null trains all its weights."""
    train_vision: bool = True
    """Train the vision tower too."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4)
    conversations_per_step: PositiveInt = 16
    """Conversations per optimiser step, over all workers."""


class DeepSpeedConfig(Config):
    zero_stage: Literal[0, 2, 3] = 3
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gradient_checkpointing: bool = True
    offload_optimizer: bool = False
    param_persistence_threshold: NonNegativeInt = 1_000_000
    """ZeRO-3: parameters with fewer elements are not sharded; otherwise each LoRA matrix would be
    a collective of its own."""


class WorkersConfig(Placement):
    """Training's workers, one per rank."""

    count: PositiveInt = 8
    cpus: PositiveFinite = 4.0
    gpus: NonNegativeFloat = 1.0
    max_failures: NonNegativeInt = 3
    """Times that a run resumes by itself from its last checkpoint after a worker died."""


class TrainConfig(Config):
    """Pairs -> aligned and fine-tuned model."""

    run: Location
    """Run directory. A finished stage never runs again; an unfinished one resumes from its last
    checkpoint."""
    recipe: Recipe = "pre_sft"
    """`pre_sft`: alignment, then SFT (the paper); `post_sft`: SFT, then alignment; or one alone."""
    model: ModelName
    """Model to start from."""
    pairs: Location | tuple[Location, ...] | None = None
    """Folder of pair Parquet files, or several, all of whose pairs are trained on; null takes the
    run's own pairs/."""
    seed: NonNegativeInt = 0
    frames: FramesConfig = FramesConfig()
    max_video_tokens: PositiveInt | None = None
    """Maximum tokens of a video, whose frames are scaled down to fit; null leaves it to the model's
    own processor. Saved with the trained model, so that it is served the same way."""
    max_tokens: PositiveInt = 16384
    """Tokens of a packed row, all answers of its examples included; a longer example is counted and
    skipped by all workers alike."""
    attention: Literal["auto", "sdpa", "flex"] = "auto"
    """FlexAttention over whole packed rows, or SDPA example by example; `auto` takes flex with GPUs
    and sdpa without."""
    align: AlignConfig = AlignConfig()
    sft: SftConfig = SftConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    workers: WorkersConfig = WorkersConfig()
    health: HealthConfig = HealthConfig()
    checkpoint_every_steps: PositiveInt = 50
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Experiment trackers, through accelerate; each but the first needs its own package, and its
    login from the environment."""
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.attention == "flex" and not self.workers.gpus:
            raise ValueError(
                "attention=flex needs workers.gpus: FlexAttention has no backward pass on a CPU; "
                "use auto or sdpa"
            )
        if "sft" in self.recipe and self.sft.data is None:
            raise ValueError(
                f"recipe {self.recipe} needs sft.data; name a JSON file, or set recipe=align"
            )
        for name, count in (
            ("align.pairs_per_step", self.align.pairs_per_step),
            ("sft.conversations_per_step", self.sft.conversations_per_step),
        ):
            if count % self.workers.count:
                raise ValueError(
                    f"{name} {count} is not a multiple of workers.count {self.workers.count}"
                )
        return self
