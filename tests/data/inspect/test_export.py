"""Pairs in the formats of other trainers. TRL's own loader reads them in
tests/integration/test_generate_pairs.py."""

import json
from pathlib import Path

import pytest

from tempo_ray.config import ExportFormat
from tempo_ray.data.inspect.export import export, llama_factory, ms_swift, trl
from tempo_ray.errors import UserError
from tempo_ray.records import Pair

Run = tuple[str, dict[str, Pair]]


@pytest.mark.parametrize("name", ["trl", "ms_swift", "llama_factory"])
def test_a_line_per_pair(run: Run, name: ExportFormat) -> None:
    folder, pairs = run
    file, count = export(folder, name)
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    assert (Path(file), count, len(lines)) == (Path(folder) / "export" / f"{name}.jsonl", 2, 2)
    to_line = {"trl": trl, "ms_swift": ms_swift, "llama_factory": llama_factory}[name]
    assert lines == [to_line(pairs["drop"]), to_line(pairs["shuffle"])]
    assert all(line["videos"] == ["v.mp4"] for line in lines)


def test_each_format_has_its_fields(run: Run) -> None:
    pair = run[1]["shuffle"]
    assert trl(pair)["prompt"] == [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Tell it."}]}
    ]
    assert ms_swift(pair)["messages"][0]["content"] == "<video>Tell it."
    assert ms_swift(pair)["rejected_response"] == pair.rejected
    assert llama_factory(pair)["chosen"] == {"from": "gpt", "value": pair.chosen}
    export(run[0], "llama_factory")
    info = json.loads((Path(run[0]) / "export" / "dataset_info.json").read_text())["tempo_ray"]
    assert set(info["columns"].values()) == set(llama_factory(pair))


def test_a_run_without_pairs_is_named(tmp_path: Path, version_2: str) -> None:
    with pytest.raises(UserError, match="no pairs in it; make them with tempo-ray generate-pairs"):
        export(str(tmp_path / "none"), "trl")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"version 2 .* reads version 3"):
        export(version_2, "trl")
