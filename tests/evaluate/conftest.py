"""A real HTTP server that plays an endpoint, and fails in every way."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class EndpointServer(ThreadingHTTPServer):
    """The text of a request says what happens to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RequestHandler)
        self.attempts: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class RequestHandler(BaseHTTPRequestHandler):
    server: EndpointServer

    def do_GET(self) -> None:
        if self.headers["authorization"] == "Bearer wrong":
            return self.send(401, b"{}")
        cards = [{"id": name, "object": "model", "owned_by": "x"} for name in ("m", "n")]
        return self.send_json({"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][0]["content"][-1]["text"]
        with self.server.lock:
            self.server.attempts[text] += 1
            self.server.bodies.append(body)
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        try:
            self.react(text, self.server.attempts[text])
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def react(self, text: str, attempt: int) -> None:
        if text == "broken" or (text == "broken once" and attempt == 1):
            self.send(500, b'{"error": {"message": "broken"}}')
        elif text == "refused":
            self.send(400, b'{"error": {"message": "too many frames"}}')
        elif text == "hangs":
            time.sleep(3)
        elif text == "hangs up" or (text == "hangs up once" and attempt == 1):
            self.connection.close()
        elif text == "no JSON":
            self.send(200, b"<html>")
        elif text == "other JSON":
            self.send_json({"hello": 1})
        elif text == "no text":
            self.send_json({"choices": [{"index": 0, "message": {"role": "assistant"}}]})
        else:
            time.sleep(0.05)
            message = {"role": "assistant", "content": "yes"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            self.send_json({"id": "1", "object": "chat.completion", "choices": [choice]})

    def send_json(self, body: dict[str, Any]) -> None:
        self.send(200, json.dumps(body).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    server = EndpointServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = tmp_path / "1.mp4"
    path.write_bytes(b"video")
    return str(path)
