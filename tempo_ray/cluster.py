"""A Ray config -> a driver connected to a cluster: the job's own, a running one, or one started here."""

import logging
import os
from pathlib import Path

import psutil
import ray

from tempo_ray.config import EngineConfig, RayConfig
from tempo_ray.job import BadInput
from tempo_ray.models.check import weight_bytes

PROCESS_BYTES = 1_000_000_000  # torch, transformers and vLLM, imported
STARTS = 3


def connect(config: RayConfig) -> None:
    """Connects this process to Ray. Inside `ray job submit` that is the job's cluster. The workers' output stays in Ray's
    logs.

    Raises BadInput where `config.address` names a cluster that does not answer.
    """
    if ray.is_initialized():
        return
    address = _address(config)
    if address:
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise BadInput(
                f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}"
            ) from None
        return
    for start in range(1, STARTS + 1):
        try:
            _start(config)
        except (
            Exception
        ) as error:  # Ray raises no narrower one when its node needs longer than its fixed 30 s
            ray.shutdown()
            if "timed out during startup" not in str(error) or start == STARTS:
                raise
            print("Ray did not start within 30 s: the machine is busy; trying again", flush=True)
        else:
            return


def _address(config: RayConfig) -> str | None:
    return config.address or os.environ.get("RAY_ADDRESS")


def _start(config: RayConfig) -> None:
    # Logical CPUs: on two real ones an actor pool, its writer and a driver task must all be placed, or a plan waits for ever.
    ray.init(
        address="local",
        num_cpus=config.num_cpus or max(8, os.cpu_count() or 1),
        object_store_memory=config.object_store_bytes,
        include_dashboard=config.dashboard,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def engine_bytes(model: str, engine: EngineConfig) -> int:
    """The least RAM that one CPU engine takes: a process, the weights in their type, the KV cache."""
    widened = 2 if engine.dtype == "float32" else 1  # weights lie on disk in two bytes
    return PROCESS_BYTES + widened * weight_bytes(model) + (engine.kv_cache_bytes or 0)


def check_memory(config: RayConfig, needed: int, advice: str) -> None:
    """Raises BadInput where a Ray that is to be started here cannot have `needed` bytes; of a cluster nothing is known."""
    free = free_bytes()
    if not _address(config) and needed > free:
        raise BadInput(
            f"{needed / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free: {advice}"
        )


def free_bytes() -> int:
    """What this process and its children may still take: of the machine, and of its control group (version 2)."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # `max` is no number: no limit
        used = int((group / "memory.current").read_text())
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return min(free, limit - used + int(facts.get("inactive_file", 0)))
