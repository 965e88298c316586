"""Differences, intervals and corrections: by hand, and by simulation."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tempo_ray.errors import UserError
from tempo_ray.records import Score
from tempo_ray.report.study import write_study
from tempo_ray.study.table import estimate_over_seeds, holm, study_rows


def score(seed: int, number: int, correct: bool) -> Score:
    groups = ("order", "kind:first") if number % 2 else ("other", "kind:count")
    return Score(
        question_id=f"{seed}-{number}",
        video=f"{seed}-{number // 4}",
        groups=groups,
        chance=0.25,
        answer="A",
        prediction="A" if correct else "B",
        correct=correct,
        error=None,
        finish_reason="stop",
        model="m",
        endpoint="e",
        served="s",
        temperature=0.0,
        max_tokens=8,
        questions_sha256="q",
    )


def scores_of(shares: dict[str, float], seeds: int = 3) -> dict[tuple[str, int], list[Score]]:
    """Each arm answers its share of the questions, the same ones as the others first."""
    return {
        (arm, seed): [score(seed, number, number / 40 < share) for number in range(40)]
        for arm, share in shares.items()
        for seed in range(seeds)
    }


def test_a_table_by_hand(tmp_path: Path) -> None:
    rows = study_rows(scores_of({"sft": 0.5, "tempo": 0.75}), "sft")
    assert [row.group for row in rows] == ["order", "other", "all", "kind:count", "kind:first"]
    row = rows[2]
    assert (row.arm, row.baseline, row.seeds, row.questions) == ("tempo", "sft", 3, 120)
    assert (row.accuracy, row.baseline_accuracy, row.difference) == (0.75, 0.5, 0.25)
    assert rows[0].p_holm is not None
    assert rows[3].p_holm is None
    printed = write_study(rows, tmp_path)
    assert "| all | 50.0% | 75.0% | +25.0 |" in printed
    assert (tmp_path / "table.md").read_text() in printed
    assert pq.read_table(tmp_path / "table.parquet").to_pylist() == [asdict(row) for row in rows]
    assert (tmp_path / "study.png").stat().st_size > 5000


def test_unequal_questions_are_no_table() -> None:
    scores = scores_of({"sft": 0.5, "tempo": 0.75})
    scores["tempo", 1] = scores["tempo", 1][1:]
    with pytest.raises(UserError, match=r"seed 1, sft and tempo: .*1 questions are in only one"):
        study_rows(scores, "sft")
    scores = scores_of({"sft": 0.5, "tempo": 0.75})
    scores["tempo", 2][0] = replace(scores["tempo", 2][0], answer="B")
    with pytest.raises(UserError, match="seed 2"):
        study_rows(scores, "sft")


def test_a_kind_that_only_one_seed_was_asked_about_is_left_out() -> None:
    scores = scores_of({"sft": 0.5, "tempo": 0.75})
    for arm in ("sft", "tempo"):
        for seed in (1, 2):
            scores[arm, seed] = [row for row in scores[arm, seed] if "order" not in row.groups]
    rows = study_rows(scores, "sft")
    assert {row.group for row in rows} == {"other", "all", "kind:count"}
    for arm in ("sft", "tempo"):
        scores[arm, 2] = scores_of({arm: 0.5})[arm, 2]
    row = next(row for row in study_rows(scores, "sft") if row.group == "order")
    assert (row.seeds, row.questions) == (2, 40)


def test_an_estimate_by_hand() -> None:
    """Means 0.2, 0.4 and 0.6: standard error 0.2 / sqrt(3), t of 2 degrees of freedom 4.303."""
    arrays = [np.full(10, mean) for mean in (0.2, 0.4, 0.6)]
    videos = [np.array([str(number) for number in range(10)])] * 3
    estimate = estimate_over_seeds(arrays, videos, shared_questions=False)
    assert estimate.mean == pytest.approx(0.4)
    assert estimate.error == pytest.approx(0.2 / 3**0.5)
    assert estimate.interval == pytest.approx((0.4 - 0.4968, 0.4 + 0.4968), abs=1e-3)
    assert estimate.p == pytest.approx(0.0742, abs=1e-3)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    """Four seeds that differ by 0.05 and twenty videos of five questions; with the questions drawn
    anew by each seed, and shared by all."""
    rng = np.random.default_rng(0)
    for shared in (False, True):
        covered = 0
        for _ in range(400):
            arrays, videos = [], []
            video_effects = rng.normal(0, 0.3, 20)
            for _ in range(4):
                effects = video_effects if shared else rng.normal(0, 0.3, 20)
                mean = 0.1 + rng.normal(0, 0.05)
                arrays.append(np.repeat(mean + effects, 5) + rng.normal(0, 0.5, 100))
                videos.append(np.repeat([str(number) for number in range(20)], 5))
            low, high = estimate_over_seeds(arrays, videos, shared).interval
            covered += low <= 0.1 <= high
        assert 0.92 <= covered / 400 <= 0.995


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
