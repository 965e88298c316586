"""The operators on tables of a few rows. The chain on Ray is in tests/integration."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray

from tempo_ray import schema
from tempo_ray.config import GeneratePairsConfig, PoolConfig, RespondConfig, VideosConfig
from tempo_ray.data.pipeline import MakePairs, actor_pool, set_transient_aside
from tempo_ray.data.prompts import SHAPEWORLD
from tempo_ray.data.run.accounting import sum_of_tallies, tally_rows
from tempo_ray.records import Pair, TransientFailure
from tempo_ray.tables import records_of, table_of
from tests.data.rows import answer, kept_video


def test_pairs_of_a_file_are_in_a_file_of_its_name(tmp_path: Path) -> None:
    config = GeneratePairsConfig(
        run=str(tmp_path),
        videos=VideosConfig(input="in"),
        respond=RespondConfig(model="builtin:qwen2_5_vl"),
    )
    kept = kept_video(answer("clean", "a b c"), answer("shuffle", "c b a"))
    dropped = kept_video(video_id="b", status="dropped", reason="too few shots (3 < 4)")
    (tmp_path / "answers").mkdir()
    for name, rows in (("0.parquet", [kept, dropped]), ("1.parquet", [dropped])):
        pq.write_table(table_of(rows, schema.VIDEO_ANSWERS), tmp_path / "answers" / name)
    tally = MakePairs(config)(pa.table({"file": ["0.parquet", "1.parquet"]}))
    assert sum_of_tallies(tally.to_pylist()) == tally_rows([kept, dropped, dropped], config.pairs)
    assert [file.name for file in (tmp_path / "pairs").iterdir()] == ["0.parquet"]
    table = pq.read_table(tmp_path / "pairs/0.parquet")
    (pair,) = records_of(Pair, table)
    assert (pair.video_id, pair.pairs_config_hash) == ("v", config.hash())
    assert pair.prompt in SHAPEWORLD.describe
    expected = schema.with_metadata(schema.PAIR, config.hash())
    assert table.schema.equals(expected)  # but for the names of list items, which are Parquet's
    assert table.schema.metadata == expected.metadata


def test_transient_failures_are_set_aside_and_the_rest_stays(tmp_path: Path) -> None:
    folder = str(tmp_path / "failures")
    assert set_transient_aside([kept_video()], folder) == [kept_video()]
    assert not Path(folder).exists()
    failure = TransientFailure("t", "t.mp4", "open", "OSError: no")
    assert set_transient_aside([failure, kept_video()], folder) == [kept_video()]
    table = ds.dataset(folder, format="parquet").to_table()
    assert records_of(TransientFailure, table) == [failure]


def test_an_actor_pool_takes_its_sizes_from_the_config() -> None:
    pool = PoolConfig(min_size=2, max_size=3, cpus=1.5, gpus=0.5, batch_rows=7)
    arguments = actor_pool(pool, batches_in_flight=4)
    assert (arguments["batch_size"], arguments["num_cpus"], arguments["num_gpus"]) == (7, 1.5, 0.5)
    compute = arguments["compute"]
    assert isinstance(compute, ray.data.ActorPoolStrategy)
    assert (compute.min_size, compute.max_size) == (2, 3)
    assert compute.max_concurrent_calls_per_actor == 4
    assert compute.initial_size == 2
    assert (arguments["memory"], arguments["resources"], arguments["label_selector"]) == (None,) * 3


def test_an_actor_pool_goes_where_its_config_says() -> None:
    pool = PoolConfig(
        max_size=8,
        initial_size=4,
        memory="3GiB",
        resources={"disk": 0.5},
        label_selector={"tempo-ray/group": "cpu"},
    )
    arguments = actor_pool(pool)
    assert arguments["compute"].initial_size == 4
    assert arguments["memory"] == 3 << 30
    assert arguments["resources"] == {"disk": 0.5}
    assert arguments["label_selector"] == {"tempo-ray/group": "cpu"}
