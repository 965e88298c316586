"""A config -> the stages of its recipe, checked before anything is started."""

import hashlib
import importlib.util
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tempo_ray.config import TrainConfig
from tempo_ray.job import BadInput
from tempo_ray.models.check import NotAModel, check_model, identity
from tempo_ray.paths import RunPaths, exists, read_bytes
from tempo_ray.train.curriculum import (
    BadPairs,
    Group,
    Stage,
    hold_out,
    make_stages,
    parted,
    plan_steps,
    read_pairs,
    table,
)
from tempo_ray.train.sft import BadConversations, read_conversations

IDLE = 0.2
"""The share of turns without a group that a person is told of."""


@dataclass(frozen=True)
class Planned:
    name: str
    kind: str
    content: str
    """A digest of its pairs or conversations."""


@dataclass(frozen=True)
class Plan:
    stages: tuple[Planned, ...]
    left_out: dict[str, int]
    """Pairs that no stage trains on, by reason."""
    shown: str
    """The same as a table for a person."""


def resolved(config: TrainConfig) -> TrainConfig:
    """The config with the folder of its pairs."""
    return config.model_copy(update={"pairs": config.pairs or RunPaths(config.run).pairs})


def _align_stages(config: TrainConfig) -> tuple[list[Stage], dict[str, int]]:
    """The curriculum, and how many pairs are in none of its stages and why."""
    uri = config.pairs or RunPaths(config.run).pairs
    try:
        if not exists(uri):
            raise BadInput(
                f"{uri}: no such folder of pairs; make them with jobs/generate_pairs.py, or name another with pairs="
            )
        pairs = read_pairs(uri)
    except BadPairs as error:
        raise BadInput(f"{uri}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{uri}: not Parquet files of pairs: {str(error).splitlines()[0]}"
        ) from error
    if not pairs:
        raise BadInput(f"{uri}: no pairs in it; jobs/generate_pairs.py says why each was dropped")
    curriculum = config.align.curriculum
    stages = make_stages(pairs, curriculum, config.seed)
    if not any(stage.groups for stage in stages):
        strengths = f"one of align.curriculum.strengths {sorted(curriculum.strengths)}"
        wanted = (
            strengths
            if curriculum.by == "strength"
            else f"a measured difficulty by {curriculum.by}"
        )
        there = sorted({pair.strength for pair in pairs})
        same = sum(pair.chosen == pair.rejected for pair in pairs)
        raise BadInput(
            f"{uri}: no usable pair among its {len(pairs)} has {wanted}; their strengths are {there}, and in {same} rejected "
            "is chosen"
        )
    if curriculum.adaptive is not None:
        for stage in (stage for stage in stages if stage.groups):
            try:
                hold_out(stage.groups, curriculum.adaptive.held_out, config.seed)
            except ValueError as error:
                raise BadInput(
                    f"{stage.name}: {error}; set align.curriculum.adaptive=null, or make more pairs"
                ) from error
    left_out = {
        "no_stage": len(pairs) - sum(len(part) for _, part in parted(pairs, curriculum)),
        "identical": sum(stage.identical for stage in stages),
        "duplicated": sum(stage.duplicated for stage in stages),
    }
    return stages, left_out


def _conversations(config: TrainConfig) -> list[Group]:
    file = config.sft.data
    assert file is not None
    try:
        if not exists(file):
            raise BadInput(f"{file}: no such file; name the conversations with sft.data=")
        return read_conversations(file)
    except BadConversations as error:
        raise BadInput(str(error)) from error
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file}: cannot be read: {error}") from error


def _content(groups: Sequence[Group]) -> str:
    found = hashlib.sha256()
    for group in groups:
        found.update(repr(group).encode())
    return found.hexdigest()


def idle(config: TrainConfig, stage: Stage) -> str | None:
    """Says so where many workers have no group in a step; None where few have none."""
    sizes, workers, batch = (
        [group.size for group in stage.groups],
        config.workers.count,
        config.align.batch,
    )
    hands = [hand for step in plan_steps(sizes, batch, workers, 1, config.seed) for hand in step]
    share = sum(not hand for hand in hands) / len(hands) if hands else 0.0
    wanted = math.ceil(sum(sizes) / max(1, len(sizes))) * workers
    if share <= IDLE or wanted <= batch:
        return None
    return (
        f"{stage.name}: {share:.0%} of the workers' turns have no group, because a video with its pairs goes to one worker; "
        f"align.batch={wanted} would keep all {workers} at work"
    )


def make_plan(config: TrainConfig) -> Plan:
    """Reads the pairs and the conversations. Raises BadInput where there is nothing to train, or nothing to start from."""
    try:
        check_model(config.model)
    except NotAModel as error:
        raise BadInput(str(error)) from error
    if config.deepspeed.zero_stage == 0 and config.deepspeed.dtype == "bfloat16":
        raise BadInput(
            "deepspeed.zero_stage 0 keeps no float32 copy of bfloat16 weights and rounds small updates away: use 2 or 3"
        )
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise BadInput(
                f"trackers names {tracker}, which is not installed: pip install {tracker}, on every node"
            )
    align: list[Planned] = []
    sft: list[Planned] = []
    left_out: dict[str, int] = {}
    shown = []
    if config.recipe != "sft":
        stages, left_out = _align_stages(config)
        align = [
            Planned(stage.name, "align", _content(stage.groups)) for stage in stages if stage.groups
        ]
        shown.append(table(stages))
        shown += [line for line in (idle(config, stage) for stage in stages) if line]
    if config.recipe != "align":
        conversations = _conversations(config)
        sft = [Planned("sft", "sft", _content(conversations))]
        shown.append(f"sft: {len(conversations)} conversations")
    return Plan(
        tuple(sft + align if config.recipe == "post_sft" else align + sft),
        left_out,
        "\n".join(shown),
    )


def digests(config: TrainConfig, stages: Sequence[Planned]) -> list[str]:
    """For each stage, of all that decides what it learns, the stages before it included; another digest is another stage. How
    many workers train it, how they share the weights, and where the run lies decide nothing."""
    made = [identity(config.model)]
    shared = config.model_dump(
        mode="json", include={"seed", "frames", "max_video_tokens", "max_tokens"}
    )
    for stage in stages:
        kind = config.align if stage.kind == "align" else config.sft
        settings = kind.model_dump(mode="json", exclude={"data"})
        facts = [
            stage.name,
            stage.content,
            made[0],
            made[-1],
            shared,
            config.deepspeed.dtype,
            settings,
        ]
        made.append(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12])
    return made[1:]


def finished(config: TrainConfig, stages: Sequence[Planned]) -> list[dict[str, Any] | None]:
    """For each stage the facts of its training, where it was trained before. Raises BadInput where other settings, other data or
    another model to start from trained it."""
    facts: list[dict[str, Any] | None] = []
    other = []
    for stage, digest in zip(stages, digests(config, stages), strict=True):
        folder = RunPaths(config.run).stage(stage.name)
        facts.append(
            json.loads(read_bytes(f"{folder}/stage.json"))
            if exists(f"{folder}/stage.json")
            else None
        )
        if facts[-1] is not None and facts[-1]["digest"] != digest:
            other.append(folder)
    if other:
        theirs = f"{' and '.join(other)} {'was' if len(other) == 1 else 'were'}"
        raise BadInput(
            f"{theirs} trained with other settings or data: choose another run=, or remove what is named"
        )
    return facts
