"""The tiny models that ship: loaded by stock libraries, examined on stories they never saw."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from tempo_ray import shapeworld
from tempo_ray.records import read_row
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.shapeworld.record import RECORD_FILE, Examination, PretrainRecord

HERE = Path(__file__).parent
MODELS = Path(shapeworld.__file__).parent / "models"
STORIES = 60
EXAMINE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from tempo_ray.shapeworld.exam import examine
print(json.dumps(asdict(examine(Path(sys.argv[1]), int(sys.argv[2]), seed=1))))
"""


def last_line_of(*command: str, seconds: float) -> str:
    """The last line that a Python process prints: each engine gets a process of its own."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_transformers_loads_the_folder(family: str) -> None:
    folder = MODELS / family
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 5_000_000
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= 10_000_000
    assert AutoProcessor.from_pretrained(folder).chat_template


def test_the_engine_answers_refuses_and_ends() -> None:
    """One prompt that is too long costs itself alone; a request after the end is an error."""
    line = last_line_of(str(HERE / "ask_engine.py"), str(MODELS / "qwen3_vl"), seconds=300)
    facts = json.loads(line)
    assert facts["refused"] == [False] * 48 + [True]
    assert "2048" in facts["refusal"]
    assert facts["repeatable"]
    assert facts["after_the_end"] == "the engine has ended: it was closed"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_good_as_its_record(family: str) -> None:
    """Two standard deviations of a share over 60 examples are about 0.06 near 0.95."""
    line = last_line_of("-c", EXAMINE, str(MODELS / family), str(STORIES), seconds=500)
    examined = read_row(Examination, json.loads(line))
    record = read_row(PretrainRecord, json.loads((MODELS / family / RECORD_FILE).read_text()))
    recorded = record.examination
    assert recorded is not None
    for share in (*asdict(examined.first_clip).values(), *asdict(examined.next_clip).values()):
        assert share >= 0.9, examined
    for share in (*asdict(recorded.first_clip).values(), *asdict(recorded.next_clip).values()):
        assert share >= 0.95, recorded
    assert examined.from_captions.pairs_in_order >= 0.95
    assert examined.from_video.events_named >= recorded.from_video.events_named - 0.1
    # weak at the order of whole videos, as the paper's models are
    assert examined.from_video_sampled.pairs_in_order <= 0.9
