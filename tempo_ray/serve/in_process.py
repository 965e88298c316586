"""A vLLM config -> an AsyncLLM whose engine core runs in this process, on a thread.

vLLM starts the core, and on CPU one more worker below it, as processes. Each imports everything
again: twice ten to twenty seconds on two cores, for a model that loads in one. With this, a tiny
model on a small machine is served from one process. The client and the core are vLLM's own and talk
over its sockets; only the start of the core is ours, as in vLLM's own Ray core (EngineCoreActor).

Tested by tests/integration/test_serve.py.
"""

import copy
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.registry import ModelRegistry
from vllm.utils.network_utils import get_open_zmq_ipc_path
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.utils import EngineZmqAddresses
from vllm.v1.executor.abstract import Executor

logger = logging.getLogger(__name__)


class Core(EngineCoreProc):
    """An engine core that is given its client's sockets instead of asking for them."""

    def __init__(
        self,
        config: VllmConfig,
        executor: type[Executor],
        log_stats: bool,
        client: EngineZmqAddresses,
    ) -> None:
        self._client = client
        super().__init__(
            config,
            local_client=True,
            handshake_address="",
            executor_class=executor,
            log_stats=log_stats,
        )

    @contextmanager
    def _perform_handshakes(self, *_: Any) -> Iterator[EngineZmqAddresses]:
        yield self._client

    def serve(self) -> None:
        """Runs until shutdown. Reports a fatal error to the client, so that the replica's health
        check fails."""
        # In a thread's first parallel operation, torch lowers OpenMP's number of threads to that
        # of physical cores. vLLM's attention must not see it change between planning and work.
        torch.get_num_threads()
        try:
            self.run_busy_loop()
        except SystemExit:
            pass
        except Exception:  # whatever it was, the engine is lost and its client must learn of it
            logger.exception("the engine core stopped")
            self._send_engine_dead()  # type: ignore[no-untyped-call]  # vLLM's own


def import_model_class(model: str) -> None:
    """Imports a model folder's class here.

    Otherwise vLLM starts a process, once per machine, only to inspect the class.
    """
    config = Path(model) / "config.json"
    if not config.is_file():
        return
    for architecture in json.loads(config.read_text())["architectures"]:
        registered = ModelRegistry.models.get(architecture)
        if registered is not None:
            ModelRegistry.register_model(architecture, registered.load_model_cls())


def start_in_process(config: VllmConfig, log_stats: bool, stat_loggers: list[Any]) -> AsyncLLM:
    """The engine, ready. Raises whatever loading the model raises."""
    config.parallel_config.distributed_executor_backend = "uni"
    executor = Executor.get_class(config)
    client = EngineZmqAddresses(inputs=[get_open_zmq_ipc_path()], outputs=[get_open_zmq_ipc_path()])
    # A copy, as another process would have: both sides write their measurements into their config.
    core = Core(copy.deepcopy(config), executor, log_stats, client)
    threading.Thread(target=core.serve, name="engine-core", daemon=True).start()
    return AsyncLLM(
        vllm_config=config,
        executor_class=executor,
        log_stats=log_stats,
        stat_loggers=stat_loggers,
        log_requests=False,
        client_addresses={"input_address": client.inputs[0], "output_address": client.outputs[0]},
    )
