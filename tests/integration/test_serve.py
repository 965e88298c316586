"""The whole endpoint: jobs/serve.py with a model of random weights, asked by the openai client and
by jobs/evaluate.py, until it is stopped.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pyarrow.parquet as pq
import pytest
import torch

from tempo_ray.config import FramesConfig
from tempo_ray.models.frames import read_frames
from tempo_ray.models.vlm import chat_text, encode, load_model, load_model_config, load_processor
from tempo_ray.processes import free_port
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.build import make_random
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import draw_story

JOBS = Path(__file__).parents[2] / "jobs"
TOKEN = "a-token-for-the-test"
QUESTION = "What happens first?"
FRAMES = FramesConfig(fps=2.0, max_frames=8)


def job(name: str, *words: str, **environment: str) -> list[str] | dict:
    return {
        "args": [sys.executable, str(JOBS / f"{name}.py"), *words],
        "env": os.environ | environment,
        "text": True,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Models, videos and questions."""
    root = tmp_path_factory.mktemp("serve")
    make_random("qwen2_5_vl", root / "model")
    (root / "videos").mkdir()
    lines = []
    for number in range(2):
        rng = np.random.default_rng(number)
        story = draw_story(rng, 5)
        write_video(story, root / f"videos/{number}.mp4", 24, 64, 64)
        for index, question in enumerate(language.ask(story, rng, 3, 0.5)):
            row = {
                "question_id": f"{number}-{index}",
                "video": f"videos/{number}.mp4",
                "kind": question.kind,
                "needs": question.needs,
                "text": question.text,
                "options": question.options,
                "answer": question.answer,
            }
            lines.append(row)
    (root / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module")
def endpoint(world):
    """The base URL; the job is stopped with SIGTERM, and must end well."""
    port = free_port()
    engine = (
        "{dtype: float32, max_model_len: 2048, max_num_seqs: 8, kv_cache_bytes: 100000000, "
        "enforce_eager: true, in_process: true}"
    )
    words = [
        f"run={world}/run",
        f"models=[{{name: tiny, path: {world}/model}}]",
        f"port={port}",
        "device=cpu",
        f"engine={engine}",
        f"frames={{fps: {FRAMES.fps}, max_frames: {FRAMES.max_frames}}}",
        "guard.max_body_bytes=1000000",
    ]
    log = world / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            **job("serve", *words, TEMPO_RAY_TOKEN=TOKEN), stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 400
        while "\nready: " not in log.read_text():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        assert f"\nready: http://127.0.0.1:{port}/v1\n" in log.read_text()
        yield f"http://127.0.0.1:{port}/v1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, log.read_text()[-3000:]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        summary = json.loads((world / "run/summary/serve.json").read_text())
        assert (summary["status"], summary["stopped"]) == ("done", True)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def client(endpoint):
    with openai.OpenAI(base_url=endpoint, api_key=TOKEN, max_retries=0, timeout=120) as client:
        yield client


def message(url: str) -> list[dict]:
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": parts}]


def data_url(file: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_what_is_served_is_what_is_trained(client, world):
    """Log-probs of the first token: over HTTP, from vLLM's loader and engine; from ours and
    transformers."""
    file, path = world / "videos/0.mp4", str(world / "model")
    answer = client.chat.completions.create(
        model="tiny",
        messages=message(data_url(file)),
        temperature=0,
        max_tokens=1,
        logprobs=True,
        top_logprobs=5,
    )
    top = answer.choices[0].logprobs.content[0].top_logprobs
    served = [token.logprob for token in top]
    config, processor = load_model_config(path), load_processor(path)
    frames = read_frames(str(file), FRAMES, config.model_type)
    (encoded,) = encode(processor, config, [chat_text(processor, [None, QUESTION])], [[frames]])
    with torch.no_grad():
        logits = load_model(path, torch.float32)(
            input_ids=torch.tensor(encoded.input_ids)[None],
            position_ids=torch.tensor(encoded.positions)[:, None],
            pixel_values_videos=encoded.pixel_values_videos,
            video_grid_thw=encoded.video_grid_thw,
        ).logits
    assert len(frames.pixels) == FRAMES.max_frames
    assert answer.usage.prompt_tokens == len(encoded.input_ids)
    assert served == pytest.approx(logits[0, -1].log_softmax(-1).topk(5).values.tolist(), abs=1e-4)


def test_answers_stream(client, world):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=message(data_url(world / "videos/0.mp4")),
            max_tokens=8,
            stream=True,
        )
    )
    assert len(chunks) > 1


def test_the_endpoint_says_what_it_serves(client):
    (card,) = client.models.list().data
    settings = card.model_extra["metadata"]["tempo_ray"]
    assert (settings["frames"]["max_frames"], settings["engine"]["dtype"]) == (
        FRAMES.max_frames,
        "float32",
    )


def test_no_entry_without_the_token(endpoint):
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        response = httpx.get(f"{endpoint}/models", headers=header)
        assert (response.status_code, response.json()["error"]["type"]) == (
            401,
            "authentication_error",
        )
    assert (
        httpx.post(
            f"{endpoint}/chat/completions", json={"model": "tiny", "messages": message("x")}
        ).status_code
        == 401
    )
    health = httpx.get(endpoint.replace("/v1", "/health"), timeout=30)
    assert (health.status_code, health.json()["status"]) == (200, "ok")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://127.0.0.1:8265/",
        "http://169.254.169.254/",
        "data:video/mp4;base64,AAAA",
    ],
)
def test_videos_that_cannot_be_opened_are_refused(client, url):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=message(url), max_tokens=1)
    assert caught.value.body["type"] == "invalid_request_error"
    assert "Exception" not in caught.value.body["message"]


def test_a_request_that_is_too_large_is_refused(client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model="tiny", messages=message("data:video/mp4;base64," + "A" * 1_000_000), max_tokens=1
        )
    assert caught.value.status_code == 413


def test_a_model_that_is_not_served_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model="other", messages=message("data:video/mp4;base64,AAAA"), max_tokens=1
        )


def evaluate(world, *words, token=TOKEN):
    return subprocess.run(
        **job("evaluate", *words, TEMPO_RAY_TOKEN=token),
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_evaluate_writes_scores_and_compares_them(endpoint, world):
    run = world / "run"
    words = [
        f"run={run}",
        f"endpoint={endpoint}",
        "models=[tiny]",
        f"questions={world}/questions.jsonl",
        "max_tokens=8",
    ]
    evaluated = evaluate(world, *words)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "tiny: 6 questions" in evaluated.stdout
    rows = pq.read_table(run / "scores/tiny.parquet").to_pylist()
    assert [row["question_id"] for row in rows] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert all(
        row["error"] is None and row["prediction"] is not None and row["model"] == "tiny"
        for row in rows
    )
    assert (
        json.loads(rows[0]["served"])["metadata"]["tempo_ray"]["frames"]["max_frames"]
        == FRAMES.max_frames
    )
    summary = json.loads((run / "summary/evaluate.json").read_text())
    assert (summary["status"], summary["models"]["tiny"]["groups"]["all"]["questions"]) == (
        "done",
        6,
    )
    groups = set(summary["models"]["tiny"]["groups"])
    assert groups & {"order", "other"}
    assert {group for row in rows for group in row["groups"]} == groups - {"all"}
    for file in [
        run / "scores/tiny.parquet",
        run / "summary/evaluate.json",
        run / "config/evaluate.yaml",
        world / "serve.log",
    ]:
        assert TOKEN.encode() not in file.read_bytes()

    scores = str(run / "scores/tiny.parquet")
    compared = evaluate(world, "compare", scores, scores)
    assert compared.returncode == 0
    assert "+0.000" in compared.stdout


def test_evaluate_refuses_in_plain_words(endpoint, world):
    words = [
        f"run={world}/run2",
        f"endpoint={endpoint}",
        "models=[tiny]",
        f"questions={world}/questions.jsonl",
    ]
    assert "TEMPO_RAY_TOKEN" in evaluate(world, *words, token="wrong").stderr
    no_model = evaluate(world, *words, "models=[other]")
    assert (no_model.returncode, no_model.stderr) == (
        2,
        f"{endpoint} does not serve other; it serves tiny\n",
    )
    began = time.monotonic()
    nothing_there = evaluate(world, *words, f"endpoint=http://127.0.0.1:{free_port()}/v1")
    assert (nothing_there.returncode, time.monotonic() - began < 30) == (2, True)
    assert "no OpenAI-compatible endpoint answers" in nothing_there.stderr


def test_a_busy_port_is_refused_at_once(endpoint, world):
    port = endpoint.split(":")[2].split("/")[0]
    words = [
        f"models=[{{name: tiny, path: {world}/model}}]",
        f"port={port}",
        "device=cpu",
        "engine.kv_cache_bytes=100000000",
    ]
    refused = subprocess.run(**job("serve", *words), capture_output=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "choose another port" in refused.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["host=0.0.0.0"], "TEMPO_RAY_TOKEN"),
        (["models=[{name: a, path: /no/such/folder}]"], "no such folder"),
        (["models=[{name: 'a:b', path: m}]"], "colon"),
        (["engine.kv_cache_bytes=null"], "kv_cache_bytes"),
    ],
)
def test_refused_before_anything_starts(words, reason):
    base = [
        "models=[{name: tiny, path: /no/such/folder}]",
        f"port={free_port()}",
        "device=cpu",
        "engine.kv_cache_bytes=100000000",
    ]
    refused = subprocess.run(
        **job("serve", *base, *words, TEMPO_RAY_TOKEN=""),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert reason in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 2
