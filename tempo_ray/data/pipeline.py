"""The chain from videos to pairs on Ray Data: videos/ -> select -> respond -> answers/, and answers/ -> pairs/."""

import json
import math
import os
import posixpath
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
from pyarrow import fs
from ray.data import SaveMode
from ray.data.checkpoint import CheckpointConfig

from tempo_ray import schema
from tempo_ray.config import GeneratePairsConfig, Pool
from tempo_ray.data import pairs, respond
from tempo_ray.data.metrics import Meter, reported
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.select import PASSING, Selector
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import EngineDied, model_hash
from tempo_ray.paths import RunPaths, delete_folder, exists, resolve, write_bytes, writing

Row = dict[str, Any]


class SelectClips:
    """schema.VIDEO -> schema.ANSWERS: the verdict on each video, its cuts and its clips."""

    def __init__(self, config: GeneratePairsConfig, progress: Any) -> None:
        self._select = Selector(config.select)
        self._meter = Meter(progress)

    def __call__(self, videos: pa.Table) -> pa.Table:
        rows = [self._select(video) for video in videos.to_pylist()]
        self._meter.selected(rows)
        return pa.Table.from_pylist(rows, schema=schema.ANSWERS)


class WriteAnswers:
    """schema.ANSWERS -> the same, kept videos with their captions and answers; one vLLM engine an actor.

    Rows that failed in passing go to failures/ instead, so that the next run tries their videos again.
    """

    def __init__(self, config: GeneratePairsConfig, hashed: str, progress: Any) -> None:
        self._stamp = {
            "model": config.respond.model,
            "model_hash": hashed,
            "config_hash": config.hash(),
        }
        read = respond.KeyFrameReader(
            config.respond, config.select.decode
        )  # its processes start while the engine does
        self._engine = respond.make_engine(config.respond, max(1, int(config.respond.pool.cpus)))
        prompts = PROMPT_SETS[prompts_name(config.respond.model)]
        self._answer = respond.Answerer(
            self._engine.generate, read, prompts, config.respond, config.seed
        )
        self._failures = RunPaths(config.run).failures
        self._schema = schema.with_metadata(schema.ANSWERS, config.hash())
        self._meter = Meter(progress)

    def __call__(self, answers: pa.Table) -> pa.Table:
        rows = [row | self._stamp for row in answers.to_pylist()]
        self._meter.asks(rows)
        try:
            self._answer(rows)
        except EngineDied:
            traceback.print_exc()
            os._exit(
                1
            )  # Ray starts the actor again and gives it the same rows; a dead engine would fail them all
        self._meter.answered(rows, self._engine.counters())
        passing = [row for row in rows if row["reason"] == PASSING]
        if passing:
            _write_part(self._failures, pa.Table.from_pylist(passing, schema=schema.FAILURE))
        return pa.Table.from_pylist(
            [row for row in rows if row["reason"] != PASSING], schema=self._schema
        )


@dataclass(frozen=True)
class MakePairs:
    """schema.ANSWERS -> schema.PAIR."""

    config: GeneratePairsConfig

    def __call__(self, answers: pa.Table) -> pa.Table:
        describe = PROMPT_SETS[prompts_name(self.config.respond.model)].describe
        made: list[Row] = []
        for row in answers.to_pylist():
            made += pairs.make_pairs(
                row, describe, self.config.pairs, self.config.seed, self.config.hash()
            )
        return pa.Table.from_pylist(
            made, schema=schema.with_metadata(schema.PAIR, self.config.hash())
        )


@dataclass(frozen=True)
class Tally:
    """schema.ANSWERS -> (what, name, count): rows by status and by reason, answers, and candidates dropped by each rule."""

    config: GeneratePairsConfig

    def __call__(self, answers: pa.Table) -> pa.Table:
        counted: Counter[tuple[str, str]] = Counter()
        for row in answers.to_pylist():
            counted["status", row["status"]] += 1
            if row["reason"] is not None:
                counted["reason", f"{row['status']}: {row['reason'].split(' (')[0]}"] += 1
            counted["answers", "answers"] += len(row["answers"])
            counted.update(("rule", rule) for rule in pairs.broken_rules(row, self.config.pairs))
        what, names = zip(*counted, strict=True) if counted else ((), ())
        return pa.table(
            {"what": what, "name": names, "count": list(counted.values())}, schema=_TALLY
        )


_TALLY = pa.schema([("what", pa.string()), ("name", pa.string()), ("count", pa.int64())])


def _actors(pool: Pool, together: int = 1) -> dict[str, Any]:
    threads: dict[str, Any] = {}
    if together > 1:
        threads = {"max_concurrent_calls_per_actor": together, "enable_true_multi_threading": True}
    return {
        "compute": ray.data.ActorPoolStrategy(
            min_size=pool.min_size, max_size=pool.max_size, **threads
        ),
        "batch_size": pool.batch,
        "batch_format": "pyarrow",
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
    }


def _write_part(folder: str, table: pa.Table) -> None:
    with writing(posixpath.join(folder, f"{uuid.uuid4().hex}.parquet")) as stream:
        pq.write_table(table, stream)


@dataclass(frozen=True)
class Step:
    """An arrow of the chain: a callable class, what it is made with, and the pool of actors that hold it."""

    made: type
    given: tuple[Any, ...]
    pool: Pool
    together: int = 1
    """Batches that one actor works on at the same time."""


MOST_BLOCKS = 8192


def stream(paths: RunPaths, videos: int, steps: Sequence[Step]) -> None:
    """videos/ -> the steps -> answers/, in blocks of whole videos; rows whose ids stand in the ledger are left out.

    A block is committed whole or not at all, and is one file of answers/: the largest batch of the pools, or more where there
    would be over MOST_BLOCKS of them.
    """
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="video_id", checkpoint_path=paths.ledger, delete_checkpoint_on_success=False
    )
    # Files have their own limits of time; a cluster may take an hour to lend its nodes, and that is no error.
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = 3
    rows = max(steps[0].pool.batch, math.ceil(videos / MOST_BLOCKS))
    try:
        chain = ray.data.read_parquet(paths.videos).repartition(target_num_rows_per_block=rows)
        for step in steps:
            chain = chain.map_batches(
                step.made, fn_constructor_args=step.given, **_actors(step.pool, step.together)
            )
        chain.write_parquet(paths.answers)
    finally:
        context.checkpoint_config = None


def settled(paths: RunPaths) -> int:
    """Brings answers/ and the ledger into step after a run that may have died in a commit. Returns the rows that stand there.

    Ray Data writes X.pending.parquet, then the rows, then renames the former to X.parquet. Where the rename is a copy and a
    deletion, as in a bucket, both may be left: then the rows are whole. Where the pending one alone is left, the rows may be
    torn, and go. The many small files of the ledger become one, since Ray Data reads a ledger file by file in one task: 625 of
    them take it 20 s, and 6,250 a quarter of an hour. A run that dies in here leaves an id twice, which means the same.
    """
    pending: list[str] = []
    committed: list[str] = []
    for file in _files(paths.ledger):
        (pending if file.endswith(_PENDING) else committed).append(file)
    filesystem, _ = resolve(paths.ledger)
    torn = [
        file.removesuffix(_PENDING)
        for file in pending
        if file.replace(_PENDING, ".parquet") not in set(committed)
    ]
    stems = tuple(posixpath.basename(file) for file in torn)
    for file in _files(paths.answers) if stems else []:
        if posixpath.basename(file).startswith(stems):
            filesystem.delete_file(file)
    for file in pending:
        filesystem.delete_file(file)
    if not committed:
        return 0
    ids = ds.dataset(committed, filesystem=filesystem, format="parquet").to_table().combine_chunks()
    if len(committed) > 1:
        with writing(posixpath.join(paths.ledger, f"{uuid.uuid4().hex}.parquet")) as out:
            pq.write_table(ids, out)
        for file in committed:
            filesystem.delete_file(file)
    return pc.count_distinct(ids["video_id"]).as_py()


_PENDING = ".pending.parquet"


def _files(folder: str) -> list[str]:
    filesystem, path = resolve(folder)
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.path for info in found if info.path.endswith(".parquet")]


def write_answers(config: GeneratePairsConfig, videos: int, progress: Any) -> None:
    """Every video of the manifest that has no row in answers/ yet gets one."""
    paths = RunPaths(config.run)
    delete_folder(paths.failures)
    select = Step(SelectClips, (config, progress), config.select.pool)
    given = (config, model_hash(config.respond.model), progress)
    write = Step(WriteAnswers, given, config.respond.pool, config.respond.batches_in_flight)
    stream(paths, videos, [select, write])


def write_pairs(config: GeneratePairsConfig) -> None:
    """answers/ -> pairs/, made anew."""
    paths = RunPaths(config.run)
    if not _rows(paths.answers):
        delete_folder(paths.pairs)
        return
    answers = ray.data.read_parquet(paths.answers)
    answers.map_batches(MakePairs(config), batch_format="pyarrow", batch_size=64).write_parquet(
        paths.pairs, mode=SaveMode.OVERWRITE
    )


def tally(config: GeneratePairsConfig) -> dict[str, Counter[str]]:
    """What stands in answers/, counted where it lies."""
    counted: dict[str, Counter[str]] = {
        "status": Counter(),
        "reason": Counter(),
        "answers": Counter(),
        "rule": Counter(),
    }
    if not _rows(RunPaths(config.run).answers):
        return counted
    answers = ray.data.read_parquet(RunPaths(config.run).answers)
    for row in answers.map_batches(
        Tally(config), batch_format="pyarrow", batch_size=256
    ).iter_rows():
        counted[row["what"]][row["name"]] += row["count"]
    return counted


def _rows(folder: str) -> int:
    filesystem, path = resolve(folder)
    return (
        ds.dataset(path, filesystem=filesystem, format="parquet").count_rows()
        if exists(folder)
        else 0
    )


def passing_failures(config: GeneratePairsConfig) -> int:
    """Videos in failures/. An actor that was started again may have written one twice, or read it after all."""
    failed = _ids(RunPaths(config.run).failures)
    if not failed:
        return 0
    filesystem, path = resolve(RunPaths(config.run).answers)
    answered = (
        ds.dataset(path, filesystem=filesystem, format="parquet")
        if exists(RunPaths(config.run).answers)
        else None
    )
    known = pc.field("video_id").isin(list(failed))
    return len(failed) - (0 if answered is None else answered.count_rows(filter=known))


def _ids(folder: str) -> set[str]:
    if not exists(folder):
        return set()
    filesystem, path = resolve(folder)
    return set(
        ds.dataset(path, filesystem=filesystem, format="parquet")
        .to_table(columns=["video_id"])["video_id"]
        .to_pylist()
    )


def count(config: GeneratePairsConfig, videos_in: int) -> dict[str, Any]:
    """What became of every video: videos_in = kept + dropped + failed; with reasons, answers and pairs."""
    counted = tally(config)
    passing = passing_failures(config)
    if passing:
        counted["reason"][f"failed: {PASSING}"] += passing
    return {
        "videos_in": videos_in,
        "kept": counted["status"]["kept"],
        "dropped": counted["status"]["dropped"],
        "failed": counted["status"]["failed"] + passing,
        "to_try_again": passing,
        "reasons": dict(counted["reason"].most_common()),
        "answers": counted["answers"]["answers"],
        "pairs": _rows(RunPaths(config.run).pairs),
        "pairs_dropped": dict(counted["rule"].most_common()),
    }


def run(
    config: GeneratePairsConfig, counts: dict[str, Any], report: Callable[[str], None] = print
) -> None:
    """The whole job, once the manifest is written; fills `counts` as it goes.

    Raises RuntimeError where a video is not accounted for.
    """
    videos = counts["videos_in"]
    paths = RunPaths(config.run)
    done = settled(paths)
    if not done:
        write_bytes(paths.settings, json.dumps(config.settings(), indent=1).encode())
    report(
        f"{videos} videos in the manifest" + (f", {done} of them answered before" if done else "")
    )
    if done < videos:
        with reported(videos - done, report) as progress:
            write_answers(config, videos, progress)
            counts.update(ray.get(progress.speeds.remote()))
    write_pairs(config)
    counts.update(count(config, videos))
    if videos != counts["kept"] + counts["dropped"] + counts["failed"]:
        raise RuntimeError(
            f"videos in are not kept + dropped + failed: {counts}; run the same command again"
        )
