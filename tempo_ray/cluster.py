"""A Ray config -> a driver connected to the job's cluster, a running one, or one started here."""

import logging
import os
from pathlib import Path

import psutil
import ray

from tempo_ray.config import EngineConfig, RayConfig
from tempo_ray.errors import UserError
from tempo_ray.models.check import weight_bytes

PROCESS_BYTES = 1_000_000_000
"""Private memory of a process that has imported torch, transformers and vLLM."""
START_ATTEMPTS = 3


def connect(config: RayConfig) -> None:
    """Connects this process to Ray; inside `ray job submit`, to the job's cluster.

    The workers' output stays in Ray's logs. Raises UserError where `config.address` names a cluster
    that does not answer.
    """
    if ray.is_initialized():
        return
    address = _address(config)
    if address:
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"no Ray cluster answers at {address}: {reason}") from None
        return
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            _start(config)
        except Exception as error:  # Ray raises nothing narrower when its node takes over 30 s
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == START_ATTEMPTS:
                raise
            print("Ray did not start within 30 s: the machine is busy; retrying", flush=True)
        else:
            return


def is_shared(config: RayConfig) -> bool:
    """Whether Ray is a cluster that others may use, not one that this process starts."""
    return _address(config) is not None


def _address(config: RayConfig) -> str | None:
    return config.address or os.environ.get("RAY_ADDRESS")


def _start(config: RayConfig) -> None:
    # Ray Data reads Parquet footers with 32 actors, and each takes a second of CPU to start: on one
    # machine, half of the CPU time of a small job.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    # Logical CPUs: with only the two real ones of a small machine, an actor pool, its writer and a
    # driver task cannot all be placed, and a plan waits forever.
    ray.init(
        address="local",
        num_cpus=config.num_cpus or max(8, os.cpu_count() or 1),
        object_store_memory=config.object_store_bytes,
        include_dashboard=config.dashboard,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def engine_bytes(model: str, engine: EngineConfig) -> int:
    """Minimum RAM of one CPU engine: a process, the weights in their dtype, the KV cache."""
    widening = 2 if engine.dtype == "float32" else 1  # weights on disk have two bytes per element
    return PROCESS_BYTES + widening * weight_bytes(model) + (engine.kv_cache_bytes or 0)


def check_memory(config: RayConfig, needed: int, advice: str) -> None:
    """Raises UserError where this machine lacks `needed` bytes for a Ray started here. Of a cluster
    nothing is known yet, and nothing is checked."""
    free = free_bytes()
    if not is_shared(config) and needed > free:
        raise UserError(
            f"{needed / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free: {advice}"
        )


def free_bytes() -> int:
    """Bytes that this process and its children may still allocate: the machine's free memory,
    limited by the control group (version 2) if there is one."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # ValueError for `max`: no limit
        used = int((group / "memory.current").read_text())
        stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return min(free, limit - used + int(stats.get("inactive_file", 0)))
