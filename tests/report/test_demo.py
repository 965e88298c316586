"""The demo's figures, table and picture, from the summaries of its jobs and a pair."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import pyplot

from tempo_ray.errors import UserError
from tempo_ray.records import (
    EvaluateSummary,
    GroupComparison,
    GroupScore,
    ModelScores,
    Pair,
    PairsSummary,
    read_row,
    write_row,
)
from tempo_ray.report.demo import (
    DemoFacts,
    DemoScore,
    draw_summary,
    facts_from,
    pick_pair,
    table,
)
from tempo_ray.schema import PAIR, with_metadata
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

GROUPS = ("order", "other", "motion", "none", "kind:first")
PAIR_OF_TWO = Pair(
    pair_id="p",
    video_id="v",
    uri="/elsewhere/v.mp4",
    prompt="Describe.",
    chosen="one then two",
    rejected="two then one",
    form="caption",
    perturbation="reverse",
    strength=16,
    chosen_order=(0, 1),
    rejected_order=(1, 0),
    order_distance=1.0,
    kept_share=1.0,
    text_distance=0.5,
    length_ratio=1.0,
    chosen_tokens=3,
    rejected_tokens=3,
    chosen_answer_id="a",
    rejected_answer_id="b",
    rules=(),
    seed=0,
    model="m",
    model_hash="h",
    config_hash="c",
    pairs_config_hash="d",
)


@pytest.fixture
def facts() -> DemoFacts:
    score = DemoScore(
        sft=0.5,
        tempo=0.625,
        chance=0.25,
        difference=0.125,
        low=-0.1,
        high=0.3,
        p=0.2,
        questions=7,
    )
    return DemoFacts(
        seed=3,
        seconds={"total": 90.0},
        videos=4,
        kept=4,
        dropped=0,
        failed=0,
        pairs=40,
        accuracy=dict.fromkeys(GROUPS, score),
    )


def write_pairs(folder: Path, *pairs: Pair) -> Path:
    folder.mkdir()
    rows = [write_row(pair) for pair in pairs]
    pairs_table = pa.Table.from_pylist(rows, schema=with_metadata(PAIR, "hash"))
    pq.write_table(pairs_table, folder / "a.parquet")
    return folder


def test_the_table_says_what_the_facts_say(facts: DemoFacts) -> None:
    lines = table(facts).splitlines()
    words = "order of events 50.0% 62.5% +12.5 -10.0 to +30.0 25.0% 7"
    assert lines[1].split() == words.split()
    assert lines[2].startswith("  what comes first")
    assert lines[-1] == "4 videos -> 40 pairs, seed 3, 1.5 minutes in all"


def test_facts_come_from_the_summaries_of_the_jobs() -> None:
    pairs = PairsSummary(videos_in=4, kept=3, dropped=1, failed=0, pairs=40)
    accuracy = GroupScore(value=0.5, low=0.2, high=0.8, questions=7, chance=0.253456, unanswered=0)
    difference = GroupComparison(
        first=0.5,
        second=0.61234567,
        difference=0.11234567,
        low=-0.1,
        high=0.3,
        p=0.000012,
        questions=7,
        videos=2,
    )
    model = ModelScores(seconds=1.0, groups=dict.fromkeys(GROUPS, accuracy))
    scores = EvaluateSummary(
        task="shapeworld",
        models={"sft": model, "tempo": model},
        compared={"tempo": dict.fromkeys(GROUPS, difference)},
    )
    status = {"status": "done", "seconds": 9.0, "error": None}
    facts = facts_from(
        pairs=json.loads(json.dumps(write_row(pairs) | status)),
        scores=json.loads(json.dumps(write_row(scores) | status)),
        seed=3,
        seconds={"world": 1.0, "total": 90.0},
    )
    assert (facts.videos, facts.kept, facts.dropped, facts.pairs) == (4, 3, 1, 40)
    assert list(facts.accuracy) == list(GROUPS)
    expected = DemoScore(
        sft=0.5,
        tempo=0.6123,
        chance=0.2535,
        difference=0.1123,
        low=-0.1,
        high=0.3,
        p=0.0,
        questions=7,
    )
    assert facts.accuracy["order"] == expected


def test_facts_can_be_read_back(facts: DemoFacts) -> None:
    assert read_row(DemoFacts, json.loads(json.dumps(write_row(facts)))) == facts


def test_a_pair_in_a_very_different_order_is_picked(tmp_path: Path) -> None:
    dropped = replace(PAIR_OF_TWO, pair_id="q", perturbation="drop")
    slightly = replace(PAIR_OF_TWO, pair_id="r", order_distance=0.3)
    folder = write_pairs(tmp_path / "pairs", dropped, PAIR_OF_TWO, slightly)
    assert pick_pair(folder) == PAIR_OF_TWO


def test_pairs_of_another_schema_version_are_refused(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", PAIR_OF_TWO)
    old = PAIR.with_metadata({"tempo_ray.schema_version": "2"})
    rows = [write_row(PAIR_OF_TWO)]
    pq.write_table(pa.Table.from_pylist(rows, schema=old), folder / "a.parquet")
    with pytest.raises(UserError, match="schema version 2"):
        pick_pair(folder)


def test_the_picture_is_drawn(facts: DemoFacts, tmp_path: Path) -> None:
    write_video(draw_story(np.random.default_rng(0), 5), tmp_path / "v.mp4", 24, 64, 64)
    pairs = write_pairs(tmp_path / "pairs", PAIR_OF_TWO)
    draw_summary(facts, tmp_path, pairs, tmp_path / "demo.png")
    pixels = pyplot.imread(tmp_path / "demo.png")
    assert pixels.shape[:2] == (1032, 1440)
    assert pixels[..., :3].std() > 0.1
