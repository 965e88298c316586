"""What the guard lets through, from a fake ASGI server; the addresses it fetches, from a real web
server on this machine."""

import asyncio
import http.server
import json
import threading

import pytest

from tempo_ray.config import GuardConfig
from tempo_ray.config.serve import TOKEN_VARIABLE
from tempo_ray.errors import UserError
from tempo_ray.serve import fetch, guard
from tempo_ray.serve.guard import Guard, check_exposure, digest, is_loopback

VIDEO = "data:video/mp4;base64,AAAA"


def part(url=VIDEO, kind="video_url"):
    return {"type": kind, kind: {"url": url}}


def chat(*parts, **more):
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}]} | more


def ask(
    body,
    token=None,
    headers=None,
    client="127.0.0.1",
    method="POST",
    path="/v1/chat/completions",
    config=None,
):
    """(status, error) of a refusal, or (200, request) of a request that the guard lets through."""
    data = (
        body
        if isinstance(body, list)
        else [body if isinstance(body, bytes) else json.dumps(body).encode()]
    )
    passed = {}
    sent = []

    async def app(scope, receive, send):
        passed["body"] = b""
        while True:
            message = await receive()
            passed["body"] += message.get("body", b"")
            if not message.get("more_body"):
                break
        passed["after"] = await receive()
        passed["headers"] = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": piece == b"one"})

    messages = [
        {"type": "http.request", "body": piece, "more_body": index < len(data) - 1}
        for index, piece in enumerate(data)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    all_headers = {"host": "127.0.0.1:8000", "content-type": "application/json"} | (headers or {})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "client": (client, 5000),
        "headers": [(name.encode(), value.encode()) for name, value in all_headers.items()],
    }
    asyncio.run(
        Guard(app, config=config or GuardConfig(), token=digest(token))(scope, receive, send)
    )
    if sent[0]["status"] == 200:
        assert [message.get("body") for message in sent[1:]] == [b"one", b"two"]
        return 200, passed
    assert not passed
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]


def test_a_video_passes_as_it_was_sent():
    body = json.dumps(chat(part(), {"type": "text", "text": "What happens?"}), indent=3).encode()
    status, passed = ask([body[:20], body[20:]])
    assert status == 200
    assert passed["body"] == body
    assert passed["headers"][b"content-length"] == str(len(body)).encode()
    assert passed["after"]["type"] == "http.disconnect"


@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer ", "Basic secret", "secret", "Bearer secret2", "Bearer sécret"],
)
def test_a_wrong_or_missing_token_is_refused(header):
    status, error = ask(
        chat(part()), token="secret", headers={"authorization": header} if header else {}
    )
    assert (status, error["type"], error["code"]) == (401, "authentication_error", 401)


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret"])
def test_the_right_token_opens_to_other_machines(header):
    headers = {"authorization": header, "host": "models.example.org"}
    assert ask(chat(part()), token="secret", headers=headers, client="93.184.216.34")[0] == 200


def test_health_needs_no_token():
    assert ask(b"", token="secret", method="GET", path="/health")[0] == 200
    assert ask(b"", token="secret", method="GET", path="/v1/models")[0] == 401


STRANGERS = [("10.0.0.7", "127.0.0.1:8000"), ("127.0.0.1", "evil.example.org"), ("127.0.0.1", "")]


@pytest.mark.parametrize(("client", "host"), STRANGERS)
def test_without_a_token_only_this_machine_may_connect(client, host):
    status, error = ask(chat(part()), client=client, headers={"host": host})
    assert (status, error["type"]) == (403, "permission_error")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000", "::1", "127.0.0.1"]
)
def test_names_of_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.org", "127.0.0.1.evil.org:80", "", "models"],
)
def test_names_of_other_machines(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "models.example.org"])
def test_listening_beyond_loopback_needs_a_token(host):
    with pytest.raises(UserError, match="TEMPO_RAY_TOKEN"):
        check_exposure(host, None)
    check_exposure(host, "secret")


def test_listening_on_loopback_needs_none():
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(host, None)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "/etc/passwd",
        "ftp://example.org/x.mp4",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,AAAA",
        "data:video/mp4,AAAA",
        "data:video/mp4;charset=x;base64,AAAA",
        "",
        "http://127.0.0.1/x.mp4",
        "http://127.1/x.mp4",
        "http://2130706433/x.mp4",
        "http://localhost:6379/",
        "http://10.0.0.1/x.mp4",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://0.0.0.0/",
        "http://[::1]/x.mp4",
        "http://[::ffff:127.0.0.1]/",
        "http://[fd00::1]/",
        "http://user:pw@8.8.8.8/x.mp4",
        "http://",
        "http://[",
    ],
)
def test_addresses_that_are_never_opened(url):
    status, error = ask(chat(part(url)))
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert ask(chat(part(url, "image_url") if "image" not in url else part(url)))[0] == 400


@pytest.mark.parametrize(
    "content_part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}},
        {"video_url": "file:///etc/passwd"},
        {"type": "text", "text": "hi", "video_url": "file:///etc/passwd"},
        {"type": "video_url", "video_url": "file:///etc/passwd"},
        {"type": "video_url", "video_url": {"url": VIDEO}, "uuid": "reused"},
        {"type": "video_url", "video_url": {"url": [VIDEO]}},
        {"type": "video_url", "video_url": {"url": VIDEO, "path": "/etc/passwd"}},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        "file:///etc/passwd",
        None,
    ],
)
def test_other_kinds_of_parts_are_refused(content_part):
    assert ask(chat(part(), content_part))[0] == 400


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_are_not_requests_are_refused(body):
    assert ask(body)[0] == 400


def test_only_json_is_read():
    assert ask(chat(part()), headers={"content-type": "text/plain"})[0] == 415
    assert ask(chat(part()), headers={"content-type": "application/json; charset=utf-8"})[0] == 200


def test_too_many_answers_are_refused():
    assert ask(chat(part(), n=9))[0] == 400
    assert ask(chat(part(), n=8))[0] == 200


def test_a_request_is_too_large_by_its_header_or_its_bytes():
    small = GuardConfig(max_body_bytes=100)
    assert ask(b"x", headers={"content-length": "101"}, config=small)[0] == 413
    assert ask([b"x" * 60, b"x" * 60], config=small)[0] == 413
    assert ask({"messages": []}, config=small)[0] == 200


@pytest.fixture
def web(monkeypatch):
    """A web server at example.org: a local one, let through."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            pages = {"/x.mp4": (200, b"abcdef"), "/moved": (302, b""), "/big": (200, b"x" * 2000)}
            status, body = pages.get(self.path, (404, b""))
            self.send_response(status if self.headers["host"].startswith("example.org:") else 400)
            self.send_header("location", "http://127.0.0.1/")
            self.send_header("content-type", "video/webm")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def resolved(host, port):
        assert host == "example.org"
        return "127.0.0.1"

    monkeypatch.setattr(fetch, "resolve_public", resolved)
    yield f"http://example.org:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_public_url_becomes_a_data_url(web):
    status, passed = ask(chat(part(f"{web}/x.mp4"), {"type": "text", "text": "?"}))
    assert status == 200
    assert json.loads(passed["body"]) == chat(
        part("data:video/webm;base64,YWJjZGVm"), {"type": "text", "text": "?"}
    )


def test_fetches_are_bounded_and_follow_no_redirects(web):
    assert "302" in ask(chat(part(f"{web}/moved")))[1]["message"]
    assert "404" in ask(chat(part(f"{web}/none")))[1]["message"]
    assert ask(chat(part(f"{web}/big")), config=GuardConfig(max_body_bytes=1000))[0] == 413


def test_a_dead_host_is_refused_in_plain_words(monkeypatch):
    async def resolved(host, port):
        return "127.0.0.1"

    monkeypatch.setattr(fetch, "resolve_public", resolved)
    status, error = ask(chat(part("http://example.org:9/x.mp4")))
    assert (status, "could not be fetched" in error["message"]) == (400, True)


def test_a_digest_is_not_the_token():
    assert digest("secret") != b"secret"
    assert len(digest("secret")) == 32
    assert digest(None) is None


def test_websockets_are_refused():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(None, config=GuardConfig(), token=None)({"type": "websocket"}, None, send))
    assert sent[0]["type"] == "websocket.close"


def test_lifespan_events_pass():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope["type"])

    asyncio.run(
        Guard(app, config=GuardConfig(), token=digest("secret"))({"type": "lifespan"}, None, None)
    )
    assert scopes == ["lifespan"]


def test_an_empty_token_is_no_token(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    assert guard.read_token() is None
