"""The typed rows and results that functions hand to each other; frozen.

`Video` to `Score` are the rows of schema.py as dataclasses, and a test holds the two together.
`read_row` and `write_row` convert at the boundary to Arrow; nothing inside indexes a row by string.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

Status = Literal["kept", "dropped", "failed"]
FailedAt = Literal["open", "decode", "respond"]
PerturbationName = Literal["clean", "drop", "shuffle", "reverse"]

Record = TypeVar("Record")


@cache
def _adapter(record: Any) -> TypeAdapter[Any]:
    return TypeAdapter(record)


def read_row(record: type[Record], row: Mapping[str, Any]) -> Record:
    """A row of Arrow's `to_pylist` -> the dataclass. Raises pydantic.ValidationError."""
    # mypy does not see that a type is hashable
    adapter = _adapter(record)  # type: ignore[arg-type]
    validated: Record = adapter.validate_python(row)
    return validated


def write_row(record: Any) -> dict[str, Any]:
    """The dataclass -> a row for Arrow or JSON: nested dicts and lists."""
    return asdict(record)


@dataclass(frozen=True)
class Video:
    """A row of the manifest."""

    video_id: str
    uri: str
    bytes: int | None = None


@dataclass(frozen=True)
class Shot:
    """Frames [start, end) between two cuts."""

    start: int
    end: int
    gray_range: float = 0.0

    @property
    def frames(self) -> int:
        return self.end - self.start

    @property
    def middle(self) -> int:
        return (self.start + self.end) // 2


@dataclass(frozen=True)
class Clip:
    """A run of consecutive shots of one scene: frames [start, end)."""

    start: int
    end: int
    scene: int
    key_frames: tuple[int, ...] = ()
    caption: str | None = None
    caption_finish_reason: str | None = None
    caption_tokens: int | None = None

    @property
    def frames(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Answer:
    """One answer of the model, with what it was shown and how it was sampled."""

    answer_id: str
    form: str
    perturbation: PerturbationName
    strength: int | None
    sample: int
    order: tuple[int, ...]
    order_distance: float
    kept_share: float
    prompt: str
    text: str
    seed: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Failure:
    """Why a video failed. `transient` failures are not written to answers/ but retried."""

    reason: str
    failed_at: FailedAt
    message: str
    transient: bool = False


@dataclass(frozen=True)
class TransientFailure:
    """A row of failures/."""

    video_id: str
    uri: str
    failed_at: FailedAt
    message: str


@dataclass(frozen=True)
class VideoAnswers:
    """A row of answers/: everything about one video. `status` is None while undecided."""

    video_id: str
    uri: str
    status: Status | None = None
    reason: str | None = None
    failed_at: FailedAt | None = None
    message: str | None = None
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    decoder: str | None = None
    detector: str | None = None
    embedding: str | None = None
    richness: float | None = None
    shots: tuple[Shot, ...] = ()
    clips: tuple[Clip, ...] = ()
    answers: tuple[Answer, ...] = ()
    model: str | None = None
    model_hash: str | None = None
    config_hash: str | None = None


@dataclass(frozen=True)
class RuleResult:
    """What a pair rule found. `passed` is None where the rule does not apply to the pair."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Pair:
    """A preference pair with its whole origin."""

    pair_id: str
    video_id: str
    uri: str
    prompt: str
    chosen: str
    rejected: str
    form: str
    perturbation: PerturbationName
    strength: int
    chosen_order: tuple[int, ...]
    rejected_order: tuple[int, ...]
    order_distance: float
    kept_share: float
    text_distance: float
    length_ratio: float | None
    chosen_tokens: int
    rejected_tokens: int
    chosen_answer_id: str
    rejected_answer_id: str
    rules: tuple[RuleResult, ...]
    seed: int
    model: str | None
    model_hash: str | None
    config_hash: str | None
    pairs_config_hash: str


@dataclass(frozen=True)
class Score:
    """One question that a model was asked, and whether its answer is right."""

    question_id: str
    video: str
    groups: tuple[str, ...]
    chance: float
    answer: str
    prediction: str | None
    correct: bool
    error: str | None
    finish_reason: str | None
    model: str
    endpoint: str
    served: str
    temperature: float
    max_tokens: int
    questions_sha256: str


ObjectiveName = Literal["dpo", "sft"]


@dataclass(frozen=True)
class StageSpec:
    """One stage of a training run, as planned. `content` is a digest of its examples, `digest` of
    everything that decides what it learns, the stages before it included."""

    name: str
    objective: ObjectiveName
    number: int
    """Its place in the run; each stage draws its own adapter."""
    content: str
    digest: str


StepMetrics = dict[str, float]
"""Means of one optimiser step over all workers, by name; a metric that the step lacks has no key.
The names are those of train/loss.py, and `held_out_*` for a held-out evaluation."""


@dataclass(frozen=True)
class StageResult:
    """A finished stage: what its stage.json says."""

    schema_version: str
    name: str
    objective: ObjectiveName
    digest: str
    start: str
    """The model that it started from."""
    examples: int
    pairs: int
    videos: int
    steps: int
    planned_steps: int
    skipped: dict[str, int]
    """Examples that were skipped, by reason."""
    first: StepMetrics
    last: StepMetrics
    training_seconds: float
    start_seconds: float
    seconds: float
    workers: int
    hardware: str
    zero_stage: int
    dtype: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Stopped:
    """Training that ended early because continuing would not help, and why."""

    reason: str


@dataclass(frozen=True)
class PairsSummary:
    """What generate_pairs did: videos_in = kept + dropped + failed."""

    videos_in: int
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    to_retry: int = 0
    """Those of the failed that failed transiently."""
    reasons: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    pairs: int = 0
    pairs_dropped: dict[str, int] = field(default_factory=dict)
    """Candidate pairs that were dropped, by the first rule that they broke."""
    tokens_per_second: float | None = None
    media_cache_hit_rate: float | None = None


@dataclass(frozen=True)
class TrainSummary:
    stages: tuple[StageResult, ...]
    left_out: dict[str, int]
    """Pairs that no stage trains on, by reason."""
    model: str


@dataclass(frozen=True)
class ServeSummary:
    seconds_to_ready: float
    stopped: bool = False


@dataclass(frozen=True)
class GroupScore:
    """Accuracy on a group of questions, with its 95% Wilson interval."""

    value: float
    low: float
    high: float
    questions: int
    chance: float
    unanswered: int


@dataclass(frozen=True)
class GroupComparison:
    """Paired difference on a group of questions: second minus first, its 95% bootstrap interval
    over `videos` clusters, and McNemar's exact p."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    questions: int
    videos: int


@dataclass(frozen=True)
class ModelScores:
    seconds: float
    groups: dict[str, GroupScore]


@dataclass(frozen=True)
class EvaluateSummary:
    task: str
    models: dict[str, ModelScores]
    compared: dict[str, dict[str, GroupComparison]] = field(default_factory=dict)
    """Each further model, compared with the first, by group of questions."""


@dataclass(frozen=True)
class StudyRow:
    """An arm on a group of questions, beside the baseline: shares from 0 to 1, means over seeds."""

    arm: str
    baseline: str
    group: str
    seeds: int
    questions: int
    """Of all seeds together."""
    accuracy: float
    baseline_accuracy: float
    chance: float
    difference: float
    """Arm minus baseline, on the same questions."""
    low: float
    """Of the 95% interval of the difference, over videos and seeds."""
    high: float
    p: float
    """Two-sided, that there is no difference."""
    p_holm: float | None
    """Corrected after Holm (1979) over all arms and groups of the study that are not single kinds;
    None for a kind."""
    detectable: float
    """The smallest difference that so many seeds would show in four studies of five (power 80%,
    two-sided 5%)."""


@dataclass(frozen=True)
class CorpusSummary:
    videos: int
    questions: int
    instructions: int


@dataclass(frozen=True)
class PretrainSummary:
    examination: dict[str, Any]
