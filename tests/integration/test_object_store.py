"""Videos in a bucket and the run in a bucket: a real S3 server over HTTP, once in order and once failing one request in ten."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import make_server

from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

ROOT = Path(__file__).parents[2]
VIDEOS = 4
KEY, SECRET = "AKIDEXAMPLEONLY", "a-secret-that-must-not-be-written"


class Store:
    """A WSGI application in front of moto's; fails every `fail_every`-th request with 503 SlowDown."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.fail_every: int | None = None
        self.requests = self.failed = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with self._lock:
            self.requests += 1
            fail = self.fail_every is not None and self.requests % self.fail_every == 0
            self.failed += fail
        if fail:
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [
                b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>later</Message></Error>"
            ]
        return self._moto(environ, start_response)


@pytest.fixture(scope="module")
def store() -> Iterator[tuple[Store, dict[str, str]]]:
    application = Store()
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield application, environment
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def bucket(
    store: tuple[Store, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> fs.S3FileSystem:
    _, environment = store
    s3 = fs.S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        region="us-east-1",
        endpoint_override=environment["AWS_ENDPOINT_URL"],
        allow_bucket_creation=True,
    )
    s3.create_dir("films")
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(VIDEOS):
        file = folder / f"{seed}.mp4"
        write_video(draw_story(np.random.default_rng(seed), 4 + seed % 2), file, 24, 64, 64)
        with s3.open_output_stream(f"films/in/part {seed % 2}/{file.name}") as out:
            out.write(file.read_bytes())
    with s3.open_output_stream("films/in/broken.mp4") as out:
        out.write(b"no video")
    return s3


Pairs = dict[str, tuple[str, str]]


def submitted(run: str, store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem) -> Pairs:
    """Runs the job, looks at all it wrote and said, and returns its pairs by id."""
    _, environment = store
    command = [sys.executable, "jobs/generate_pairs.py", "--config", "jobs/configs/embedded.yaml"]
    done = subprocess.run(
        [*command, f"run=s3://{run}", "videos.input=s3://films/in"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with bucket.open_input_stream(f"{run}/summary/generate_pairs.json") as stream:
        summary = json.loads(stream.read())
    assert (summary["videos_in"], summary["kept"], summary["dropped"], summary["failed"]) == (
        VIDEOS + 1,
        VIDEOS,
        0,
        1,
    )
    assert summary["to_try_again"] == 0
    rows = ds.dataset(f"{run}/answers", filesystem=bucket, format="parquet").to_table().to_pylist()
    assert len({row["video_id"] for row in rows}) == len(rows) == VIDEOS + 1
    pairs = ds.dataset(f"{run}/pairs", filesystem=bucket, format="parquet").to_table().to_pylist()
    assert len(pairs) == summary["pairs"] > 5 * VIDEOS
    assert all(pair["uri"].startswith("s3://films/in/") for pair in pairs)
    for text in (
        done.stdout,
        done.stderr,
        json.dumps(rows),
        json.dumps(pairs),
        json.dumps(summary),
    ):
        assert SECRET not in text
        assert KEY not in text
    return {pair["pair_id"]: (pair["chosen"], pair["rejected"]) for pair in pairs}


@pytest.fixture(scope="module")
def undisturbed(store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem) -> Pairs:
    return submitted("films/run", store, bucket)


def test_training_in_a_bucket_goes_on_after_a_kill(
    store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem, undisturbed: Pairs, tmp_path: Path
) -> None:
    """Pairs, videos, saves and model in the bucket; the driver and its worker are killed after a save."""
    _, environment = store
    command = [
        sys.executable,
        "jobs/train.py",
        "--config",
        "jobs/configs/embedded.yaml",
        "run=s3://films/run",
        "recipe=align",
    ]
    command += [
        "align.curriculum={order: mixed, epochs: 8}",
        "align.batch=16",
        "workers.count=1",
        "save_every_steps=2",
    ]

    def start(log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def saves() -> list[str]:
        found = bucket.get_file_info(
            fs.FileSelector("films/run/train/saves", recursive=True, allow_not_found=True)
        )
        return [info.path for info in found if info.base_name == "save.json"]

    process = start(tmp_path / "killed.log")
    deadline = time.monotonic() + 300
    while not saves():
        assert process.poll() is None, (tmp_path / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(tmp_path / "log").wait(300) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert "align-mixed  step 1/" not in said
    assert "align-mixed: done" in said
    assert saves() == []
    with bucket.open_input_stream("films/run/stages/align-mixed/stage.json") as stream:
        facts = json.loads(stream.read())
    assert facts["pairs"] == len(set(undisturbed.values()))
    there = {info.base_name for info in bucket.get_file_info(fs.FileSelector("films/run/model"))}
    assert {"model.safetensors", "README.md", "curves.png", "chat_template.jinja"} <= there
    for text in (said, (tmp_path / "killed.log").read_text(), json.dumps(facts)):
        assert SECRET not in text
        assert KEY not in text


def test_a_store_that_fails_one_request_in_ten_changes_nothing(
    store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem, undisturbed: Pairs
) -> None:
    application, _ = store
    application.fail_every = 10
    disturbed = submitted("films/run-that-fails", store, bucket)
    assert application.failed > 0
    assert disturbed == undisturbed
