"""jobs/generate_pairs.py with the real engines: a folder of good and bad files, a second call, and a submitted job."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from datasets import load_dataset
from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

from tempo_ray.models.vlm import load_processor
from tempo_ray.schema import ANSWERS, PAIR, SCHEMA_VERSION
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story
from tests import horrors

ROOT = Path(__file__).parents[2]
GOOD = 6
CONFIG = ["--config", "jobs/configs/embedded.yaml"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(GOOD):
        write_video(
            draw_story(np.random.default_rng(seed), 4 + seed % 3),
            folder / f"good {seed}.mp4",
            24,
            64,
            64,
        )
    write_video(draw_story(np.random.default_rng(9), 2), folder / "two shots.mp4", 24, 64, 64)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video\n" * 99)
    (folder / "half.mp4").write_bytes((folder / "good 0.mp4").read_bytes()[:4000])
    (folder / "notes.txt").write_text("not counted")
    return folder


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/generate_pairs.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def done(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    # relative, as people write it: Ray's workers have working directories of their own
    finished = run(
        *CONFIG,
        f"run={os.path.relpath(folder, ROOT)}",
        f"videos.input={os.path.relpath(videos, ROOT)}",
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert f"videos in 10 = kept {GOOD} + dropped 1 + failed 3" in finished.stdout
    return folder


def test_every_file_is_accounted_for(done: Path) -> None:
    summary = json.loads((done / "summary" / "generate_pairs.json").read_text())
    assert summary["status"] == "done"
    assert (summary["videos_in"], summary["kept"], summary["dropped"], summary["failed"]) == (
        10,
        GOOD,
        1,
        3,
    )
    rows = ds.dataset(done / "answers", format="parquet").to_table().to_pylist()
    assert set(rows[0]) == set(ANSWERS.names)
    reasons = {Path(row["uri"]).name: row["reason"] for row in rows}
    assert reasons["two shots.mp4"] == "too few cuts (2 < 4)"
    assert reasons["empty.mp4"] == reasons["text.mp4"] == "not a video"


def test_the_model_sees_and_tells(done: Path) -> None:
    """Captions of clips name what was drawn, and the clean answer tells them in order."""
    rows = ds.dataset(done / "answers", format="parquet").to_table().to_pylist()
    right = told = clips = whole = 0
    for row in rows:
        if row["status"] != "kept":
            continue
        seed = int(Path(row["uri"]).stem.split()[1])
        events = [
            event.text() for event in draw_story(np.random.default_rng(seed), 4 + seed % 3).events
        ]
        captions = [clip["caption"].rstrip(".") for clip in row["clips"]]
        clips += len(events)
        if len(captions) != len(events):
            continue  # a cut was missed: how often that may be is bounded in tests/data/test_select.py
        whole += 1
        right += sum(one == other for one, other in zip(captions, events, strict=True))
        clean = next(answer for answer in row["answers"] if answer["perturbation"] == "clean")
        places = [clean["text"].find(caption) for caption in captions]
        told += places == sorted(places) and -1 not in places
    assert whole >= GOOD - 1
    assert right >= 0.75 * clips
    assert told >= GOOD - 2


def test_pairs_differ_in_what_their_author_saw(done: Path) -> None:
    table = ds.dataset(done / "pairs", format="parquet").to_table()
    for folder in ("videos", "answers", "pairs"):
        metadata = ds.dataset(done / folder, format="parquet").schema.metadata
        assert metadata[b"tempo_ray.schema_version"] == SCHEMA_VERSION.encode()
        assert (
            done / "config" / f"generate_pairs-{metadata[b'tempo_ray.config_hash'].decode()}.yaml"
        ).is_file()
    assert table.column_names == PAIR.names
    pairs = table.to_pylist()
    assert len(pairs) > 5 * GOOD
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs)
    assert {pair["strength"] for pair in pairs} == {16, 8, 4, 2}
    for pair in pairs:
        assert pair["chosen"] != pair["rejected"]
        assert pair["rejected_order"] != pair["chosen_order"] == sorted(pair["chosen_order"])
        assert all(rule["passed"] for rule in pair["rules"])


def test_a_pair_is_explained_from_its_id_alone(done: Path) -> None:
    pair = ds.dataset(done / "pairs", format="parquet").head(1).to_pylist()[0]
    told = run("explain", pair["pair_id"], f"run={done}")
    assert told.returncode == 0, told.stderr[-2000:]
    for part in (
        pair["uri"],
        pair["model_hash"],
        pair["prompt"],
        "chosen (clean;",
        f"rejected ({pair['perturbation']}, r = ",
    ):
        assert part in told.stdout
    assert told.stdout.count("passed  ") == len(pair["rules"])
    assert "strengths:" in told.stdout  # the whole config
    unknown = run("explain", "nothing", f"run={done}")
    assert (unknown.returncode, "no pair nothing in" in unknown.stderr) == (2, True)


def test_videos_are_ranked_by_richness(done: Path) -> None:
    ranked = run("rank", f"run={done}")
    assert ranked.returncode == 0, ranked.stderr
    assert f"{GOOD} videos; richness" in ranked.stdout
    found = [
        float(line.split()[0])
        for line in ranked.stdout.split("the richest:")[1].splitlines()
        if line
    ]
    assert len(found) == GOOD
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_export_is_what_trainers_read(done: Path, tmp_path: Path) -> None:
    """TRL's through its own loader; the others field by field as documented: roles, the place of <video>, column names."""
    pairs = ds.dataset(done / "pairs", format="parquet").to_table().to_pylist()
    rows = {}
    for form in ("trl", "ms_swift", "llama_factory"):
        exported = run("export", form, f"run={done}")
        assert exported.returncode == 0, exported.stderr
        lines = (done / "export" / f"{form}.jsonl").read_text().splitlines()
        rows[form] = [json.loads(line) for line in lines]
        assert len(rows[form]) == len(pairs)
    one = pairs[0]
    swift = rows["ms_swift"][0]
    assert [turn["role"] for turn in swift["messages"]] == ["user", "assistant"]
    assert swift["messages"][0]["content"] == "<video>" + one["prompt"]
    assert (swift["messages"][1]["content"], swift["rejected_response"], swift["videos"]) == (
        one["chosen"],
        one["rejected"],
        [one["uri"]],
    )
    factory = rows["llama_factory"][0]
    assert factory["chosen"] == {"from": "gpt", "value": one["chosen"]}
    assert factory["conversations"][0]["value"].count("<video>") == len(factory["videos"]) == 1
    info = json.loads((done / "export" / "dataset_info.json").read_text())["tempo_ray"]
    assert set(info["columns"].values()) == set(factory)
    loaded = load_dataset(
        "json",
        data_files=str(done / "export" / "trl.jsonl"),
        split="train",
        cache_dir=str(tmp_path),
    )
    assert len(loaded) == len(pairs)
    assert is_conversational(loaded[0])
    assert loaded[0]["videos"] == [one["uri"]]
    written = apply_chat_template(maybe_extract_prompt(loaded[0]), load_processor(one["model"]))
    assert written["prompt"].count("<|video_pad|>") == 1
    assert one["prompt"] in written["prompt"]
    assert written["chosen"].startswith(one["chosen"])
    assert written["rejected"].startswith(one["rejected"])
    refused = run("export", "csv", f"run={done}")
    assert (refused.returncode, "one of trl, ms_swift, llama_factory" in refused.stderr) == (
        2,
        True,
    )


def test_the_same_command_again_asks_the_model_nothing(done: Path, videos: Path) -> None:
    before = sorted(file.name for file in (done / "answers").iterdir())
    pairs = (
        ds.dataset(done / "pairs", format="parquet")
        .to_table(columns=["pair_id"])["pair_id"]
        .to_pylist()
    )
    again = run(*CONFIG, f"run={done}", f"videos.input={videos}")
    assert again.returncode == 0, again.stderr[-3000:]
    assert sorted(file.name for file in (done / "answers").iterdir()) == before
    same = (
        ds.dataset(done / "pairs", format="parquet")
        .to_table(columns=["pair_id"])["pair_id"]
        .to_pylist()
    )
    assert sorted(same) == sorted(pairs)


def test_a_folder_without_a_video_to_keep_ends_well(videos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("two shots.mp4", "text.mp4"):
        shutil.copy(videos / name, few)
    finished = run(*CONFIG, f"run={tmp_path / 'run'}", f"videos.input={few}")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "videos in 2 = kept 0 + dropped 1 + failed 1; answers 0; pairs 0" in finished.stdout


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary" / "generate_pairs.json").read_text())


def test_horrors_end_as_the_right_rows_and_what_passes_is_tried_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "run"
    folder.mkdir()
    expected = horrors.make(folder)
    (folder / "closed.mp4").write_bytes((folder / "good.mp4").read_bytes())
    words = [
        *CONFIG,
        f"run={out}",
        f"videos.input={folder}",
        "respond.form=video",
        "select.decode.attempts=1",
    ]
    with subprocess.Popen(
        [sys.executable, "jobs/generate_pairs.py", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        listed = next(line for line in process.stdout if "in the manifest" in line)
        (folder / "removed.mp4").unlink()
        # as for who may not read it, whoever runs this: a link that leads round in a circle cannot be opened either
        (folder / "closed.mp4").unlink()
        (folder / "closed.mp4").symlink_to(folder / "closed.mp4")
        said = process.stdout.read()
    assert process.returncode == 0, said[-3000:]
    assert listed.startswith(f"{len(expected) + 1} videos")
    rows = ds.dataset(out / "answers", format="parquet").to_table().to_pylist()
    found = {
        Path(row["uri"]).name: (row["status"], row["reason"] and row["reason"].split(" (")[0])
        for row in rows
    }
    passing = {name for name, (_, reason) in expected.items() if reason == "cannot be read now"} | {
        "closed.mp4"
    }
    assert found == {name: outcome for name, outcome in expected.items() if name not in passing}
    first = summary(out)
    assert (first["to_try_again"], first["videos_in"]) == (len(passing), len(expected) + 1)
    assert {
        pair["form"]
        for pair in ds.dataset(out / "pairs", format="parquet")
        .to_table(columns=["form"])
        .to_pylist()
    } == {"video"}

    (folder / "closed.mp4").unlink()
    shutil.copy(folder / "good.mp4", folder / "closed.mp4")
    again = run(*words)
    assert again.returncode == 0, again.stderr[-3000:]
    second = summary(out)
    assert (second["to_try_again"], second["kept"]) == (len(passing) - 1, first["kept"] + 1)
    assert (second["dropped"], second["videos_in"]) == (first["dropped"], first["videos_in"])

    other = run(*words[:-2], "respond.form=caption")
    assert other.returncode == 2
    assert "was begun with respond.form=video, not caption" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["videos.input=/no/such/folder"], "no such file or folder"),
        (["videos.input={texts}"], "no videos in it (1 files of other kinds)"),
        (["videos.input={videos}", "respond.model={texts}"], "no config.json in it"),
        (["videos.input={videos}", "respond.model=/no/model"], "no such folder"),
        (
            ["videos.input={videos}", "respond.engine.kv_cache_bytes=1000000000000000"],
            "lower respond.pool.min_size or",
        ),
        (["videos.input={videos}", "run=/proc/nothing"], "cannot write to run="),
        (
            ["videos.input={videos}", "run={texts}/working_dir_files/_ray_pkg_1/x"],
            "give an absolute path or a URI",
        ),
    ],
)
def test_bad_input_is_refused_in_seconds(
    words: list[str], message: str, videos: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("x")
    began = time.monotonic()
    refused = run(
        *CONFIG,
        f"run={tmp_path / 'run'}",
        *(word.format(texts=texts, videos=videos) for word in words),
    )
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 2
    assert time.monotonic() - began < 15


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray cluster of this test alone; yields the environment in which the ray command finds it."""
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
    }
    port = free_port()
    # of its own: the address of a cluster that has ended must not be found by later ones; short, for its sockets
    temporary = tempfile.mkdtemp(prefix="ray-")
    words = [
        "--head",
        "--block",
        f"--port={free_port()}",
        "--num-cpus=6",
        f"--dashboard-port={port}",
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
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


def test_the_job_is_submitted_as_it_is(
    cluster: dict[str, str], videos: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for seed in range(2):
        shutil.copy(videos / f"good {seed}.mp4", few)
    words = [*CONFIG, f"run={tmp_path / 'run'}", f"videos.input={few}", "respond.form=clip"]
    submit = [
        "ray",
        "job",
        "submit",
        "--working-dir",
        ".",
        "--",
        "python",
        "jobs/generate_pairs.py",
        *words,
    ]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            submit, cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=500, check=False
        )
        if (
            done.returncode == 0
            or "Failed to connect" not in done.stderr + done.stdout
            or time.monotonic() > deadline
        ):
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "videos in 2 = kept 2 + dropped 0 + failed 0" in done.stdout
    pairs = ds.dataset(tmp_path / "run" / "pairs", format="parquet").to_table().to_pylist()
    assert {pair["form"] for pair in pairs} == {"clip"}
    summary = json.loads((tmp_path / "run" / "summary" / "generate_pairs.json").read_text())
    assert (
        summary["media_cache_hit_rate"] > 0.8
    )  # of all orders that show a clip, the first alone has it encoded
