"""What became of every video, from rows and folders made by hand."""

import itertools
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from tempo_ray import schema
from tempo_ray.config import PairsConfig
from tempo_ray.data.run.accounting import (
    count_transient,
    sum_of_tallies,
    summary_lines,
    summary_of,
    table_of_tally,
    tally_rows,
)
from tempo_ray.paths import RunPaths
from tempo_ray.records import TransientFailure
from tempo_ray.tables import table_of
from tests.data.rows import answer, kept_video

ROWS = [
    kept_video(answer("clean", "a b c"), answer("shuffle", "c b a"), answer("drop", "a b c d")),
    kept_video(video_id="b", status="dropped", reason="too few shots (3 < 4)"),
    kept_video(video_id="c", status="dropped", reason="too few shots (1 < 4)"),
    kept_video(video_id="d", status="failed", reason="not a video", failed_at="open"),
]


def test_videos_in_are_kept_dropped_and_failed() -> None:
    summary = summary_of(tally_rows(ROWS, PairsConfig()), videos_in=6, transient=2, pairs=1)
    assert (summary.videos_in, summary.kept, summary.dropped, summary.failed) == (6, 1, 2, 3)
    assert summary.to_retry == 2
    assert summary.reasons == {
        "dropped: too few shots": 2,
        "failed: cannot be read now": 2,
        "failed: not a video": 1,
    }
    assert (summary.answers, summary.pairs) == (3, 1)
    assert summary.pairs_dropped == {"chosen_not_in_rejected": 1}
    lines = summary_lines(summary)
    assert lines[0] == "videos in 6 = kept 1 + dropped 2 + failed 3; answers 3; pairs 1"
    assert "       1  pairs dropped by chosen_not_in_rejected" in lines
    assert lines[-1] == "2 videos could not be read now; the same command retries them"


def test_tallies_of_parts_add_up() -> None:
    whole = tally_rows(ROWS, PairsConfig())
    parts = [tally_rows(rows, PairsConfig()) for rows in (ROWS[:1], [], ROWS[1:])]
    tables = [table_of_tally(part).to_pylist() for part in parts]
    assert tables[1] == []
    assert sum_of_tallies(itertools.chain.from_iterable(tables)) == whole


def test_a_video_that_was_read_after_all_is_not_counted_as_failed(tmp_path: Path) -> None:
    paths = RunPaths(str(tmp_path))
    assert count_transient(paths) == 0
    Path(paths.failures).mkdir()
    failures = [TransientFailure(name, f"{name}.mp4", "open", "m") for name in ("v", "x", "x")]
    pq.write_table(table_of(failures, schema.FAILURE), Path(paths.failures) / "0.parquet")
    assert count_transient(paths) == 2
    Path(paths.answers).mkdir()
    answers = table_of([ROWS[0], replace(ROWS[1])], schema.VIDEO_ANSWERS)
    pq.write_table(answers, Path(paths.answers) / "0.parquet")
    assert count_transient(paths) == 1
