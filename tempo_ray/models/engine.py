"""Messages with frames -> texts, through one vLLM engine in this process or beside it."""

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tempo_ray.config import EngineConfig, SamplingConfig
from tempo_ray.models.frames import Frames, as_vllm


@dataclass(frozen=True)
class Request:
    """One question: text parts, None for each video, the videos in that order, and the seed of its sampling.

    `video_ids` names each video: an engine encodes what it knows by that name once. The name must tell the pixels.
    """

    parts: tuple[str | None, ...]
    videos: tuple[Frames, ...]
    max_tokens: int
    seed: int
    video_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


def set_environment(config: EngineConfig) -> None:
    """What vLLM reads from the environment; to be called before it is first imported in a process."""
    if config.in_process:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # several engines on a node must not all be bound to its first cores
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def engine_kwargs(config: EngineConfig, cpu: bool) -> dict[str, Any]:
    """Keyword arguments of vLLM's engine, offline and served alike."""
    kwargs: dict[str, Any] = {
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enforce_eager": config.enforce_eager,
    }
    if config.kv_cache_bytes is not None:
        kwargs["kv_cache_memory_bytes"] = config.kv_cache_bytes
    if cpu:
        # In vLLM 0.32 a prompt that is computed in two steps ends a CPU engine when its request has a seed: the generator is
        # wound back by an offset, which CPU generators do not have. So a prompt is computed in one.
        kwargs |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, config.max_model_len),
        }
    return kwargs


def model_hash(path: str) -> str:
    """First 12 hex digits of the SHA-256 over a model folder's config and weights; of a hub model, those of its commit."""
    folder = Path(path)
    if not folder.is_dir():
        from transformers import AutoConfig

        return str(AutoConfig.from_pretrained(path)._commit_hash)[:12]
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


class Refused(ValueError):
    """This request cannot be answered, and would not be another time; the message is vLLM's: longer than max_model_len, say."""


class EngineDied(RuntimeError):
    """The engine cannot answer any more; what was asked of it is to be asked of another."""


def completions(answers: Sequence[Completion | Refused]) -> list[Completion]:
    """The same, for who asks nothing that can be refused. Raises Refused."""
    for answer in answers:
        if isinstance(answer, Refused):
            raise answer
    return [answer for answer in answers if isinstance(answer, Completion)]


@dataclass(frozen=True)
class _Asked:
    prompt: dict[str, Any]
    params: Any
    answer: "Future[Completion | Refused]"


class Engine:
    """One vLLM engine in a thread of its own. `generate` may be called from many threads: all their requests run together."""

    def __init__(
        self, model: str, config: EngineConfig, sampling: SamplingConfig, threads: int | None = None
    ) -> None:
        set_environment(config)
        self.model = model
        self._sampling = sampling
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._waiting: dict[str, Future[Completion | Refused]] = {}
        self._died: BaseException | None = None
        self._closing = False
        self._refusals: tuple[type[Exception], ...] = ()
        started: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(config, threads, started), name="engine", daemon=True
        )
        self._thread.start()
        self._llm = started.result()

    def generate(self, requests: Sequence[Request]) -> list[Completion | Refused]:
        """The completions in the order of the requests. Raises EngineDied."""
        from vllm import SamplingParams

        from tempo_ray.models.vlm import chat_text, load_processor

        if not requests:
            return []
        processor = load_processor(self.model)
        answers: list[Future[Completion | Refused]] = []
        for request in requests:
            prompt: dict[str, Any] = {"prompt": chat_text(processor, request.parts)}
            if request.videos:
                prompt["multi_modal_data"] = {"video": as_vllm(request.videos)}
                if request.video_ids:
                    prompt["multi_modal_uuids"] = {"video": list(request.video_ids)}
            params = SamplingParams(
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                repetition_penalty=self._sampling.repetition_penalty,
                max_tokens=request.max_tokens,
                seed=request.seed,
            )
            answers.append(Future())
            self._asked.put(_Asked(prompt, params, answers[-1]))
        return [self._result(answer) for answer in answers]

    def _result(self, answer: "Future[Completion | Refused]") -> Completion | Refused:
        while True:
            try:
                return answer.result(timeout=1.0)
            except TimeoutError:
                if (
                    not self._thread.is_alive() and not answer.done()
                ):  # a request that was put after the thread had ended
                    raise EngineDied(
                        f"the engine has ended: {self._died or 'it was closed'}"
                    ) from self._died

    def counters(self) -> dict[str, float]:
        """vLLM's counters since the start, by name: `mm_cache_queries`, `mm_cache_hits`, `generation_tokens` ..."""
        counted = {}
        for metric in self._llm.get_metrics():
            if hasattr(metric, "value"):  # histograms have none
                counted[metric.name.removeprefix("vllm:")] = float(metric.value)
        return counted

    def close(self) -> None:
        """Ends the thread and frees the engine; what was asked before is answered first."""
        self._asked.put(None)
        self._thread.join()
        del self._llm

    def _run(self, config: EngineConfig, threads: int | None, started: "Future[Any]") -> None:
        """The engine's thread: takes what was asked, steps the engine, hands out what is done."""
        import torch
        from vllm import LLM
        from vllm.exceptions import VLLMClientError
        from vllm.platforms import current_platform

        self._refusals = (ValueError, VLLMClientError)
        try:
            if threads is not None:
                torch.set_num_threads(threads)  # it holds for the calling thread
            kwargs = engine_kwargs(config, current_platform.is_cpu())
            llm = LLM(self.model, disable_log_stats=False, mm_processor_cache_gb=0.5, **kwargs)
        except BaseException as error:  # noqa: BLE001, handed to the thread that waits for the start
            started.set_exception(error)
            return
        started.set_result(llm)
        try:
            while self._take(llm):
                for done in llm.llm_engine.step():
                    if done.finished:
                        self._waiting.pop(done.request_id).set_result(_completion(done))
        except BaseException as error:  # noqa: BLE001, whatever ended the engine is told to every thread that waits
            self._died = error
            for answer in self._waiting.values():
                answer.set_exception(EngineDied(f"the engine died: {error}"))

    def _take(self, llm: Any) -> bool:
        """Enqueues what was asked; waits for it where the engine has nothing to do. False at the end."""
        while True:
            try:
                asked = self._asked.get(block=not (self._waiting or self._closing))
            except Empty:
                return bool(self._waiting)
            if asked is None:
                self._closing = True
                continue
            try:
                (name,) = llm.enqueue([asked.prompt], [asked.params], use_tqdm=False)
            except self._refusals as error:  # this request alone is at fault
                asked.answer.set_result(Refused(str(error).splitlines()[0]))
            else:
                # vLLM adds eight random characters to the id under which it gives the answer
                self._waiting[name.rpartition("-")[0] or name] = asked.answer


def _completion(done: Any) -> Completion:
    said = done.outputs[0]
    return Completion(
        said.text.strip(),
        len(done.prompt_token_ids or ()),
        len(said.token_ids),
        str(said.finish_reason),
    )
