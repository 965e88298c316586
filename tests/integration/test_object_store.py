"""Videos in a bucket and the run in a bucket: a real S3 server over HTTP, once healthy and once
failing one request in ten.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from pyarrow import fs
from werkzeug.serving import make_server

from tests.integration.jobs import ROOT, kill_group, started_job, wait_until

VIDEOS = 4
KEY, SECRET = "AKIDEXAMPLEONLY", "a-secret-that-must-not-be-written"


class Store:
    """A WSGI application in front of moto's: fails every `fail_every`-th request with 503."""

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
def bucket(store: tuple[Store, dict[str, str]], drawn_videos: list[Path]) -> fs.S3FileSystem:
    _, environment = store
    s3 = fs.S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        region="us-east-1",
        endpoint_override=environment["AWS_ENDPOINT_URL"],
        allow_bucket_creation=True,
    )
    s3.create_dir("films")
    for number, file in enumerate(drawn_videos[:VIDEOS]):
        with s3.open_output_stream(f"films/in/part {number % 2}/{file.name}") as out:
            out.write(file.read_bytes())
    with s3.open_output_stream("films/in/broken.mp4") as out:
        out.write(b"no video")
    return s3


Pairs = dict[str, tuple[str, str]]


def generate(run: str, store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem) -> Pairs:
    """Runs the job, checks all that it wrote and printed, and returns its pairs by id."""
    _, environment = store
    words = ["--config", "embedded", f"run=s3://{run}", "videos.input=s3://films/in"]
    done = subprocess.run(
        [sys.executable, "jobs/generate_pairs.py", *words],
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
    counts = [summary[name] for name in ("videos_in", "kept", "dropped", "failed", "to_retry")]
    assert counts == [VIDEOS + 1, VIDEOS, 0, 1, 0]
    rows = ds.dataset(f"{run}/answers", filesystem=bucket, format="parquet").to_table().to_pylist()
    assert len({row["video_id"] for row in rows}) == len(rows) == VIDEOS + 1
    pairs = ds.dataset(f"{run}/pairs", filesystem=bucket, format="parquet").to_table().to_pylist()
    assert len(pairs) == summary["pairs"] > 5 * VIDEOS
    assert all(pair["uri"].startswith("s3://films/in/") for pair in pairs)
    written = [json.dumps(rows), json.dumps(pairs), json.dumps(summary)]
    for text in (done.stdout, done.stderr, *written):
        assert SECRET not in text
        assert KEY not in text
    return {pair["pair_id"]: (pair["chosen"], pair["rejected"]) for pair in pairs}


@pytest.fixture(scope="module")
def undisturbed(store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem) -> Pairs:
    return generate("films/run", store, bucket)


def test_training_in_a_bucket_resumes_after_a_kill(
    store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem, undisturbed: Pairs, tmp_path: Path
) -> None:
    """Pairs, videos, checkpoints and model are in the bucket; the driver and its worker are killed
    after a checkpoint."""
    _, environment = store
    words = [
        "--config",
        "embedded",
        "run=s3://films/run",
        "recipe=align",
        "align.curriculum={schedule: mixed, epochs: 4}",
        "align.pairs_per_step=16",
        "workers.count=1",
        "checkpoint_every_steps=2",
    ]

    def checkpoints() -> list[str]:
        folder = fs.FileSelector(
            "films/run/train/checkpoints", recursive=True, allow_not_found=True
        )
        found = bucket.get_file_info(folder)
        return [info.path for info in found if info.base_name == "checkpoint.json"]

    killed, log = tmp_path / "killed.log", tmp_path / "log"
    with started_job("train", *words, log=killed, environment=environment) as process:
        wait_until(checkpoints, process, killed)
        kill_group(process)
    with started_job("train", *words, log=log, environment=environment) as process:
        assert process.wait(300) == 0, log.read_text()
    printed = log.read_text()
    assert "align-mixed  step 1/" not in printed
    assert "align-mixed: done" in printed
    assert checkpoints() == []
    with bucket.open_input_stream("films/run/stages/align-mixed/stage.json") as stream:
        stage = json.loads(stream.read())
    assert stage["pairs"] == len(set(undisturbed.values()))
    files = {info.base_name for info in bucket.get_file_info(fs.FileSelector("films/run/model"))}
    assert {"model.safetensors", "README.md", "curves.png", "chat_template.jinja"} <= files
    for text in (printed, killed.read_text(), json.dumps(stage)):
        assert SECRET not in text
        assert KEY not in text


def test_a_store_that_fails_one_request_in_ten_changes_nothing(
    store: tuple[Store, dict[str, str]], bucket: fs.S3FileSystem, undisturbed: Pairs
) -> None:
    application, _ = store
    application.fail_every = 10
    disturbed = generate("films/run-that-fails", store, bucket)
    assert application.failed > 0
    assert disturbed == undisturbed
