"""A vLLM config -> an AsyncLLM whose engine core runs in this process, on a thread of its own.

vLLM starts the core, and on CPU one more worker below it, as processes, and each imports everything again: two times ten
to twenty seconds of two cores for a model that loads in one. A tiny model on a small machine is served from one process.
The client and the core are vLLM's own and talk over its sockets; only who starts the core is ours, in the way in which
vLLM's own Ray core (EngineCoreActor) does it.
"""

import copy
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.models.registry import ModelRegistry
from vllm.utils.network_utils import get_open_zmq_ipc_path
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.utils import EngineZmqAddresses
from vllm.v1.executor.abstract import Executor

logger = logging.getLogger(__name__)


class Core(EngineCoreProc):
    """The engine core, told where its client listens instead of asking for it."""

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
        """Steps until shutdown. A fatal error is told to the client, so that the replica's health check fails."""
        try:
            self.run_busy_loop()
        except SystemExit:
            pass
        except Exception:  # of any kind: the engine is lost, and its client must be told
            logger.exception("the engine core stopped")
            self._send_engine_dead()


def know_architectures(model: str) -> None:
    """Imports the model's class here. vLLM would otherwise ask a new process, once a machine, what the class can do."""
    config = Path(model) / "config.json"
    for name in json.loads(config.read_text())["architectures"] if config.is_file() else ():
        known = ModelRegistry.models.get(name)
        if known is not None:
            ModelRegistry.register_model(name, known.load_model_cls())


def start_in_process(config: VllmConfig, log_stats: bool, stat_loggers: list[Any]) -> AsyncLLM:
    """The engine, ready. Raises what the model's loading raises."""
    config.parallel_config.distributed_executor_backend = "uni"
    executor = Executor.get_class(config)
    client = EngineZmqAddresses(inputs=[get_open_zmq_ipc_path()], outputs=[get_open_zmq_ipc_path()])
    # A copy, as a process would have: both sides write what they measure into their config.
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
