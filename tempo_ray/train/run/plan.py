"""A config -> the stages of its recipe, checked before anything is started."""

import hashlib
import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tempo_ray.config import AlignConfig, SftConfig, TrainConfig
from tempo_ray.errors import UserError
from tempo_ray.models.check import check_model, identity
from tempo_ray.paths import RunPaths
from tempo_ray.records import ObjectiveName, StageResult, StageSpec, read_row
from tempo_ray.schema import SCHEMA_VERSION
from tempo_ray.storage import delete_folder, exists, join, read_bytes
from tempo_ray.train.conversations import read_conversations
from tempo_ray.train.curriculum import (
    Stage,
    assign_examples,
    curriculum_table,
    divide_pairs,
    hold_out,
    make_stages,
)
from tempo_ray.train.examples import Example
from tempo_ray.train.pairs import TrainingPair, read_pairs

IDLE_SHARE = 0.2
"""Share of (step, rank) without an example above which the plan advises a larger step."""


@dataclass(frozen=True)
class Plan:
    stages: tuple[StageSpec, ...]
    left_out: dict[str, int]
    """Pairs that no stage trains on, by reason."""
    table: str
    """Human-readable."""


@dataclass(frozen=True)
class _StageExamples:
    name: str
    objective: ObjectiveName
    settings: AlignConfig | SftConfig
    examples: Sequence[Example]


def pairs_folders(config: TrainConfig) -> tuple[str, ...]:
    if config.pairs is None:
        return (RunPaths(config.run).pairs,)
    return (config.pairs,) if isinstance(config.pairs, str) else config.pairs


def stage_examples(config: TrainConfig, name: str) -> Sequence[Example]:
    """The examples of one stage. Every rank reads them itself and gets the same."""
    if name == "sft":
        assert config.sft.data is not None
        return read_conversations(config.sft.data)
    pairs = read_pairs(*pairs_folders(config))
    stages = make_stages(pairs, config.align.curriculum, config.seed)
    return next(stage.examples for stage in stages if stage.name == name)


def make_plan(config: TrainConfig) -> Plan:
    """Reads the pairs and the conversations.

    Raises:
        UserError: there is nothing to train on or to start from, or settings exclude each other.
    """
    check_model(config.model)
    _check_settings(config)
    align: list[_StageExamples] = []
    sft: list[_StageExamples] = []
    left_out: dict[str, int] = {}
    lines = []
    if config.recipe != "sft":
        pairs = read_pairs(*pairs_folders(config))
        stages = _curriculum(config, pairs)
        align = [
            _StageExamples(stage.name, "dpo", config.align, stage.examples)
            for stage in stages
            if stage.examples
        ]
        left_out = _left_out(config, pairs, stages)
        lines.append(curriculum_table(stages))
        advice = [advise_step_size(config, stage) for stage in stages]
        lines += [line for line in advice if line is not None]
    if config.recipe != "align":
        assert config.sft.data is not None
        conversations = read_conversations(config.sft.data)
        sft = [_StageExamples("sft", "sft", config.sft, conversations)]
        lines.append(f"sft: {len(conversations)} conversations")
    ordered = sft + align if config.recipe == "post_sft" else align + sft
    return Plan(_specs(config, ordered), left_out, "\n".join(lines))


def _check_settings(config: TrainConfig) -> None:
    if config.deepspeed.zero_stage == 0 and config.deepspeed.dtype == "bfloat16":
        raise UserError(
            "deepspeed.zero_stage 0 keeps no float32 copy of bfloat16 weights and rounds small "
            "updates away: use 2 or 3"
        )
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"trackers names {tracker}, which is not installed: pip install {tracker}, on "
                "every node"
            )


def _curriculum(config: TrainConfig, pairs: Sequence[TrainingPair]) -> list[Stage]:
    """The stages, at least one of them with examples, and with enough videos to hold some out."""
    curriculum = config.align.curriculum
    stages = make_stages(pairs, curriculum, config.seed)
    if not any(stage.examples for stage in stages):
        wanted = f"a measured difficulty={curriculum.difficulty}"
        if curriculum.difficulty == "strength":
            wanted = f"one of align.curriculum.strengths {sorted(curriculum.strengths)}"
        strengths = sorted({pair.strength for pair in pairs})
        identical = sum(pair.chosen == pair.rejected for pair in pairs)
        folders = ", ".join(pairs_folders(config))
        raise UserError(
            f"{folders}: no usable pair among its {len(pairs)} has {wanted}; their "
            f"strengths are {strengths}, and in {identical} of them rejected equals chosen"
        )
    for stage in stages:
        if curriculum.adaptive is None or not stage.examples:
            continue
        try:
            hold_out(stage.examples, curriculum.adaptive.held_out, config.seed)
        except ValueError as error:
            raise UserError(
                f"{stage.name}: {error}; set align.curriculum.adaptive=null, or make more pairs"
            ) from error
    return stages


def _left_out(
    config: TrainConfig, pairs: Sequence[TrainingPair], stages: Sequence[Stage]
) -> dict[str, int]:
    parts = divide_pairs(pairs, config.align.curriculum)
    return {
        "no_stage": len(pairs) - sum(len(part) for _, part in parts),
        "identical": sum(stage.identical for stage in stages),
        "duplicated": sum(stage.duplicated for stage in stages),
    }


def advise_step_size(config: TrainConfig, stage: Stage) -> str | None:
    """A larger align.pairs_per_step, if many workers would have no example in many steps."""
    sizes = [example.pairs for example in stage.examples]
    workers, step_size = config.workers.count, config.align.pairs_per_step
    assignments = assign_examples(sizes, step_size, workers, 1, config.seed)
    turns = [indices for assignment in assignments for indices in assignment]
    idle = sum(not indices for indices in turns) / len(turns) if turns else 0.0
    enough = math.ceil(sum(sizes) / max(1, len(sizes))) * workers
    if idle <= IDLE_SHARE or enough <= step_size:
        return None
    return (
        f"{stage.name}: workers are idle in {idle:.0%} of their steps, because a video with all "
        f"its pairs goes to one worker; align.pairs_per_step={enough} would keep all {workers} busy"
    )


def _specs(config: TrainConfig, stages: Sequence[_StageExamples]) -> tuple[StageSpec, ...]:
    """A stage's digest covers all that decides what it learns, the stages before it included, and
    nothing of how it runs: workers, sharding, checkpoints and the run's location."""
    initial = previous = identity(config.model)
    shared = config.model_dump(
        mode="json", include={"seed", "frames", "max_video_tokens", "max_tokens"}
    )
    specs = []
    for number, stage in enumerate(stages):
        content = _digest_of_examples(stage.examples)
        settings = stage.settings.model_dump(mode="json", exclude={"data"})
        dtype = config.deepspeed.dtype
        facts = [stage.name, content, initial, previous, shared, dtype, settings]
        previous = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        specs.append(StageSpec(stage.name, stage.objective, number, content, previous))
    return tuple(specs)


def _digest_of_examples(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(example).encode())
    return digest.hexdigest()


def finished_stages(config: TrainConfig, stages: Sequence[StageSpec]) -> list[StageResult | None]:
    """The result of each stage; None if it is not finished.

    Raises:
        UserError: stages in the run were trained with other settings, data or models, or by another
            release; names all of them.
    """
    results = [read_result(RunPaths(config.run).stage(stage.name)) for stage in stages]
    different = [
        RunPaths(config.run).stage(stage.name)
        for stage, result in zip(stages, results, strict=True)
        if result is not None and result.digest != stage.digest
    ]
    if different:
        verb = "was" if len(different) == 1 else "were"
        raise UserError(
            f"{' and '.join(different)} {verb} trained with other settings or data: choose another "
            "run=, or remove what is named"
        )
    return results


def read_result(folder: str) -> StageResult | None:
    """The result in a stage's folder; None if the stage is not finished. Raises UserError if
    another release has written it."""
    file = join(folder, "stage.json")
    if not exists(file):
        return None
    facts = json.loads(read_bytes(file))
    version = facts.get("schema_version")
    if version != SCHEMA_VERSION:
        written = "without a schema version" if version is None else f"with version {version}"
        raise UserError(
            f"{file} was written {written} and this release of tempo_ray reads version "
            f"{SCHEMA_VERSION}: choose another run=, or use the release that wrote it"
        )
    return read_row(StageResult, facts)


def checkpoints_of(config: TrainConfig, stage: StageSpec, zero_stage: int) -> str:
    """The folder of a stage's checkpoints. Its name has all that they depend on, except the number
    of workers, for which they can be converted."""
    name = f"{stage.name}-{stage.digest}-zero{zero_stage}"
    return RunPaths(config.run).checkpoints(name)


def delete_checkpoints(config: TrainConfig, stage: StageSpec) -> None:
    """Of a finished stage, however it was sharded."""
    for zero_stage in (0, 2, 3):
        delete_folder(checkpoints_of(config, stage, zero_stage))
