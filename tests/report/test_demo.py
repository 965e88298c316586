"""The demo's table and picture, from facts and a pair."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import pyplot

from tempo_ray.report.demo import draw_summary, table
from tempo_ray.schema import PAIR
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story


def row(sft: float, tempo: float) -> dict[str, Any]:
    return {
        "sft": sft,
        "tempo": tempo,
        "chance": 0.25,
        "difference": tempo - sft,
        "low": -0.1,
        "high": 0.3,
        "questions": 7,
    }


@pytest.fixture
def facts() -> dict[str, Any]:
    accuracy = {
        name: row(0.5, 0.625) for name in ("order", "other", "motion", "none", "kind:first")
    }
    return {"accuracy": accuracy, "seconds": {"total": 90.0}, "videos": 4, "pairs": 40, "seed": 3}


def test_the_table_says_what_the_facts_say(facts: dict[str, Any]) -> None:
    lines = table(facts).splitlines()
    assert lines[1].split() == [
        "order",
        "of",
        "events",
        "50.0%",
        "62.5%",
        "+12.5",
        "-10.0",
        "to",
        "+30.0",
        "25.0%",
        "7",
    ]
    assert lines[2].startswith("  what comes first")
    assert lines[-1] == "4 videos -> 40 pairs, seed 3, 1.5 minutes in all"


def test_the_picture_is_drawn(facts: dict[str, Any], tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    write_video(draw_story(np.random.default_rng(0), 5), video, 24, 64, 64)
    pair = dict.fromkeys(PAIR.names) | {
        "pair_id": "p",
        "uri": str(video),
        "prompt": "Describe.",
        "chosen": "one then two",
        "rejected": "two then one",
        "perturbation": "reverse",
        "strength": 16,
        "rejected_order": [1, 0],
        "order_distance": 1.0,
        "text_distance": 0.5,
    }
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.Table.from_pylist([pair], schema=PAIR), tmp_path / "pairs" / "a.parquet")
    draw_summary(facts, tmp_path, tmp_path / "pairs", tmp_path / "demo.png")
    pixels = pyplot.imread(tmp_path / "demo.png")
    assert pixels.shape[:2] == (1032, 1440)
    assert pixels[..., :3].std() > 0.1
