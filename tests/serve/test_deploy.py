"""What is refused before an engine starts, how a job of serving ends, and what it says.

Starts neither Ray nor an engine: tests/integration/test_serve.py does.
"""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tempo_ray.config import ServeConfig
from tempo_ray.errors import UserError
from tempo_ray.job import user_errors
from tempo_ray.processes import free_port
from tempo_ray.serve import deploy
from tempo_ray.serve.deploy import (
    RayIsGone,
    Stopped,
    announce,
    check,
    end,
    serve,
    startup_error,
    stop_on_signals,
    watch,
)


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPO_RAY_TOKEN", raising=False)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Leaves the signal handlers as they were."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def config(**changes: Any) -> ServeConfig:
    settings = {
        "models": [{"name": "tiny", "path": "/no/such/folder"}],
        "port": free_port(),
        "device": "cpu",
        "engine": {"kv_cache_bytes": 100_000_000},
    }
    return ServeConfig.model_validate(settings | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"host": "0.0.0.0"}, "TEMPO_RAY_TOKEN"),
        ({"device": "gpu", "engine": {"in_process": True}}, "engine.in_process serves on CPU"),
        ({"models": [{"name": "a:b", "path": "m"}]}, "a name with a colon"),
        ({}, "no such folder"),
    ],
)
def test_what_would_fail_later_is_refused_first(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check(config(**changes))


def test_a_busy_port_is_refused() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(UserError, match="choose another port="):
            check(config(port=busy.getsockname()[1]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_once(number: int) -> None:
    stop_on_signals()
    with pytest.raises(Stopped):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)  # ignored: it must not interrupt the clean-up
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Serves with these steps in place of the real ones -> the summary of the job."""

    def run(**functions: Callable[..., None]) -> dict[str, Any]:
        ended = []
        doubles = {"check": nothing, "deploy": nothing, "watch": nothing} | functions
        for name, function in doubles.items():
            monkeypatch.setattr(deploy, name, function)
        file = tmp_path / "summary" / "serve.json"
        monkeypatch.setattr(
            deploy, "end", lambda config, ray_alive: ended.append((ray_alive, file.exists()))
        )
        status = 0
        try:
            with user_errors():
                serve(config(run=str(tmp_path)))
        except SystemExit as error:
            status = 1 if isinstance(error.code, str) else int(error.code or 0)
        ((ray_alive, was_written),) = ended
        assert was_written
        summary: dict[str, Any] = json.loads(file.read_text())
        return summary | {"exit_status": status, "ray_alive": ray_alive}

    return run


def nothing(*_: Any) -> None:
    pass


def terminated(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_serving_ends_well(served: Callable[..., dict[str, Any]]) -> None:
    summary = served(watch=terminated)
    assert (summary["status"], summary["stopped"], summary["exit_status"]) == ("done", True, 0)
    assert summary["seconds_to_ready"] >= 0
    assert summary["ray_alive"]


def test_a_signal_while_starting_is_a_failed_job_and_status_0(
    served: Callable[..., dict[str, Any]],
) -> None:
    summary = served(deploy=terminated)
    assert (summary["status"], summary["exit_status"]) == ("failed", 0)
    assert "Stopped" in summary["error"]
    assert "seconds_to_ready" not in summary


def test_a_lost_cluster_is_status_1(served: Callable[..., dict[str, Any]]) -> None:
    def lost() -> None:
        raise RayIsGone("Ray stopped under the endpoint")

    summary = served(watch=lost)
    assert (summary["status"], summary["exit_status"]) == ("failed", 1)
    assert "Ray stopped under the endpoint" in summary["error"]
    assert (summary["stopped"], summary["ray_alive"]) == (False, False)


def test_a_mistake_is_status_2(
    served: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(config: ServeConfig) -> None:
        raise UserError("choose another port=")

    summary = served(check=refuse)
    assert (summary["status"], summary["exit_status"]) == ("failed", 2)
    assert capsys.readouterr().err == "choose another port=\n"


def test_ready_is_the_last_line_and_the_token_is_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(config(port=8000), 12.5)
    shown = capsys.readouterr().out
    assert shown.startswith('1 model(s) after 12.5 s: tiny. To ask one:\n\necho \'{"model"')
    assert shown.endswith("\nready: http://127.0.0.1:8000/v1\n")
    assert "Authorization" not in shown
    monkeypatch.setenv("TEMPO_RAY_TOKEN", "a-secret")
    announce(config(host="::1", port=8000), 12.5)
    shown = capsys.readouterr().out
    assert shown.endswith("\nready: http://[::1]:8000/v1\n")
    assert '-H "Authorization: Bearer $TEMPO_RAY_TOKEN"' in shown
    assert "a-secret" not in shown


def test_the_last_exception_of_a_deployment_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = "Traceback\nOSError: first\n\nDuring that:\nvllm.EngineError: no KV cache fits\n"
    deployments = {
        "LLMServer:tiny": SimpleNamespace(status="DEPLOY_FAILED", message=trace),
        "ingress": SimpleNamespace(status="HEALTHY", message=""),
    }
    applications = {"tempo_ray": SimpleNamespace(deployments=deployments)}
    monkeypatch.setattr(
        deploy.ray.serve, "status", lambda: SimpleNamespace(applications=applications)
    )
    shown = startup_error()
    assert shown is not None
    assert shown.splitlines()[0] == (
        "LLMServer:tiny did not start: vllm.EngineError: no KV cache fits"
    )
    assert "/logs/serve" in shown.splitlines()[1]
    deployments.pop("LLMServer:tiny")
    assert startup_error() is None
    applications.clear()
    assert startup_error() is None


def test_a_cluster_without_nodes_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.ray, "nodes", lambda: [{"Alive": False}])
    with pytest.raises(RayIsGone, match="its logs are in"):
        watch()


@pytest.mark.parametrize(
    ("initialized", "address", "alive", "expected"),
    [
        (False, None, True, []),
        (True, None, True, ["shutdown"]),
        (True, "auto", True, ["delete", "shutdown"]),
        (True, "auto", False, ["shutdown"]),
    ],
)
def test_what_was_started_is_ended_and_of_a_shared_cluster_the_application(
    monkeypatch: pytest.MonkeyPatch,
    initialized: bool,
    address: str | None,
    alive: bool,
    expected: list[str],
) -> None:
    calls = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(deploy.ray, "is_initialized", lambda: initialized)
    monkeypatch.setattr(deploy.ray.serve, "delete", lambda name: calls.append("delete"))
    monkeypatch.setattr(deploy.ray, "shutdown", lambda: calls.append("shutdown"))
    end(config(ray={"address": address}), alive)
    assert calls == expected
