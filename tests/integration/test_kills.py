"""kill -9 of decoding actors, of vLLM actors and of the driver: the same pairs come out as without, each once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
import pytest

from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

ROOT = Path(__file__).parents[2]
VIDEOS = 12
BLOCKS = VIDEOS // 2
WORDS = [
    "--config",
    "jobs/configs/embedded.yaml",
    # small blocks, so that something is committed before everything is done
    "select.pool.batch=2",
    "respond.pool.batch=2",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(VIDEOS):
        write_video(
            draw_story(np.random.default_rng(seed), 4 + seed % 2),
            folder / f"{seed}.mp4",
            24,
            64,
            64,
        )
    return folder


def start(run: Path, videos: Path) -> subprocess.Popen[str]:
    log = run.with_suffix(".log").open("a")
    command = [
        sys.executable,
        "jobs/generate_pairs.py",
        *WORDS,
        f"run={run}",
        f"videos.input={videos}",
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, text=True, start_new_session=True
    )


def pairs(run: Path) -> dict[str, tuple[str, str]]:
    rows = ds.dataset(run / "pairs", format="parquet").to_table().to_pylist()
    found = {row["pair_id"]: (row["chosen"], row["rejected"]) for row in rows}
    assert len(found) == len(rows)
    return found


def committed(run: Path) -> int:
    return (
        sum(1 for file in (run / "answers").glob("*.parquet")) if (run / "answers").is_dir() else 0
    )


def actors(process: psutil.Process, name: str) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300
) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def undisturbed(
    videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, str]]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(run, videos).wait(600) == 0, run.with_suffix(".log").read_text()[-3000:]
    return pairs(run)


@pytest.mark.parametrize("name", ["SelectClips", "WriteAnswers"])
def test_actors_may_die(
    name: str, videos: Path, undisturbed: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    """Decoders at any moment; engines while they answer, which they do from the first commit on."""
    run = tmp_path / "run"
    process = start(run, videos)
    whole = psutil.Process(process.pid)
    killed = []
    for commits in (1, 3):
        ready = (
            (lambda: actors(whole, name))
            if name == "SelectClips"
            else (lambda least=commits: committed(run) >= least)
        )
        if not wait_for(ready, process):
            break
        time.sleep(random.uniform(0, 3 if name == "SelectClips" else 0.3))
        for actor in actors(whole, name)[:1]:
            actor.send_signal(signal.SIGKILL)
            killed.append(committed(run))
        time.sleep(1)
    assert process.wait(600) == 0, run.with_suffix(".log").read_text()[-3000:]
    print(f"{name} killed after these many commits: {killed}")
    assert killed
    assert name == "SelectClips" or killed[0] < BLOCKS  # something was left to do
    assert pairs(run) == undisturbed


def test_the_driver_may_die(
    videos: Path, undisturbed: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(run, videos)
    least = random.randint(1, 3)
    assert wait_for(lambda: committed(run) >= least, process), run.with_suffix(".log").read_text()[
        -3000:
    ]
    whole = psutil.Process(process.pid)
    agents = actors(
        whole, "Agent"
    )  # Ray's own, which have no part in the work and take a minute to go
    family = [one for one in whole.children(recursive=True) if one not in agents]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left, "Ray's processes end with the driver that started them"
    before = {file.name: file.stat().st_mtime_ns for file in (run / "answers").glob("*.parquet")}
    assert 0 < len(before) < BLOCKS

    assert start(run, videos).wait(600) == 0, run.with_suffix(".log").read_text()[-3000:]
    after = (
        ds.dataset(run / "answers", format="parquet")
        .to_table(columns=["video_id"])["video_id"]
        .to_pylist()
    )
    assert len(after) == len(set(after)) == VIDEOS
    kept = [name for name, written in before.items() if (run / "answers" / name).exists()]
    assert all((run / "answers" / name).stat().st_mtime_ns == before[name] for name in kept)
    assert kept  # what was committed was not made again
    assert pairs(run) == undisturbed
