"""A finished run made by hand: two videos, and one pair of each kind of perturbation."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray import schema
from tempo_ray.config import PairsConfig
from tempo_ray.data.pairs import make_pairs
from tempo_ray.paths import RunPaths
from tempo_ray.records import Pair
from tempo_ray.storage import write_bytes
from tempo_ray.tables import table_of
from tests.data.rows import answer, kept_video


def write(table: pa.Table, folder: str) -> None:
    Path(folder).mkdir(parents=True)
    pq.write_table(table, Path(folder) / "0.parquet")


@pytest.fixture
def run(tmp_path: Path) -> tuple[str, dict[str, Pair]]:
    """The run directory, and its pairs by perturbation."""
    paths = RunPaths(str(tmp_path / "run"))
    row = kept_video(
        answer("clean", "first a red square, then a blue circle"),
        answer("drop", "then a blue circle appears", order=(1, 2)),
        answer("shuffle", "first a blue circle, then a red square", order=(3, 2, 1, 0)),
    )
    poor = kept_video(
        video_id="poor",
        status="dropped",
        reason="not rich enough in time (1.00 < 1.5 bits)",
        richness=1.0,
    )
    bad = kept_video(video_id="bad", status="failed", reason="not a video", richness=None)
    pairs = make_pairs(row, ("Tell it.",), PairsConfig(), 0, "paired later")
    answers_schema = schema.with_metadata(schema.VIDEO_ANSWERS, "c")
    write(table_of([row, poor, bad], answers_schema), paths.answers)
    write(table_of(pairs, schema.with_metadata(schema.PAIR, "c")), paths.pairs)
    write_bytes(paths.config("generate_pairs", "c"), b"seed: 0\n")
    return paths.root, {pair.perturbation: pair for pair in pairs}


@pytest.fixture
def version_2(tmp_path: Path) -> str:
    """A run of schema version 2."""
    paths = RunPaths(str(tmp_path / "old"))
    old = pa.schema([("video_id", pa.string())], metadata={"tempo_ray.schema_version": "2"})
    for folder in (paths.answers, paths.pairs):
        write(pa.Table.from_pylist([{"video_id": "v"}], schema=old), folder)
    return paths.root
