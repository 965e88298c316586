"""Every file of a folder of horrors becomes the right row."""

from pathlib import Path

from tempo_ray.config import DecodeConfig, SelectConfig, VideosConfig
from tempo_ray.data.select import Selector
from tempo_ray.data.videos import list_videos
from tests import horrors


def test_each_file_becomes_the_right_row(tmp_path: Path) -> None:
    expected = horrors.make(tmp_path)
    listed = list(list_videos(VideosConfig(input=str(tmp_path))))
    assert {Path(row["uri"]).name for row in listed} == set(expected)
    (tmp_path / "removed.mp4").unlink()
    selector = Selector(SelectConfig(decode=DecodeConfig(attempts=1)))
    rows = {Path(video["uri"]).name: selector(video) for video in listed}
    selector.close()
    found = {
        name: (row["status"], row["reason"] and row["reason"].split(" (")[0])
        for name, row in rows.items()
    }
    assert found == expected, {
        name: row["message"] for name, row in rows.items() if found[name] != expected[name]
    }
