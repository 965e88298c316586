"""A pair, explained from its id."""

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tempo_ray import schema
from tempo_ray.data.inspect.explain import explain, marked
from tempo_ray.errors import UserError
from tempo_ray.records import Pair, RuleResult
from tempo_ray.tables import table_of

Run = tuple[str, dict[str, Pair]]


def test_everything_behind_a_pair_is_shown(run: Run) -> None:
    folder, pairs = run
    lines = explain(folder, pairs["shuffle"].pair_id).splitlines()
    assert lines[1] == (
        "video v.mp4 (64x64, 96 frames, 24 fps), 4 shots, 4 clips, richness 2.00 bits"
    )
    for line in (
        "chosen (clean; seed 1, 9 + 3 tokens, ended by stop), written from these clips in this "
        "order:",
        "  1. clip 3, 3.00-4.00 s, key frames [79, 87]: caption 3",
        "  > first a [blue circle,] then a [red square]",
        "training prompt: Tell it.",
        "settings of the answers (c):",
        "  seed: 0",
        "paired later, with settings (paired later):",
    ):
        assert line in lines, line


def test_each_rule_says_whether_it_passed_or_applies(run: Run) -> None:
    folder, pairs = run
    shuffle = explain(folder, pairs["shuffle"].pair_id)
    assert "  passed  chosen_complete: chosen ended by stop\n" in shuffle
    assert "  not applicable  drop_chosen_longer: applies to drop\n" in shuffle
    assert "  passed  length_ratio: characters 38 : 38, at most 1.5 : 1\n" in shuffle
    drop = explain(folder, pairs["drop"].pair_id)
    assert "  not applicable  length_ratio: applies to shuffle and reverse\n" in drop
    assert "  passed  drop_chosen_longer: chosen 38 characters, rejected 26\n" in drop


def test_a_broken_rule_stands_out(run: Run) -> None:
    folder, pairs = run
    broken = dataclasses.replace(
        pairs["drop"], pair_id="broken", rules=(RuleResult("not_empty", False, "no words"),)
    )
    table = table_of([broken], schema.with_metadata(schema.PAIR, "c"))
    pq.write_table(table, Path(folder) / "pairs" / "1.parquet")
    assert "  BROKEN  not_empty: no words\n" in explain(folder, "broken")


def test_an_unknown_pair_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pair nothing in"):
        explain(run[0], "nothing")
    with pytest.raises(UserError, match="no pair nothing in"):
        explain(str(tmp_path / "no run"), "nothing")


def test_a_run_of_version_2_is_refused(version_2: str) -> None:
    with pytest.raises(UserError, match=r"version 2 .* reads version 3"):
        explain(version_2, "p")


def test_differing_words_are_marked() -> None:
    assert marked("a b c", "a c d") == ("a [b] c", "a c [d]")
    assert marked("a", "a") == ("a", "a")
    assert marked("", "a b") == ("", "[a b]")
