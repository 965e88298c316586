"""Videos by richness."""

from pathlib import Path

import pytest

from tempo_ray.data.inspect.rank import rank
from tempo_ray.errors import UserError
from tempo_ray.records import Pair

Run = tuple[str, dict[str, Pair]]


def test_videos_that_other_rules_keep_are_ranked(run: Run) -> None:
    lines = rank(run[0]).splitlines()
    assert lines[0].startswith("2 videos; richness is the entropy")
    assert "  select.verdict.min_richness=2.000 keeps the top 50% (1 videos)" in lines
    assert "  select.verdict.min_richness=1.000 keeps the top 75% (2 videos)" in lines
    assert lines[-2:] == ["  2.000  v.mp4", "  1.000  poor.mp4"]


def test_a_run_without_answers_is_named(tmp_path: Path, version_2: str) -> None:
    with pytest.raises(UserError, match="no answers in it"):
        rank(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"version 2 .* reads version 3"):
        rank(version_2)
