"""The client against a real HTTP server that fails in every way: errors, silence, nonsense, a closed door."""

import asyncio
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tempo_ray.evaluate.client import Endpoint, NoEndpoint, ask_all, data_url, served_models
from tempo_ray.evaluate.tasks.shapeworld import Question


class Endpoints(ThreadingHTTPServer):
    """What a request's text says is what happens to it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.asked = Counter()
        self.bodies = []
        self.flying = self.most = 0
        self.lock = threading.Lock()


class Requests(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers["authorization"] == "Bearer wrong":
            return self.answer(401, b"{}")
        self.answer(
            200,
            json.dumps(
                {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "x"}]}
            ).encode(),
        )

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][0]["content"][1]["text"]
        with self.server.lock:
            self.server.asked[text] += 1
            self.server.bodies.append(body)
            self.server.flying += 1
            self.server.most = max(self.server.most, self.server.flying)
        try:
            self.react(text, self.server.asked[text])
        finally:
            with self.server.lock:
                self.server.flying -= 1

    def react(self, text, time_asked):
        if text == "broken" or (text == "broken once" and time_asked == 1):
            self.answer(500, b'{"error": {"message": "broken"}}')
        elif text == "refused":
            self.answer(400, b'{"error": {"message": "too many frames"}}')
        elif text == "hangs":
            time.sleep(3)
        elif text == "hangs up" or (text == "hangs up once" and time_asked == 1):
            self.connection.close()
        elif text == "no JSON":
            self.answer(200, b"<html>")
        elif text == "other JSON":
            self.answer(200, b'{"hello": 1}')
        elif text == "no text":
            self.answer(
                200,
                json.dumps({"choices": [{"index": 0, "message": {"role": "assistant"}}]}).encode(),
            )
        else:
            time.sleep(0.05)
            choice = {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "yes"},
            }
            self.answer(
                200,
                json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode(),
            )

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    one = Endpoints()
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "1.mp4"
    path.write_bytes(b"video")
    return path


def endpoint(server, token=None, timeout_s=5.0, concurrency=4):
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", token, 16, timeout_s, concurrency)


def question(text, video):
    return Question(text, video, "first", "order", text, ("yes", "no"), "yes")


def test_every_question_has_a_reply_and_failures_say_why(server, video):
    texts = [
        "good",
        "broken",
        "broken once",
        "refused",
        "hangs up",
        "hangs up once",
        "no JSON",
        "other JSON",
        "no text",
    ]
    replies = asyncio.run(ask_all(endpoint(server), "m", [question(text, video) for text in texts]))
    found = dict(zip(texts, replies, strict=True))
    assert [text for text in texts if found[text].text == "yes"] == [
        "good",
        "broken once",
        "hangs up once",
    ]
    assert all(reply.error is None for reply in replies if reply.text == "yes")
    assert all(reply.error for reply in replies if reply.text is None)
    assert found["broken"].error.startswith("500")
    assert "too many frames" in found["refused"].error
    assert "Connection" in found["hangs up"].error
    assert server.asked["broken"] == 4
    assert server.asked["refused"] == 1
    assert found["good"].finish_reason == "stop"


def test_a_reply_that_never_comes(server, video):
    (reply,) = asyncio.run(
        ask_all(Endpoint(endpoint(server).url, None, 16, 0.2, 1), "m", [question("hangs", video)])
    )
    assert reply.text is None
    assert "Timeout" in reply.error


def test_a_video_that_is_gone(server, tmp_path, video):
    replies = asyncio.run(
        ask_all(
            endpoint(server), "m", [question("good", tmp_path / "no.mp4"), question("fine", video)]
        )
    )
    assert replies[0].error.startswith("FileNotFoundError")
    assert replies[1].text == "yes"


def test_what_is_sent(server, video):
    asyncio.run(ask_all(endpoint(server), "m", [question("good", video)]))
    (body,) = server.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 16)
    content = [
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,dmlkZW8="}},
        {"type": "text", "text": "good"},
    ]
    assert body["messages"] == [{"role": "user", "content": content}]
    data_url.cache_clear()


def test_no_more_in_flight_than_asked(server, video):
    asyncio.run(
        ask_all(
            endpoint(server, concurrency=3),
            "m",
            [question(f"q{index}", video) for index in range(12)],
        )
    )
    assert 1 < server.most <= 3


def test_the_models_of_an_endpoint(server):
    served = asyncio.run(served_models(endpoint(server)))
    assert json.loads(served["m"])["owned_by"] == "x"


def test_a_wrong_token_is_named_and_not_shown(server):
    with pytest.raises(NoEndpoint, match="TEMPO_RAY_TOKEN") as caught:
        asyncio.run(served_models(endpoint(server, token="wrong")))
    assert "wrong" not in str(caught.value).replace("TEMPO_RAY_TOKEN", "")


def test_no_endpoint_at_all():
    began = time.monotonic()
    with pytest.raises(NoEndpoint, match=r"127\.0\.0\.1:9"):
        asyncio.run(served_models(Endpoint("http://127.0.0.1:9/v1", None, 16, 60.0, 1)))
    assert time.monotonic() - began < 10
