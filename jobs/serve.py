"""Serve models on an OpenAI-compatible endpoint, until interrupted.

    python jobs/serve.py --config jobs/configs/serve.yaml
    python jobs/serve.py 'models=[{name: tempo, path: runs/one/model}]' port=8000
    python jobs/serve.py 'models=[{name: tiny, path: models/tiny}]' device=cpu engine.kv_cache_bytes=200000000 \\
        engine.in_process=true engine.enforce_eager=true engine.max_model_len=4096 engine.dtype=float32

Prints `ready: http://HOST:PORT/v1` when every model answers. With the environment variable TEMPO_RAY_TOKEN set, clients
send its value as a bearer token; without it, only this machine may ask, and host must stay 127.0.0.1.
"""

import logging
import os
import re
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

from tempo_ray.arguments import parse_args
from tempo_ray.config import ServeConfig
from tempo_ray.job import BadInput, running

APP = "tempo_ray"
QUIET = {"log_level": "WARNING"}


class Stopped(BaseException):
    """SIGINT or SIGTERM came."""


class RayIsGone(Exception):
    """The cluster under the endpoint has ended."""


def main() -> None:
    config = parse_args(ServeConfig, __doc__, section="serve")
    stop_on_signals()
    alive = True
    try:
        with running("serve", config.run, config) as counts:
            began = time.monotonic()
            check(config)
            deploy(config)
            counts["seconds_to_ready"] = round(time.monotonic() - began, 1)
            announce(config, counts["seconds_to_ready"])
            try:
                watch()
            except Stopped:
                counts["stopped"] = True
    except Stopped:
        pass  # during the start; the summary says so
    except RayIsGone as gone:
        alive = False
        raise SystemExit(str(gone)) from None
    finally:
        end(config, alive)


def check(config: ServeConfig) -> None:
    """Raises BadInput for what would only fail after an engine's start."""
    from tempo_ray.serve.guard import check_exposure, read_token

    check_exposure(config.host, read_token())
    check_port(config.host, config.port)
    if config.engine.in_process and config.device == "gpu":
        raise BadInput(
            "engine.in_process serves on CPU; set engine.in_process=false, or device=cpu"
        )
    for model in config.models:
        if ":" in model.name:
            raise BadInput(
                f"models: {model.name}: a name with a colon means an adapter of the model before it; choose another"
            )
    check_models([model.path for model in config.models])


def check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(f"{host}:{port}: {error.strerror}; choose another port=") from None


def check_models(paths: list[str]) -> None:
    from tempo_ray.models.check import NotAModel, check_model

    for path in paths:
        try:
            check_model(path)
        except NotAModel as error:
            raise BadInput(str(error)) from None


def deploy(config: ServeConfig) -> None:
    """Returns when every model is ready."""
    import ray
    from ray import serve

    from tempo_ray.cluster import check_memory, connect, engine_bytes
    from tempo_ray.serve.guard import digest, read_token

    if config.device == "cpu":
        needed = config.autoscale.min_replicas * sum(
            engine_bytes(model.path, config.engine) for model in config.models
        )
        check_memory(config.ray, needed, "serve fewer models, or lower engine.kv_cache_bytes")
    connect(config.ray)
    stop_on_signals()  # Ray has put its own handler of SIGTERM in the place of ours
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # An actor imports vLLM while Serve starts, and gives its gigabyte back.
    deployer: Any = ray.remote(num_cpus=0)(Deployer).remote()
    serve.start(http_options={"host": config.host, "port": config.port}, logging_config=QUIET)
    try:
        ray.get(deployer.deploy.remote(config, digest(read_token())))
    except ray.exceptions.RayTaskError as error:
        raise BadInput(why() or str(error.cause)) from None
    ray.kill(deployer)


def why() -> str:
    """The exception that kept a model from starting, and where the rest is."""
    from ray import serve

    application = serve.status().applications.get(APP)
    lines = []
    for name, one in application.deployments.items() if application is not None else ():
        errors = list(re.finditer(r"^[\w.]+(?:Error|Exception): ", one.message, re.MULTILINE))
        if one.status != "HEALTHY" and errors:
            lines.append(
                f"{name} did not start: {one.message[errors[-1].start() :].strip()[:1500]}"
            )
    return (
        "\n".join([*lines, "the whole of it is in /tmp/ray/session_latest/logs/serve"])
        if lines
        else ""
    )


class Deployer:
    def __init__(self) -> None:
        import tempo_ray.serve.app  # noqa: F401

    def deploy(self, config: ServeConfig, token: bytes | None) -> None:
        from ray import serve

        from tempo_ray.serve.app import application

        serve.run(application(config, token), name=APP, route_prefix="/", logging_config=QUIET)


def announce(config: ServeConfig, seconds: float) -> None:
    from tempo_ray.serve.guard import TOKEN_VARIABLE, read_token

    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{config.port}/v1"
    names = [model.name for model in config.models]
    print(f"{len(names)} model(s) after {seconds} s: {', '.join(names)}. To ask one:\n")
    print('echo \'{"model": "' + names[0] + '", "messages": [{"role": "user", "content": [')
    print(
        '  {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,\'$(base64 -w0 VIDEO.mp4)\'"}},'
    )
    print('  {"type": "text", "text": "What happens first?"}]}]}\' |')
    token = f' -H "Authorization: Bearer ${TOKEN_VARIABLE}"' if read_token() else ""
    print(f"  curl {url}/chat/completions -H 'Content-Type: application/json'{token} -d @-\n")
    print(f"ready: {url}", flush=True)


def watch() -> None:
    """Waits for ever; raises RayIsGone where there is nothing left to wait for."""
    import ray

    while any(node["Alive"] for node in ray.nodes()):
        time.sleep(5)
    raise RayIsGone("Ray stopped under the endpoint; its logs are in /tmp/ray/session_latest/logs")


def end(config: ServeConfig, alive: bool) -> None:
    """A Ray of our own goes with all that runs in it; in a cluster only the application does."""
    if "ray" not in sys.modules:
        return  # refused before anything was started
    import ray
    from ray import serve

    if ray.is_initialized():
        if alive and (config.ray.address or os.environ.get("RAY_ADDRESS")):
            serve.delete(APP)
        ray.shutdown()


def stop_on_signals() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        raise Stopped

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, stop)


if __name__ == "__main__":
    main()
