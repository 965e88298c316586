"""A run directory after a run that died, made consistent."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray

from tempo_ray import schema
from tempo_ray.data.run.recovery import (
    checkpointed,
    reconcile,
    rows_per_block,
    unanswered_blocks,
)
from tempo_ray.paths import RunPaths
from tempo_ray.records import Video
from tempo_ray.tables import table_of


def write(file: Path, *ids: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"video_id": list(ids)}), file)


def test_what_a_dead_run_left_in_a_commit_is_reconciled(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    answers, checkpoint = Path(paths.answers), Path(paths.answers_checkpoint)
    for name, ids in (("one_000", ("a", "b")), ("two_000", ("c",)), ("three_000", ("d",))):
        write(checkpoint / f"{name}.parquet", *ids)
        write(answers / f"{name}_000000-0.parquet", *ids)
    # a rename in a bucket: copied, and not yet deleted
    write(checkpoint / "three_000.pending.parquet", "d")
    write(checkpoint / "four_000.pending.parquet", "e")
    (answers / "four_000_000000-0.parquet").write_bytes(b"PAR1 torn")
    write(checkpoint / "five_000.pending.parquet", "f")  # before its rows were written
    assert reconcile(paths) == 4
    assert sorted(file.name for file in answers.iterdir()) == [
        f"{name}_000_000000-0.parquet" for name in ("one", "three", "two")
    ]
    assert sorted(file.name for file in checkpoint.iterdir()) == [
        f"{name}_000.parquet" for name in ("one", "three", "two")
    ]
    assert ds.dataset(answers, format="parquet").count_rows() == 4
    assert reconcile(paths) == 4


def test_blocks_are_the_rows_of_the_manifest_that_are_not_in_the_checkpoint(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    ids = [f"{number:02d}" for number in range(10)]
    videos = [Video(one, f"{one}.mp4", 1) for one in ids]
    manifest = Path(paths.videos) / "manifest.parquet"
    manifest.parent.mkdir()
    pq.write_table(table_of(videos, schema.with_metadata(schema.VIDEO, "hash")), manifest)

    def blocks() -> list[list[str]]:
        return [block["video_id"].to_pylist() for block in unanswered_blocks(paths, 4)]

    assert blocks() == [ids[:4], ids[4:8], ids[8:]]
    checkpoint = Path(paths.answers_checkpoint)
    checkpoint.mkdir(parents=True)
    assert blocks() == [ids[:4], ids[4:8], ids[8:]]
    write(checkpoint / "one.parquet", "00", "05", "09")
    write(checkpoint / "two.parquet", "05", "03")
    assert blocks() == [["01", "02", "04", "06"], ["07", "08"]]
    write(checkpoint / "three.parquet", *ids)
    assert blocks() == []


def test_a_run_that_has_not_begun_has_no_answers(tmp_path: Path) -> None:
    assert reconcile(RunPaths(str(tmp_path / "none"))) == 0


def test_a_block_is_a_batch_or_a_share_of_a_large_manifest() -> None:
    assert rows_per_block(100, batch_rows=8) == 8
    assert rows_per_block(8 * 8192, batch_rows=8) == 8
    assert rows_per_block(8 * 8192 + 1, batch_rows=8) == 9


def test_the_checkpoint_is_that_of_the_run_and_of_the_chain_alone(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    context = ray.data.DataContext.get_current()
    with checkpointed(paths):
        config = context.checkpoint_config
        assert (config.id_column, config.checkpoint_path) == ("video_id", paths.answers_checkpoint)
        assert not config.delete_checkpoint_on_success
    assert context.checkpoint_config is None
