"""kill -9 of decoding actors, of vLLM actors and of the driver: the same pairs come out as without,
each once.
"""

import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest

from tests.integration.jobs import (
    processes_named,
    run_job,
    started_job,
    wait_until,
)

VIDEOS = 12
BLOCKS = VIDEOS // 2
# blocks of two videos, so that something is committed before everything is done
WORDS = ["--config", "embedded", "select.pool.batch_rows=2", "respond.pool.batch_rows=2"]

Pairs = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def videos(drawn_videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for file in drawn_videos[:VIDEOS]:
        shutil.copy(file, folder)
    return folder


def pairs_of(run: Path) -> Pairs:
    rows = ds.dataset(run / "pairs", format="parquet").to_table().to_pylist()
    pairs = {row["pair_id"]: (row["chosen"], row["rejected"]) for row in rows}
    assert len(pairs) == len(rows)
    return pairs


def committed(run: Path) -> int:
    """Blocks of answers that are on disk."""
    return len(list((run / "answers").glob("*.parquet")))


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = run_job("generate-pairs", *WORDS, f"run={run}", f"videos.input={videos}")
    assert ended.status == 0, ended.err[-3000:]
    return pairs_of(run)


class Killer(threading.Thread):
    """Kills an actor twice while a job runs in the main thread: whenever `ready`, after a delay of
    up to `delay_s`."""

    def __init__(self, name: str, ready: list[Callable[[], object]], delay_s: float) -> None:
        super().__init__(daemon=True)
        self.actor, self.ready, self.delay_s = name, ready, delay_s
        self.killed = 0
        self.over = threading.Event()

    def run(self) -> None:
        for ready in self.ready:
            while not ready():
                if self.over.wait(0.1):
                    return
            time.sleep(random.uniform(0, self.delay_s))
            for actor in self.actors()[:1]:
                actor.send_signal(signal.SIGKILL)
                self.killed += 1
            time.sleep(1)

    def actors(self) -> list[psutil.Process]:
        return processes_named(psutil.Process(), self.actor)


def test_actors_may_die(videos: Path, undisturbed: Pairs, tmp_path: Path) -> None:
    """Decoders at any moment; engines while they answer, which they do from the first commit on."""
    run = tmp_path / "run"
    decoders = Killer("SelectClips", [lambda: decoders.actors()] * 2, 3)
    when = [lambda: committed(run) >= 1, lambda: committed(run) >= 3]
    engines = Killer("WriteAnswers", when, 0.3)
    killers = (decoders, engines)
    for killer in killers:
        killer.start()
    ended = run_job("generate-pairs", *WORDS, f"run={run}", f"videos.input={videos}")
    for killer in killers:
        killer.over.set()
        killer.join()
    assert ended.status == 0, ended.err[-3000:]
    print([f"{killer.actor} killed {killer.killed} times" for killer in killers])
    assert all(killer.killed for killer in killers)
    assert pairs_of(run) == undisturbed


def test_the_driver_may_die(videos: Path, undisturbed: Pairs, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    words = [*WORDS, f"run={run}", f"videos.input={videos}"]
    blocks = random.randint(1, 3)
    with started_job("generate_pairs", *words, log=log) as process:
        wait_until(lambda: committed(run) >= blocks, process, log)
        driver = psutil.Process(process.pid)
        driver.suspend()  # or it would go on while its descendants are counted
        # Ray's own agents have no part in the work, and take a minute to end
        agents = processes_named(driver, "Agent")
        descendants = [child for child in driver.children(recursive=True) if child not in agents]
        driver.kill()
        process.wait()
        _, alive = psutil.wait_procs(descendants, timeout=60)
    assert not alive, "Ray's processes end with the driver that started them"
    before = {file.name: file.stat().st_mtime_ns for file in (run / "answers").glob("*.parquet")}
    assert 0 < len(before) < BLOCKS

    ended = run_job("generate-pairs", *words)
    assert ended.status == 0, ended.err[-3000:]
    answers = ds.dataset(run / "answers", format="parquet").to_table(columns=["video_id"])
    ids = answers["video_id"].to_pylist()
    assert len(ids) == len(set(ids)) == VIDEOS
    kept = [name for name in before if (run / "answers" / name).exists()]
    assert kept, "what was committed is not made again"
    assert all((run / "answers" / name).stat().st_mtime_ns == before[name] for name in kept)
    assert pairs_of(run) == undisturbed
