"""A run directory after a run that died, brought into step."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tempo_ray.data.pipeline import settled
from tempo_ray.paths import RunPaths


def write(file: Path, *ids: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"video_id": list(ids)}), file)


def test_what_a_dead_run_left_in_a_commit(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    answers, ledger = Path(paths.answers), Path(paths.ledger)
    for name, ids in (("one_000", ("a", "b")), ("two_000", ("c",)), ("three_000", ("d",))):
        write(ledger / f"{name}.parquet", *ids)
        write(answers / f"{name}_000000-0.parquet", *ids)
    write(
        ledger / "three_000.pending.parquet", "d"
    )  # the rename of a bucket: copied and not yet deleted
    write(ledger / "four_000.pending.parquet", "e")
    (answers / "four_000_000000-0.parquet").write_bytes(b"PAR1 torn")
    write(ledger / "five_000.pending.parquet", "f")  # before its rows were written
    assert settled(paths) == 4
    assert sorted(file.name for file in answers.iterdir()) == [
        f"{name}_000_000000-0.parquet" for name in ("one", "three", "two")
    ]
    (one,) = ledger.iterdir()
    assert sorted(pq.read_table(one)["video_id"].to_pylist()) == ["a", "b", "c", "d"]
    assert ds.dataset(answers, format="parquet").count_rows() == 4
    assert settled(paths) == 4


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    assert settled(RunPaths(str(tmp_path / "none"))) == 0
