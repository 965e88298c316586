"""videos/ -> select -> respond -> answers/ -> pairs/: the chain itself, on Ray Data."""

import os
import traceback
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from tempo_ray import schema
from tempo_ray.config import GeneratePairsConfig, PoolConfig
from tempo_ray.data.failures import VideoOutcome
from tempo_ray.data.key_frames import KeyFrameReader
from tempo_ray.data.pairs import make_pairs
from tempo_ray.data.prompts import PROMPT_SETS
from tempo_ray.data.respond import Answerer, make_engine
from tempo_ray.data.run.accounting import Tally, sum_of_tallies, table_of_tally, tally_rows
from tempo_ray.data.run.engine_metrics import report_engine
from tempo_ray.data.run.progress import Meter, ProgressActor
from tempo_ray.data.run.recovery import checkpointed, unanswered_blocks
from tempo_ray.data.select import Selector
from tempo_ray.models.check import prompts_name
from tempo_ray.models.engine import EngineDied, model_hash
from tempo_ray.paths import RunPaths
from tempo_ray.records import Pair, TransientFailure, Video, VideoAnswers
from tempo_ray.storage import delete_folder, join, list_files, open_output
from tempo_ray.tables import read_records, records_of, table_of

FILES_PER_TASK = 4
"""Files of answers/ from which a task makes pairs."""


class SelectClips:
    """schema.VIDEO -> schema.VIDEO_ANSWERS: the verdict on each video, its shots and its clips."""

    def __init__(self, config: GeneratePairsConfig, progress: ProgressActor) -> None:
        self._select = Selector(config.select)
        self._meter = Meter(progress, config.respond.model)
        self._paths = RunPaths(config.run)

    def __call__(self, videos: pa.Table) -> pa.Table:
        outcomes = [self._select(video) for video in records_of(Video, videos)]
        self._meter.selected(outcomes)
        rows = set_transient_aside(outcomes, self._paths.failures)
        return table_of(rows, schema.VIDEO_ANSWERS)


class WriteAnswers:
    """schema.VIDEO_ANSWERS -> the same, the kept videos with captions and answers.

    One vLLM engine per actor.
    """

    def __init__(
        self, config: GeneratePairsConfig, model_hash: str, progress: ProgressActor
    ) -> None:
        self._config = config
        self._model_hash = model_hash
        # first, so that its processes start while the engine does
        read = KeyFrameReader(config.respond, config.select.decode)
        self._engine = make_engine(config.respond, max(1, int(config.respond.pool.cpus)))
        prompts = PROMPT_SETS[prompts_name(config.respond.model)]
        self._answer = Answerer(self._engine.generate, read, prompts, config.respond, config.seed)
        self._meter = Meter(progress, config.respond.model)
        progress.engine_ready.remote()
        report_engine(self._engine, config.respond.pool.gpus)
        self._schema = schema.with_metadata(schema.VIDEO_ANSWERS, config.hash())

    def __call__(self, selected: pa.Table) -> pa.Table:
        rows = [self._stamped(row) for row in records_of(VideoAnswers, selected)]
        self._meter.asking(rows)
        try:
            outcomes = self._answer(rows)
        except EngineDied:
            traceback.print_exc()
            # Ray restarts the actor and gives it the same rows; a dead engine would fail them all
            os._exit(1)
        self._meter.answered(outcomes, self._engine.counters())
        answered = set_transient_aside(outcomes, RunPaths(self._config.run).failures)
        return table_of(answered, self._schema)

    def _stamped(self, row: VideoAnswers) -> VideoAnswers:
        return replace(
            row,
            model=self._config.respond.model,
            model_hash=self._model_hash,
            config_hash=self._config.hash(),
        )


@dataclass(frozen=True)
class MakePairs:
    """Names of files of answers/ -> a file of schema.PAIR in pairs/ for each that has pairs, under
    its name; and the tally of their rows."""

    config: GeneratePairsConfig

    def __call__(self, files: pa.Table) -> pa.Table:
        tally: Tally = Counter()
        for name in files["file"].to_pylist():
            rows = read_records(VideoAnswers, join(RunPaths(self.config.run).answers, name))
            tally += tally_rows(rows, self.config.pairs)
            self._write(rows, name)
        return table_of_tally(tally)

    def _write(self, rows: Sequence[VideoAnswers], name: str) -> None:
        config, config_hash = self.config, self.config.hash()
        describe = PROMPT_SETS[prompts_name(config.respond.model)].describe
        pairs: list[Pair] = []
        for row in rows:
            pairs += make_pairs(row, describe, config.pairs, config.seed, config_hash)
        if pairs:
            table = table_of(pairs, schema.with_metadata(schema.PAIR, config_hash))
            with open_output(join(RunPaths(config.run).pairs, name)) as stream:
                pq.write_table(table, stream)


def set_transient_aside(outcomes: Sequence[VideoOutcome], folder: str) -> list[VideoAnswers]:
    """Writes the transient failures to failures/, from where the next run retries them, and returns
    the rows that stay."""
    transient = [row for row in outcomes if isinstance(row, TransientFailure)]
    if transient:
        with open_output(join(folder, f"{uuid.uuid4().hex}.parquet")) as stream:
            pq.write_table(table_of(transient, schema.FAILURE), stream)
    return [row for row in outcomes if isinstance(row, VideoAnswers)]


def actor_pool(pool: PoolConfig, batches_in_flight: int = 1) -> dict[str, Any]:
    """map_batches arguments for a pool of actors, each with that many batches at a time."""
    threads: dict[str, Any] = {}
    if batches_in_flight > 1:
        threads = {
            "max_concurrent_calls_per_actor": batches_in_flight,
            "enable_true_multi_threading": True,
        }
    return {
        "compute": ray.data.ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size,
            initial_size=pool.initial_size,
            **threads,
        ),
        "batch_size": pool.batch_rows,
        "batch_format": "pyarrow",
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
        "memory": pool.memory or None,
        "resources": pool.resources,
        "label_selector": pool.label_selector,
    }


def write_answers(config: GeneratePairsConfig, progress: ProgressActor) -> None:
    """Every video of the manifest that has no row in answers/ yet gets one.

    Only the actors ask for CPUs: whatever nodes can hold an actor of each pool, the chain ends.
    """
    paths = RunPaths(config.run)
    delete_folder(paths.failures)
    select, respond = config.select, config.respond
    blocks = unanswered_blocks(paths, select.pool.batch_rows)
    with checkpointed(paths):
        (
            ray.data.from_blocks(blocks)
            .map_batches(
                SelectClips,
                fn_constructor_args=(config, progress),
                **actor_pool(select.pool),
            )
            .map_batches(
                WriteAnswers,
                fn_constructor_args=(config, model_hash(respond.model), progress),
                **actor_pool(respond.pool, respond.batches_in_flight),
            )
            .write_parquet(paths.answers, ray_remote_args={"num_cpus": 0})
        )


def write_pairs(config: GeneratePairsConfig) -> Tally:
    """answers/ -> pairs/, which is replaced: rules can change without asking the model again.
    Returns the tally of answers/.

    Ray Data gets the names of the files and not their rows: the actors that would look for these
    ask for a CPU each, of any node, and 32 of them make a cluster grow for seconds of work. Its
    tasks run where those of selection do.
    """
    paths, pool = RunPaths(config.run), config.select.pool
    delete_folder(paths.pairs)
    names = [name for name in list_files(paths.answers) if name.endswith(".parquet")]
    blocks = [
        pa.table({"file": names[first : first + FILES_PER_TASK]})
        for first in range(0, len(names), FILES_PER_TASK)
    ]
    if not blocks:
        return Counter()
    tallies = ray.data.from_blocks(blocks).map_batches(
        MakePairs(config),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
        compute=ray.data.TaskPoolStrategy(pool.max_size),
        resources=pool.resources,
        label_selector=pool.label_selector,
    )
    return sum_of_tallies(tallies.iter_rows())
