"""Serve models on an OpenAI-compatible endpoint until interrupted.

    tempo-ray serve --config embedded
    tempo-ray serve 'models=[{name: tempo, path: runs/one/model}]' port=8000
    tempo-ray serve --config embedded 'models=[{name: mine, path: runs/mine/model}]'

Prints `ready: http://HOST:PORT/v1` once every model answers. With the environment variable
TEMPO_RAY_TOKEN set, clients send its value as a bearer token; without it, only this machine may
connect, and host must stay 127.0.0.1.
"""

import sys

from tempo_ray.config import ServeConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import user_errors


def main(argv: list[str] | None = None) -> None:
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        config = parse_args(ServeConfig, __doc__, words, section="serve")

        from tempo_ray.serve.deploy import serve

        serve(config)
