"""Starts a cluster of several nodes on this machine, and stops it on Ctrl-C.

    python -m cluster.local [nodes.yaml] [--fixed]

`--fixed` starts all nodes at once, without the autoscaler.
"""

import argparse
import signal
from pathlib import Path

import yaml

from cluster.local.local_cluster import LocalCluster, LocalClusterConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.local",
        description="A Ray cluster of several nodes on this machine.",
    )
    default = Path(__file__).with_name("nodes.yaml")
    parser.add_argument("nodes", nargs="?", type=Path, default=default, help="groups of nodes")
    parser.add_argument("--fixed", action="store_true", help="all nodes at once, no autoscaler")
    arguments = parser.parse_args()
    config = LocalClusterConfig(**yaml.safe_load(arguments.nodes.read_text()))
    if arguments.fixed:
        config = config.model_copy(update={"autoscale": False})
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LocalCluster(config) as cluster:
            settings = " ".join(f"{name}={value}" for name, value in cluster.environment.items())
            print(f"dashboard: {cluster.dashboard}", flush=True)
            print(f"settings of a job: {settings}", flush=True)
            print(f"metrics: prometheus --config.file={cluster.prometheus_config()}", flush=True)
            print("Ctrl-C stops it", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
