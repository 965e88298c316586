"""The operators on tables of a few rows. The chain on Ray is in tests/integration."""

from pathlib import Path

import pyarrow.dataset as ds
import ray

from tempo_ray import schema
from tempo_ray.config import GeneratePairsConfig, PoolConfig, RespondConfig, VideosConfig
from tempo_ray.data.pipeline import MakePairs, actor_pool, set_transient_aside
from tempo_ray.data.prompts import SHAPEWORLD
from tempo_ray.records import Pair, TransientFailure
from tempo_ray.tables import records_of, table_of
from tests.data.rows import answer, kept_video


def test_make_pairs_on_two_rows() -> None:
    config = GeneratePairsConfig(
        run="r",
        videos=VideosConfig(input="in"),
        respond=RespondConfig(model="builtin:qwen2_5_vl"),
    )
    rows = [
        kept_video(answer("clean", "a b c"), answer("shuffle", "c b a")),
        kept_video(video_id="b", status="dropped", reason="too few shots (3 < 4)"),
    ]
    table = MakePairs(config)(table_of(rows, schema.VIDEO_ANSWERS))
    (pair,) = records_of(Pair, table)
    assert (pair.video_id, pair.pairs_config_hash) == ("v", config.hash())
    assert pair.prompt in SHAPEWORLD.describe
    assert table.schema.equals(
        schema.with_metadata(schema.PAIR, config.hash()), check_metadata=True
    )


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
