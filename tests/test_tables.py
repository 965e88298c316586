"""Arrow tables and Parquet folders, and the records in them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tempo_ray import schema
from tempo_ray.errors import UserError
from tempo_ray.records import Video, VideoAnswers
from tempo_ray.tables import count_rows, open_dataset, records_of, table_of
from tests.data.rows import answer, kept_video


def test_records_survive_a_table() -> None:
    rows = [kept_video(answer("clean", "a"), answer("drop", "b")), VideoAnswers("w", "w.mp4")]
    table = table_of(rows, schema.VIDEO_ANSWERS)
    assert records_of(VideoAnswers, table) == rows
    assert table_of([], schema.VIDEO_ANSWERS).schema == schema.VIDEO_ANSWERS


def test_a_folder_is_counted_if_it_is_of_this_version(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    assert open_dataset(str(folder)) is None
    assert count_rows(str(folder)) == 0
    folder.mkdir()
    table = table_of([Video("v", "v.mp4")], schema.with_metadata(schema.VIDEO, "h"))
    pq.write_table(table, folder / "0.parquet")
    assert count_rows(str(folder)) == 1
    old = table.replace_schema_metadata({"tempo_ray.schema_version": "2"})
    pq.write_table(old, folder / "0.parquet")
    with pytest.raises(UserError, match=r"version 2 .* reads version 3"):
        count_rows(str(folder))


def test_a_value_that_does_not_fit_its_column_is_refused() -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        table_of([Video("v", "v.mp4", bytes="many")], schema.VIDEO)  # type: ignore[arg-type]
