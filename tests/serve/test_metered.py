import asyncio
from typing import Any

import pytest

from tempo_ray.serve.metered import Metered
from tests.recorded import Recorded


def ask(app: Any, method: str = "POST", kind: str = "http") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Metered(app)({"type": kind, "method": method}, receive, send))
    return sent


async def streams(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"b"})


async def breaks_off(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    raise ConnectionError


def test_a_request_counts_by_status_and_takes_as_long_as_its_stream(
    recorded: list[Recorded],
) -> None:
    assert [message.get("body") for message in ask(streams)] == [None, b"a", b"b"]
    count, seconds = recorded
    assert count == ("tempo_requests", 1, {"status": "200"})
    assert (seconds.name, seconds.tags) == ("tempo_request_seconds", {"status": "200"})
    assert 0.05 <= seconds.value < 1


def test_a_request_that_is_not_answered_whole_has_status_0(recorded: list[Recorded]) -> None:
    with pytest.raises(ConnectionError):
        ask(breaks_off)
    assert [(name, tags) for name, _, tags in recorded] == [
        ("tempo_requests", {"status": "0"}),
        ("tempo_request_seconds", {"status": "0"}),
    ]


def test_times_are_those_of_posts_and_nothing_else_is_counted(recorded: list[Recorded]) -> None:
    ask(streams, "GET")
    assert [name for name, _, _ in recorded] == ["tempo_requests"]
    ask(streams, kind="lifespan")
    assert len(recorded) == 1
