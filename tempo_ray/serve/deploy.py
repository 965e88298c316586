"""A serve config -> an endpoint that answers until it is interrupted.

What can be refused is refused before Ray starts. Tested by tests/serve/test_deploy.py and, with a
real engine, by tests/integration/test_serve.py.
"""

import logging
import re
import signal
import socket
import time
from dataclasses import replace
from types import FrameType
from typing import Any

import ray
import ray.serve

from tempo_ray.cluster import (
    NodeRequest,
    check_memory,
    check_nodes,
    connect,
    engine_bytes,
    is_shared,
)
from tempo_ray.config import ServeConfig
from tempo_ray.config.serve import TOKEN_VARIABLE
from tempo_ray.errors import UserError
from tempo_ray.job import Job, running
from tempo_ray.models.check import check_model
from tempo_ray.records import ServeSummary
from tempo_ray.serve.guard import check_exposure, digest, read_token

APP = "tempo_ray"
QUIET = {"log_level": "WARNING"}
CONTROLLER = {"runtime_env": {"env_vars": {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}}}
"""Serve's controller kills an HTTP proxy that takes five seconds to start, as on a busy machine."""
RAY_LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108  # Ray's own place, only shown
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ALIVE_CHECK_S = 5


class Stopped(BaseException):
    """SIGINT or SIGTERM was received."""


class RayIsGone(Exception):
    """The cluster under the endpoint has ended."""


def serve(config: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM; then returns, even if that was during the start.

    Records itself as a job (`tempo_ray.job.running`), because the summary must be written before
    Ray is shut down, which takes seconds. A lost cluster ends the process with a message and status
    1. Raises UserError.
    """
    stop_on_signals()
    ray_alive = True
    try:
        with running("serve", config.run, config) as job:
            _serve_until_stopped(config, job)
    except Stopped:
        pass  # during the start; the job is recorded as failed
    except RayIsGone as error:
        ray_alive = False
        raise SystemExit(str(error)) from None
    finally:
        end(config, ray_alive)


def _serve_until_stopped(config: ServeConfig, job: Job) -> None:
    began = time.monotonic()
    check(config)
    deploy(config)
    summary = ServeSummary(seconds_to_ready=round(time.monotonic() - began, 1))
    job.summary = summary
    announce(config, summary.seconds_to_ready)
    try:
        watch()
    except Stopped:
        job.summary = replace(summary, stopped=True)


def stop_on_signals() -> None:
    """SIGINT and SIGTERM raise Stopped in the main thread, once."""

    def stop(number: int, frame: FrameType | None) -> None:
        for stop_signal in _STOP_SIGNALS:
            signal.signal(stop_signal, signal.SIG_IGN)
        raise Stopped

    for stop_signal in _STOP_SIGNALS:
        signal.signal(stop_signal, stop)


def check(config: ServeConfig) -> None:
    """Raises UserError for what would otherwise fail only once an engine has started."""
    check_exposure(config.host, read_token())
    check_port(config.host, config.port)
    if config.engine.in_process and config.device == "gpu":
        raise UserError(
            "engine.in_process serves on CPU; set engine.in_process=false, or device=cpu"
        )
    for model in config.models:
        if ":" in model.name:
            raise UserError(
                f"models: {model.name}: a name with a colon means an adapter of the model named "
                "before it; choose another"
            )
    for model in config.models:
        check_model(model.path)


def check_port(host: str, port: int) -> None:
    """Raises UserError where nothing can listen at the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port}: {error.strerror}; choose another port=") from None


def deploy(config: ServeConfig) -> None:
    """Returns once every model is ready. Raises UserError where one does not start."""
    if config.device == "cpu":
        engines = sum(engine_bytes(model.path, config.engine) for model in config.models)
        needed = config.autoscale.min_replicas * engines
        check_memory(config.ray, needed, "serve fewer models, or lower engine.kv_cache_bytes")
    connect(config.ray)
    replica = NodeRequest.of("a replica", config.cpus, config.gpus, config.placement)
    check_nodes(config.ray, [replica])
    stop_on_signals()  # again: Ray replaces the handler of SIGTERM
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # The actor imports vLLM while Serve starts, and takes its gigabyte with it when it ends.
    deployer: Any = ray.remote(num_cpus=0)(Deployer).remote()
    ray.serve.start(
        http_options={"host": config.host, "port": config.port},
        proxy_location="HeadOnly" if config.proxies == "head" else "EveryNode",
        controller_options=CONTROLLER,
        logging_config=QUIET,
    )
    try:
        ray.get(deployer.deploy.remote(config, digest(read_token())))
    except ray.exceptions.RayTaskError as error:
        raise UserError(startup_error() or str(error.cause)) from None
    ray.kill(deployer)


class Deployer:
    """An actor that builds the application, for which vLLM is needed."""

    def __init__(self) -> None:
        import tempo_ray.serve.app  # noqa: F401  # imports vLLM, ahead of `deploy`

    def deploy(self, config: ServeConfig, token: bytes | None) -> None:
        from tempo_ray.serve.app import application

        app = application(config, token)
        ray.serve.run(app, name=APP, route_prefix="/", logging_config=QUIET)


def startup_error() -> str | None:
    """The exceptions that kept models from starting, and where the logs are."""
    app = ray.serve.status().applications.get(APP)
    if app is None:
        return None
    lines = []
    for name, deployment in app.deployments.items():
        message = deployment.message
        errors = list(re.finditer(r"^[\w.]+(?:Error|Exception): ", message, re.MULTILINE))
        if deployment.status != "HEALTHY" and errors:
            reason = message[errors[-1].start() :].strip()[:1500]
            lines.append(f"{name} did not start: {reason}")
    if not lines:
        return None
    return "\n".join([*lines, f"the full logs are in {RAY_LOGS}/serve"])


def announce(config: ServeConfig, seconds: float) -> None:
    """Prints how to ask a model, then `ready: URL`, which scripts wait for."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{config.port}/v1"
    names = [model.name for model in config.models]
    token = f' -H "Authorization: Bearer ${TOKEN_VARIABLE}"' if read_token() else ""
    print(
        f"{len(names)} model(s) after {seconds} s: {', '.join(names)}. To ask one:",
        "",
        'echo \'{"model": "' + names[0] + '", "messages": [{"role": "user", "content": [',
        '  {"type": "video_url", "video_url": '
        '{"url": "data:video/mp4;base64,\'$(base64 -w0 VIDEO.mp4)\'"}},',
        '  {"type": "text", "text": "What happens first?"}]}]}\' |',
        f"  curl {url}/chat/completions -H 'Content-Type: application/json'{token} -d @-",
        "",
        f"ready: {url}",
        sep="\n",
        flush=True,
    )


def watch() -> None:
    """Waits forever. Raises RayIsGone once there is nothing left to wait for."""
    while any(node["Alive"] for node in ray.nodes()):
        time.sleep(_ALIVE_CHECK_S)
    raise RayIsGone(f"Ray stopped under the endpoint; its logs are in {RAY_LOGS}")


def end(config: ServeConfig, ray_alive: bool) -> None:
    """Ends a Ray started here with all that runs in it; of a shared cluster, the application."""
    if ray.is_initialized():
        if ray_alive and is_shared(config.ray):
            ray.serve.delete(APP)
        ray.shutdown()
