"""A run that may have died in a commit -> consistent answers and checkpoint, to resume from."""

import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
from ray.data.checkpoint import CheckpointConfig

from tempo_ray.paths import RunPaths
from tempo_ray.storage import delete_file, join, list_files, open_output, resolve

MAX_BLOCKS = 8192
_PENDING = ".pending.parquet"


def rows_per_block(videos: int, batch_rows: int) -> int:
    """Rows of a block, which is committed whole or not at all and is one file of answers/: a batch
    of the first pool, or more where there would be over MAX_BLOCKS blocks."""
    return max(batch_rows, math.ceil(videos / MAX_BLOCKS))


@contextmanager
def checkpointed(paths: RunPaths) -> Iterator[None]:
    """Within it, a Ray Data chain from a Parquet file to a Parquet folder skips the rows whose ids
    are in the checkpoint, and adds those that it writes."""
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
    return _merge(checkpoint, committed) if committed else 0


def _merge(checkpoint: str, files: list[str]) -> int:
    """The files of the checkpoint -> one file. Returns the number of different ids.

    Ray Data reads a checkpoint file by file in one task: 625 files take it 20 s, and 6,250 a
    quarter of an hour. A run that dies in here leaves ids twice, which changes nothing.
    """
    filesystem, folder = resolve(checkpoint)
    sources = [join(folder, name) for name in files]
    ids = ds.dataset(sources, filesystem=filesystem, format="parquet").to_table().combine_chunks()
    if len(files) > 1:
        with open_output(join(checkpoint, f"{uuid.uuid4().hex}.parquet")) as stream:
            pq.write_table(ids, stream)
        for name in files:
            delete_file(join(checkpoint, name))
    return int(pc.count_distinct(ids["video_id"]).as_py())
