"""jobs/generate_pairs.py with the real engines: a folder of good and bad files, a second call, a
submitted job.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from datasets import load_dataset
from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

from tempo_ray.config import GeneratePairsConfig
from tempo_ray.config.load import parse_args
from tempo_ray.data.run.job import generate_pairs
from tempo_ray.job import running
from tempo_ray.models.vlm import load_processor
from tempo_ray.processes import free_port
from tempo_ray.schema import PAIR, SCHEMA_VERSION, VIDEO_ANSWERS
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tests import horrors
from tests.integration.jobs import ROOT, Ended, kill_group, run_job

GOOD = 6
CONFIG = ["--config", "embedded"]

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(GOOD):
        story = draw_story(np.random.default_rng(seed), 4 + seed % 3)
        write_video(story, folder / f"good {seed}.mp4", 24, 64, 64)
    write_video(draw_story(np.random.default_rng(9), 2), folder / "two shots.mp4", 24, 64, 64)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 99)
    (folder / "half.mp4").write_bytes((folder / "good 0.mp4").read_bytes()[:4000])
    (folder / "notes.txt").write_text("not counted")
    return folder


def run(*words: str) -> Ended:
    return run_job("generate-pairs", *words)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return ds.dataset(folder, format="parquet").to_table().to_pylist()


def summary_of(run_folder: Path) -> dict[str, Any]:
    return json.loads((run_folder / "summary" / "generate_pairs.json").read_text())


@pytest.fixture(scope="module")
def done(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    # relative, as people write it: Ray's workers have working directories of their own
    finished = run(*CONFIG, f"run={os.path.relpath(folder)}", f"videos.input={videos}")
    assert finished.status == 0, finished.err[-3000:]
    assert f"videos in 10 = kept {GOOD} + dropped 1 + failed 3" in finished.out
    return folder


def test_an_actor_that_the_machine_cannot_hold_is_named(videos: Path, tmp_path: Path) -> None:
    finished = run(*CONFIG, f"run={tmp_path}", f"videos.input={videos}", "respond.pool.gpus=1")
    assert finished.status == 2
    assert "can hold respond.pool (" in finished.err
    assert "1 GPU)" in finished.err


def test_every_file_is_accounted_for(done: Path) -> None:
    summary = summary_of(done)
    assert summary["status"] == "done"
    counts = [summary[name] for name in ("videos_in", "kept", "dropped", "failed")]
    assert counts == [10, GOOD, 1, 3]
    rows = rows_of(done / "answers")
    assert set(rows[0]) == set(VIDEO_ANSWERS.names)
    reasons = {Path(row["uri"]).name: row["reason"] for row in rows}
    assert reasons["two shots.mp4"] == "too few shots (2 < 4)"
    assert reasons["empty.mp4"] == reasons["text.mp4"] == "not a video"


def test_the_model_sees_and_describes(done: Path) -> None:
    """Captions of clips name what was drawn, and the clean answer has them in order."""
    right = in_order = clips = complete = 0
    for row in rows_of(done / "answers"):
        if row["status"] != "kept":
            continue
        seed = int(Path(row["uri"]).stem.split()[1])
        story = draw_story(np.random.default_rng(seed), 4 + seed % 3)
        events = [event.text() for event in story.events]
        captions = [clip["caption"].rstrip(".") for clip in row["clips"]]
        clips += len(events)
        if len(captions) != len(events):
            continue  # a missed cut; tests/data/test_select.py bounds how often that may be
        complete += 1
        right += sum(caption == event for caption, event in zip(captions, events, strict=True))
        clean = next(answer for answer in row["answers"] if answer["perturbation"] == "clean")
        places = [clean["text"].find(caption) for caption in captions]
        in_order += places == sorted(places) and -1 not in places
    assert complete >= GOOD - 1
    assert right >= 0.75 * clips
    assert in_order >= GOOD - 2


def test_pairs_differ_in_what_their_author_saw(done: Path) -> None:
    for folder in ("videos", "answers", "pairs"):
        metadata = ds.dataset(done / folder, format="parquet").schema.metadata
        assert metadata[b"tempo_ray.schema_version"] == SCHEMA_VERSION.encode()
        config_hash = metadata[b"tempo_ray.config_hash"].decode()
        assert (done / "config" / f"generate_pairs-{config_hash}.yaml").is_file()
    pairs = rows_of(done / "pairs")
    assert list(pairs[0]) == PAIR.names
    assert len(pairs) > 5 * GOOD
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs)
    assert {pair["strength"] for pair in pairs} == {16, 8, 4, 2}
    for pair in pairs:
        assert pair["chosen"] != pair["rejected"]
        assert pair["rejected_order"] != pair["chosen_order"] == sorted(pair["chosen_order"])
        passed = {rule["name"]: rule["passed"] for rule in pair["rules"]}
        inapplicable = {name for name, result in passed.items() if result is None}
        is_drop = pair["perturbation"] == "drop"
        assert inapplicable == {"length_ratio" if is_drop else "drop_chosen_longer"}
        assert all(result for name, result in passed.items() if name not in inapplicable)


def test_a_pair_is_explained_from_its_id_alone(done: Path) -> None:
    pair = rows_of(done / "pairs")[0]
    explained = run("explain", pair["pair_id"], f"run={done}")
    assert explained.status == 0, explained.err[-2000:]
    rejected = f"rejected ({pair['perturbation']}, r = "
    for part in (pair["uri"], pair["model_hash"], pair["prompt"], "chosen (clean;", rejected):
        assert part in explained.out
    assert explained.out.count("passed  ") == len(pair["rules"]) - 1
    assert explained.out.count("not applicable  ") == 1
    assert "strengths:" in explained.out  # the whole config
    unknown = run("explain", "nothing", f"run={done}")
    assert (unknown.status, "no pair nothing in" in unknown.err) == (2, True)


def test_videos_are_ranked_by_richness(done: Path) -> None:
    ranked = run("rank", f"run={done}")
    assert ranked.status == 0, ranked.err
    assert f"{GOOD} videos; richness" in ranked.out
    lines = ranked.out.split("the richest:")[1].splitlines()
    values = [float(line.split()[0]) for line in lines if line]
    assert len(values) == GOOD
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_export_is_what_trainers_read(done: Path, tmp_path: Path) -> None:
    """TRL's through its own loader; the others field by field as documented: roles, the place of
    <video>, column names."""
    pairs = rows_of(done / "pairs")
    rows = {}
    for name in ("trl", "ms_swift", "llama_factory"):
        exported = run("export", name, f"run={done}")
        assert exported.status == 0, exported.err
        lines = (done / "export" / f"{name}.jsonl").read_text().splitlines()
        rows[name] = [json.loads(line) for line in lines]
        assert len(rows[name]) == len(pairs)
    pair = pairs[0]
    swift = rows["ms_swift"][0]
    assert [turn["role"] for turn in swift["messages"]] == ["user", "assistant"]
    assert swift["messages"][0]["content"] == "<video>" + pair["prompt"]
    assert swift["messages"][1]["content"] == pair["chosen"]
    assert (swift["rejected_response"], swift["videos"]) == (pair["rejected"], [pair["uri"]])
    factory = rows["llama_factory"][0]
    assert factory["chosen"] == {"from": "gpt", "value": pair["chosen"]}
    assert factory["conversations"][0]["value"].count("<video>") == len(factory["videos"]) == 1
    info = json.loads((done / "export" / "dataset_info.json").read_text())["tempo_ray"]
    assert set(info["columns"].values()) == set(factory)
    file = str(done / "export" / "trl.jsonl")
    loaded = load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path))
    assert len(loaded) == len(pairs)
    assert is_conversational(loaded[0])
    assert loaded[0]["videos"] == [pair["uri"]]
    processor = load_processor(pair["model"])
    written = apply_chat_template(maybe_extract_prompt(loaded[0]), processor)
    assert written["prompt"].count("<|video_pad|>") == 1
    assert pair["prompt"] in written["prompt"]
    assert written["chosen"].startswith(pair["chosen"])
    assert written["rejected"].startswith(pair["rejected"])


def test_the_same_command_again_asks_the_model_nothing(done: Path, videos: Path) -> None:
    before = sorted(file.name for file in (done / "answers").iterdir())
    pairs = sorted(row["pair_id"] for row in rows_of(done / "pairs"))
    again = run(*CONFIG, f"run={done}", f"videos.input={videos}")
    assert again.status == 0, again.err[-3000:]
    assert sorted(file.name for file in (done / "answers").iterdir()) == before
    assert sorted(row["pair_id"] for row in rows_of(done / "pairs")) == pairs


def test_a_run_of_another_schema_version_is_refused(done: Path, tmp_path: Path) -> None:
    """What 0.1.0 wrote is neither read wrongly nor answered again from nothing."""
    old = tmp_path / "old"
    shutil.copytree(done, old)
    (old / "answers_checkpoint").rename(old / "ledger")
    refused = run(*CONFIG, f"run={old}", f"videos.input={tmp_path}")
    assert refused.status == 2
    assert f"reads version {SCHEMA_VERSION}" in refused.err


def test_a_folder_without_a_video_to_keep_ends_well(videos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("two shots.mp4", "text.mp4"):
        shutil.copy(videos / name, few)
    finished = run(*CONFIG, f"run={tmp_path / 'run'}", f"videos.input={few}")
    assert finished.status == 0, finished.err[-3000:]
    assert "videos in 2 = kept 0 + dropped 1 + failed 1; answers 0; pairs 0" in finished.out


def test_every_bad_file_becomes_the_right_row_and_transient_failures_are_retried(
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "in", tmp_path / "run"
    folder.mkdir()
    expected = horrors.make(folder)
    (folder / "closed.mp4").write_bytes((folder / "good.mp4").read_bytes())
    words = [f"run={out}", f"videos.input={folder}", "respond.form=video"]
    words = [*CONFIG, *words, "select.decode.attempts=1"]
    lines: list[str] = []

    def log(line: str) -> None:
        """Between the listing and the reading, one file goes away and one becomes unreadable."""
        lines.append(line)
        if "in the manifest" in line:
            (folder / "removed.mp4").unlink()
            # whoever runs this, root too, cannot open a link that leads round in a circle
            (folder / "closed.mp4").unlink()
            (folder / "closed.mp4").symlink_to(folder / "closed.mp4")

    config = parse_args(GeneratePairsConfig, None, words, section="generate_pairs")
    with running("generate_pairs", str(out), config) as job:
        generate_pairs(config, job, log)
    assert any(line.startswith(f"{len(expected) + 1} videos in the manifest") for line in lines)
    found = {
        Path(row["uri"]).name: (row["status"], row["reason"] and row["reason"].split(" (")[0])
        for row in rows_of(out / "answers")
    }
    transient = {name for name, (_, reason) in expected.items() if reason == "cannot be read now"}
    transient.add("closed.mp4")
    assert found == {name: row for name, row in expected.items() if name not in transient}
    first = summary_of(out)
    assert (first["to_retry"], first["videos_in"]) == (len(transient), len(expected) + 1)
    assert {pair["form"] for pair in rows_of(out / "pairs")} == {"video"}

    (folder / "closed.mp4").unlink()
    shutil.copy(folder / "good.mp4", folder / "closed.mp4")
    again = run(*words)
    assert again.status == 0, again.err[-3000:]
    second = summary_of(out)
    assert (second["to_retry"], second["kept"]) == (len(transient) - 1, first["kept"] + 1)
    assert second["dropped"] == first["dropped"]
    assert second["videos_in"] == first["videos_in"]

    refused = run(*words, "respond.form=caption")
    assert refused.status == 2
    assert "was begun with respond.form=video, not caption" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["videos.input=/no/such/folder"], "no such file or folder"),
        (["videos.input={texts}"], "no videos in it (1 files of other kinds)"),
        (["videos.input={videos}", "respond.model={texts}"], "it has no config.json"),
        (["videos.input={videos}", "respond.model=/no/model"], "no such folder"),
        (["videos.input={videos}", "run=/proc/nothing"], "cannot write to run="),
        (["videos.input={videos}", "run={texts}/working_dir_files/_ray_pkg_1/x"], "or a URI"),
    ],
)
def test_bad_input_is_refused_in_two_lines(
    words: list[str], message: str, videos: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("x")
    given = [word.format(texts=texts, videos=videos) for word in words]
    refused = run(*CONFIG, f"run={tmp_path / 'run'}", *given)
    assert refused.status == 2
    assert message in refused.err
    assert len(refused.err.strip().splitlines()) <= 2


def test_a_mistake_is_refused_in_seconds(videos: Path, tmp_path: Path) -> None:
    """As a user meets it: a process that has imported nothing yet; an engine that cannot fit."""
    words = [*CONFIG, f"run={tmp_path / 'run'}", f"videos.input={videos}"]
    words.append("respond.engine.kv_cache_bytes=1000000000000000")
    command = [sys.executable, "jobs/generate_pairs.py", *words]
    began = time.monotonic()
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "lower respond.pool.min_size or" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 2
    assert time.monotonic() - began < 15


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The head of a Ray cluster of this test alone; yields an environment in which the ray command
    finds it."""
    binaries = Path(sys.executable).parent
    path = f"{binaries}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RAY_AUTH_MODE": "disabled"}
    port = free_port()
    # a folder of its own: later clusters must not find this one's address; short, for its sockets
    temporary = tempfile.mkdtemp(prefix="ray-")
    words = [
        "--head",
        "--block",
        f"--port={free_port()}",
        "--num-cpus=6",
        f"--dashboard-port={port}",
        # the agent that takes jobs; its default port is that of the Ray which the tests share
        f"--dashboard-agent-listen-port={free_port()}",
        f"--temp-dir={temporary}",
        "--object-store-memory=200000000",
    ]
    with (tmp_path / "ray.log").open("w") as log:
        process = subprocess.Popen(
            [str(binaries / "ray"), "start", *words],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
    finally:
        kill_group(process)
        shutil.rmtree(temporary, ignore_errors=True)


def test_the_job_is_submitted_as_it_is(
    head: dict[str, str], drawn_videos: list[Path], tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in drawn_videos[:2]:
        shutil.copy(file, few)
    words = [*CONFIG, f"run={tmp_path / 'run'}", f"videos.input={few}", "respond.form=clip"]
    submit = ["ray", "job", "submit", "--working-dir", ".", "--"]
    submit += ["python", "jobs/generate_pairs.py", *words]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            submit, cwd=ROOT, env=head, capture_output=True, text=True, timeout=500, check=False
        )
        output = done.stderr + done.stdout
        starting = "Failed to connect" in output or "No available agent to submit job" in output
        if done.returncode == 0 or not starting or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "videos in 2 = kept 2 + dropped 0 + failed 0" in done.stdout
    assert {pair["form"] for pair in rows_of(tmp_path / "run" / "pairs")} == {"clip"}
    # of all orders that show a clip, only the first one has it encoded
    assert summary_of(tmp_path / "run")["media_cache_hit_rate"] > 0.8
