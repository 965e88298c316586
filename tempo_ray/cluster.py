"""A Ray config -> a driver connected to a cluster: the job's own, a running one, or one started here."""

import logging
import os

import ray

from tempo_ray.config import RayConfig
from tempo_ray.job import BadInput


def connect(config: RayConfig, worker_logs: bool = True) -> None:
    """Connects this process to Ray. Inside `ray job submit` that is the job's cluster. `worker_logs` brings the output of
    all workers to this terminal.

    Raises BadInput where `config.address` names a cluster that does not answer.
    """
    if ray.is_initialized():
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=worker_logs)
        except (ConnectionError, ValueError) as error:
            raise BadInput(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from None
        return
    # Logical CPUs: on two real ones an actor pool, its writer and a driver task must all be placed, or a plan waits for ever.
    cpus = config.num_cpus or max(8, os.cpu_count() or 1)
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=config.object_store_bytes,
        include_dashboard=config.dashboard,
        logging_level=logging.WARNING,
        log_to_driver=worker_logs,
    )
