"""A run that may have died in a commit -> consistent answers and checkpoint, to resume from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data.checkpoint import CheckpointConfig

from tempo_ray.paths import RunPaths
from tempo_ray.storage import delete_file, join, list_files, parquet_dataset
from tempo_ray.tables import open_dataset

MAX_BLOCKS = 8192
_PENDING = ".pending.parquet"


def unanswered_blocks(paths: RunPaths, batch_rows: int) -> list[pa.Table]:
    """The rows of the manifest whose ids are not in the checkpoint, in blocks.

    Read here and not by Ray Data: the tasks in which it reads need CPUs beside those of the actors,
    and would wait for ever on a node that the actors fill.
    """
    manifest = open_dataset(paths.videos)
    if manifest is None:
        return []
    rows = manifest.to_table()
    size = rows_per_block(len(rows), batch_rows)
    rows = rows.filter(pc.invert(pc.is_in(rows["video_id"], value_set=_answered(paths))))
    return [rows.slice(first, size) for first in range(0, len(rows), size)]


def _answered(paths: RunPaths) -> pa.ChunkedArray:
    """The ids in the checkpoint."""
    checkpoint = parquet_dataset(paths.answers_checkpoint)
    if checkpoint is None or not checkpoint.files:
        return pa.chunked_array([[]], pa.string())
    return checkpoint.to_table(columns=["video_id"])["video_id"]


def rows_per_block(videos: int, batch_rows: int) -> int:
    """Rows of a block, which is committed whole or not at all and is one file of answers/: a batch
    of the first pool, or more where there would be over MAX_BLOCKS blocks."""
    return max(batch_rows, math.ceil(videos / MAX_BLOCKS))


@contextmanager
def checkpointed(paths: RunPaths) -> Iterator[None]:
    """Within it, a Ray Data chain to a Parquet folder adds the ids of what it writes to the
    checkpoint."""
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="video_id",
        checkpoint_path=paths.answers_checkpoint,
        delete_checkpoint_on_success=False,
    )
    # Each file has its own time limit, and a cluster may take an hour to provide its nodes: no
    # progress is not an error.
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = 3
    try:
        yield
    finally:
        context.checkpoint_config = None


def reconcile(paths: RunPaths) -> int:
    """Makes answers/ and its checkpoint agree after a run that may have died in a commit. Returns
    the number of answered videos.

    Ray Data writes X.pending.parquet to the checkpoint, then the rows, then renames the former to
    X.parquet. In a bucket a rename is a copy and a deletion, so both may be left: then the rows are
    complete. Where only the pending file is left the rows may be torn, and are deleted.
    """
    checkpoint = paths.answers_checkpoint
    files = [name for name in list_files(checkpoint) if name.endswith(".parquet")]
    pending = [name for name in files if name.endswith(_PENDING)]
    committed = [name for name in files if not name.endswith(_PENDING)]
    stems = [name.removesuffix(_PENDING) for name in pending]
    torn = tuple(stem for stem in stems if f"{stem}.parquet" not in committed)
    for name in list_files(paths.answers) if torn else []:
        if name.startswith(torn) and name.endswith(".parquet"):
            delete_file(join(paths.answers, name))
    for name in pending:
        delete_file(join(checkpoint, name))
    return int(pc.count_distinct(_answered(paths)).as_py())
