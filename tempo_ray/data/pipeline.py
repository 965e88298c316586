"""The chain from videos to pairs on Ray Data: manifest -> select -> respond -> answers/, and answers/ -> pairs/."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import ray
from ray.data import SaveMode
from ray.data.checkpoint import CheckpointConfig

from tempo_ray import schema
from tempo_ray.config import GeneratePairsConfig, Pool
from tempo_ray.data import clips, pairs, respond
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.select import select
from tempo_ray.data.videos import list_videos
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import model_hash
from tempo_ray.paths import RunPaths, exists, resolve


class SelectClips:
    """schema.VIDEO -> schema.ANSWERS: the verdict on each video, its cuts and its clips."""

    def __init__(self, config: GeneratePairsConfig) -> None:
        self._config = config.select
        self._embed = clips.make_embed(config.select.clips)

    def __call__(self, videos: pa.Table) -> pa.Table:
        rows = [select(video, self._config, self._embed) for video in videos.to_pylist()]
        return pa.Table.from_pylist(rows, schema=schema.ANSWERS)


class WriteAnswers:
    """schema.ANSWERS -> the same, kept videos with their captions and answers; one vLLM engine an actor."""

    def __init__(self, config: GeneratePairsConfig, hashed: str) -> None:
        self._stamp = {"model": config.respond.model, "model_hash": hashed, "config_hash": config.hash()}
        engine = respond.make_engine(config.respond, max(1, int(config.respond.pool.cpus)))
        prompts = PROMPT_SETS[prompts_name(config.respond.model)]
        self._answer = respond.Answerer(engine.generate, prompts, config.respond, config.seed)

    def __call__(self, answers: pa.Table) -> pa.Table:
        rows = [row | self._stamp for row in answers.to_pylist()]
        self._answer(rows)
        return pa.Table.from_pylist(rows, schema=schema.ANSWERS)


@dataclass(frozen=True)
class MakePairs:
    """schema.ANSWERS -> schema.PAIR."""

    config: GeneratePairsConfig

    def __call__(self, answers: pa.Table) -> pa.Table:
        describe = PROMPT_SETS[prompts_name(self.config.respond.model)].describe
        made: list[dict[str, Any]] = []
        for row in answers.to_pylist():
            made += pairs.make_pairs(row, describe, self.config.pairs, self.config.seed)
        return pa.Table.from_pylist(made, schema=schema.with_metadata(schema.PAIR, self.config.hash()))


@dataclass(frozen=True)
class CountDrops:
    """schema.ANSWERS -> (rule, count): how many candidate pairs each rule dropped."""

    config: GeneratePairsConfig

    def __call__(self, answers: pa.Table) -> pa.Table:
        dropped: Counter[str] = Counter()
        for row in answers.to_pylist():
            dropped.update(pairs.broken_rules(row, self.config.pairs))
        return pa.table({"rule": list(dropped), "count": list(dropped.values())}, schema=_DROPS)


_DROPS = pa.schema([("rule", pa.string()), ("count", pa.int64())])


def _actors(pool: Pool) -> dict[str, Any]:
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=pool.min_size, max_size=pool.max_size),
        "batch_size": pool.batch,
        "batch_format": "pyarrow",
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
    }


def write_manifest(config: GeneratePairsConfig) -> int:
    """Lists the input into videos/, beside what an earlier run of the same directory listed. Returns the number of rows."""
    paths = RunPaths(config.run)
    rows = {row["video_id"]: row for row in list_videos(config.videos)}
    filesystem, folder = resolve(paths.videos)
    file = f"{folder}/manifest.parquet"
    if exists(f"{paths.videos}/manifest.parquet"):
        known = pq.read_table(file, filesystem=filesystem).to_pylist()
        rows = {row["video_id"]: row for row in known} | rows
    filesystem.create_dir(folder, recursive=True)
    table = pa.Table.from_pylist(list(rows.values()), schema=schema.with_metadata(schema.VIDEO, config.hash()))
    pq.write_table(table, f"{folder}/.manifest.part", filesystem=filesystem)
    filesystem.move(f"{folder}/.manifest.part", file)
    return len(rows)


def write_answers(config: GeneratePairsConfig) -> None:
    """Every video of the manifest that has no row in answers/ yet gets one; a video is committed whole or not at all."""
    paths = RunPaths(config.run)
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="video_id", checkpoint_path=paths.ledger, delete_checkpoint_on_success=False
    )
    chosen, answered = config.select.pool, config.respond.pool
    try:
        (
            ray.data.read_parquet(paths.videos)
            .repartition(target_num_rows_per_block=chosen.batch)
            .map_batches(SelectClips, fn_constructor_args=(config,), **_actors(chosen))
            .map_batches(WriteAnswers, fn_constructor_args=(config, model_hash(config.respond.model)), **_actors(answered))
            .write_parquet(paths.answers)
        )
    finally:
        context.checkpoint_config = None


def write_pairs(config: GeneratePairsConfig) -> dict[str, int]:
    """answers/ -> pairs/, made anew. Returns how many candidates each rule dropped."""
    paths = RunPaths(config.run)
    answers = ray.data.read_parquet(paths.answers)
    answers.map_batches(MakePairs(config), batch_format="pyarrow", batch_size=64).write_parquet(
        paths.pairs, mode=SaveMode.OVERWRITE
    )
    counted = answers.map_batches(CountDrops(config), batch_format="pyarrow", batch_size=64).take_all()
    dropped: Counter[str] = Counter()
    for row in counted:
        dropped[row["rule"]] += row["count"]
    return dict(dropped)


def _column(folder: str, names: list[str]) -> pa.Table:
    filesystem, path = resolve(folder)
    return pa.dataset.dataset(path, filesystem=filesystem, format="parquet").to_table(columns=names)


def count(config: GeneratePairsConfig) -> dict[str, Any]:
    """What became of every video: videos_in = kept + dropped + failed; with reasons, answers and pairs."""
    paths = RunPaths(config.run)
    rows = _column(paths.answers, ["status", "reason", "answers"])
    status = Counter(rows["status"].to_pylist())
    reasons = Counter(
        f"{state}: {reason.split(' (')[0]}"
        for state, reason in zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True)
        if reason is not None
    )
    return {
        "videos_in": _column(paths.videos, ["video_id"]).num_rows,
        "kept": status["kept"],
        "dropped": status["dropped"],
        "failed": status["failed"],
        "reasons": dict(reasons.most_common()),
        "answers": sum(len(answers) for answers in rows["answers"]),
        # where no answer made a pair, Ray Data has written no folder
        "pairs": _column(paths.pairs, ["pair_id"]).num_rows if exists(paths.pairs) else 0,
    }


def run(config: GeneratePairsConfig, counts: dict[str, Any]) -> None:
    """The whole job; fills `counts` as it goes. Raises RuntimeError where a video is not accounted for."""
    counts["videos_in"] = write_manifest(config)
    write_answers(config)
    counts["pairs_dropped"] = write_pairs(config)
    counts.update(count(config))
    if counts["videos_in"] != counts["kept"] + counts["dropped"] + counts["failed"]:
        raise RuntimeError(f"videos in are not kept + dropped + failed: {counts}; run the same command again")
