"""The client against a real HTTP server that fails in every way: errors, silence, nonsense."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tempo_ray.errors import UserError
from tempo_ray.evaluate import client
from tempo_ray.evaluate.client import Endpoint, Reply, ask_all, served_models
from tempo_ray.evaluate.task import Prompt


def endpoint(server: Any, **changes: Any) -> Endpoint:
    settings = {"token": None, "max_tokens": 16, "timeout_s": 5.0, "concurrency": 4}
    return Endpoint(url=server.url, **(settings | changes))


def ask(endpoint: Endpoint, *prompts: Prompt) -> list[Reply]:
    return asyncio.run(ask_all(endpoint, "m", prompts))


def test_every_prompt_has_a_reply_and_failures_say_why(server: Any, video: str) -> None:
    texts = ["good", "broken", "broken once", "refused", "hangs up", "hangs up once", "no JSON"]
    texts += ["other JSON", "no text"]
    replies = ask(endpoint(server), *(Prompt(text, video) for text in texts))
    reply_to = dict(zip(texts, replies, strict=True))
    answered = [text for text in texts if reply_to[text].text == "yes"]
    assert answered == ["good", "broken once", "hangs up once"]
    assert all(reply.error is None for reply in replies if reply.text == "yes")
    assert all(reply.error for reply in replies if reply.text is None)
    assert reply_to["broken"].error.startswith("500")
    assert "too many frames" in reply_to["refused"].error
    assert "Connection" in reply_to["hangs up"].error
    assert server.attempts["broken"] == 4
    assert server.attempts["refused"] == 1
    assert reply_to["good"].finish_reason == "stop"


def test_a_reply_that_never_comes(server: Any, video: str) -> None:
    (reply,) = ask(endpoint(server, timeout_s=0.2, concurrency=1), Prompt("hangs", video))
    assert reply.text is None
    assert "Timeout" in reply.error


def test_a_video_that_has_disappeared(server: Any, tmp_path: Path, video: str) -> None:
    gone = str(tmp_path / "no.mp4")
    replies = ask(endpoint(server), Prompt("good", gone), Prompt("fine", video))
    assert replies[0].error.startswith("FileNotFoundError")
    assert replies[1].text == "yes"


def test_what_is_sent(server: Any, video: str) -> None:
    ask(endpoint(server), Prompt("good", video))
    (body,) = server.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 16)
    content = [
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,dmlkZW8="}},
        {"type": "text", "text": "good"},
    ]
    assert body["messages"] == [{"role": "user", "content": content}]


def test_a_prompt_without_a_video_is_text_alone(server: Any) -> None:
    ask(endpoint(server), Prompt("good"))
    (body,) = server.bodies
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "good"}]}]


def test_a_video_at_a_uri_is_read_once_for_all_its_prompts(
    server: Any, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, locations = Path(video).as_uri(), []

    def read_bytes(location: str) -> bytes:
        locations.append(location)
        return Path(location.removeprefix("file://")).read_bytes()

    monkeypatch.setattr(client, "read_bytes", read_bytes)
    replies = ask(endpoint(server), *(Prompt(f"q{index}", uri) for index in range(6)))
    assert [reply.text for reply in replies] == ["yes"] * 6
    assert locations == [uri]


def test_no_more_requests_in_flight_than_configured(server: Any, video: str) -> None:
    ask(endpoint(server, concurrency=3), *(Prompt(f"q{index}", video) for index in range(12)))
    assert 1 < server.most_in_flight <= 3


def test_the_models_of_an_endpoint(server: Any) -> None:
    served = asyncio.run(served_models(endpoint(server)))
    assert json.loads(served["m"])["owned_by"] == "x"


def test_a_wrong_token_is_reported_and_not_shown(server: Any) -> None:
    with pytest.raises(UserError, match="TEMPO_RAY_TOKEN") as caught:
        asyncio.run(served_models(endpoint(server, token="wrong")))
    assert "wrong" not in str(caught.value).replace("TEMPO_RAY_TOKEN", "")


def test_no_endpoint_at_all() -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        asyncio.run(served_models(Endpoint("http://127.0.0.1:9/v1", None, 16, 60.0, 1)))
    assert time.monotonic() - began < 10
