import pytest

from tempo_ray.errors import UserError
from tempo_ray.evaluate.breakdown import (
    accuracies,
    accuracy_table,
    comparison_table,
    comparisons,
    group_names,
)
from tempo_ray.records import Score

GROUPS = [
    ("order", "kind:first"),
    ("order", "kind:after"),
    ("other", "motion", "kind:speed"),
    ("other", "none", "kind:count"),
]


def scores(*predictions: str | None, model: str = "base") -> list[Score]:
    """Scores of replies to four questions about two videos; `yes` is right, None no answer."""
    return [
        Score(
            question_id=str(index),
            video=f"{index // 2}.mp4",
            groups=groups,
            chance=0.5,
            answer="yes",
            prediction=prediction,
            correct=prediction == "yes",
            error="500: broken" if prediction is None else None,
            finish_reason="stop",
            model=model,
            endpoint="http://127.0.0.1:1/v1",
            served="{}",
            temperature=0.0,
            max_tokens=16,
            questions_sha256="abc",
        )
        for index, (groups, prediction) in enumerate(zip(GROUPS, predictions, strict=True))
    ]


def test_unanswered_is_wrong_and_counted() -> None:
    rows = accuracies(scores("yes", None, "no", "yes"))
    assert rows["order"].value == 0.5
    assert rows["order"].unanswered == 1
    assert rows["other"].value == 0.5
    assert rows["all"].questions == 4
    assert rows["all"].chance == 0.5


def test_accuracy_has_its_wilson_interval() -> None:
    row = accuracies(scores("yes", "yes", "no", "no") * 4 + scores("yes", "yes", "yes", "yes"))
    # 12 of 20: center (0.6 + 1.9600^2/40) / (1 + 1.9600^2/20) = 0.58389, half width 0.19728
    assert row["all"].value == 0.6
    assert row["all"].low == pytest.approx(0.3866, abs=1e-4)
    assert row["all"].high == pytest.approx(0.7812, abs=1e-4)


def test_groups_go_from_the_widest_to_the_narrowest_whatever_the_order_of_questions() -> None:
    rows = scores("yes", "yes", "yes", "yes")
    names = ["order", "other", "motion", "none", "all"]
    names += ["kind:after", "kind:count", "kind:first", "kind:speed"]
    assert group_names(rows) == group_names(rows[::-1]) == names
    assert list(accuracies(rows)) == list(comparisons(rows, rows, 10, 0)) == names


def test_groups_without_questions_are_left_out() -> None:
    rows = scores("yes", "yes", "yes", "yes")[:2]
    assert set(accuracies(rows)) == {"order", "all", "kind:first", "kind:after"}


def test_comparison_is_paired_by_question_whatever_the_order() -> None:
    first = scores("yes", "no", "no", "no")
    second = scores("yes", "yes", "no", "yes", model="new")
    rows = comparisons(first, [second[index] for index in (3, 1, 0, 2)], 200, 0)
    assert rows["all"].difference == pytest.approx(0.5)
    assert rows["order"].difference == pytest.approx(0.5)
    assert rows["kind:speed"].difference == 0.0
    assert rows["all"].p == pytest.approx(0.5)
    assert (rows["all"].questions, rows["all"].videos) == (4, 2)
    assert "first" in comparison_table(rows, "base", "new")


def test_answers_to_different_questions_are_not_compared() -> None:
    rows = scores("yes", "yes", "yes", "yes")
    with pytest.raises(UserError, match="same questions"):
        comparisons(rows, rows[1:], 10, 0)


def test_the_table_names_every_group() -> None:
    shown = accuracy_table(accuracies(scores("yes", "yes", "yes", "yes")))
    for name in ("order", "other", "motion", "none", "first", "chance", "unanswered"):
        assert name in shown
    assert "kind:" not in shown


def test_tables_are_aligned() -> None:
    rows = scores("yes", "no", "yes", "yes")
    tables = (
        accuracy_table(accuracies(rows)),
        comparison_table(comparisons(rows, rows, 10, 0), "a-model-with-a-long-name", "b"),
    )
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1
