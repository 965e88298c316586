"""Messages with frames -> texts, through one vLLM engine in this process or beside it.

Tested with real engines in tests/integration/test_models.py.
"""

import hashlib
import os
import threading
import time
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
    """A message to answer: text parts with None for each video, and the videos in that order.

    `video_ids`, if given, names each video: the engine encodes a video only once per name, so the
    name must identify the pixels.
    """

    parts: tuple[str | None, ...]
    videos: tuple[Frames, ...]
    max_tokens: int
    seed: int
    """Seed of the sampling."""
    video_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Completion:
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class Refused(ValueError):
    """The engine cannot answer this request, now or later: it is longer than max_model_len, for
    example. The message is vLLM's."""


class EngineDied(RuntimeError):
    """The engine cannot answer any more; its requests need another engine."""


Outcome = Completion | Refused


def set_environment(config: EngineConfig) -> None:
    """Sets the variables that vLLM reads; call it before vLLM is first imported in a process."""
    if config.in_process:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # several engines on a node must not all be bound to its first cores
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def engine_kwargs(config: EngineConfig, cpu: bool) -> dict[str, Any]:
    """Keyword arguments of vLLM's engine, the same offline and served."""
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
        # vLLM 0.32 on CPU dies when a prompt with a seed is computed in two chunks: it rewinds the
        # generator by an offset, which CPU generators lack. So a prompt is never chunked.
        kwargs |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, config.max_model_len),
        }
    return kwargs


def model_hash(path: str) -> str:
    """First 12 hex digits of the SHA-256 of a model folder's config and weights, or of a hub
    model's commit."""
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


def completions(answers: Sequence[Outcome]) -> list[Completion]:
    """The same answers, for callers whose requests cannot be refused. Raises Refused."""
    completed = []
    for answer in answers:
        if isinstance(answer, Refused):
            raise answer
        completed.append(answer)
    return completed


class _Busy:
    """Seconds in which an engine had a request. `seconds` may be called from any thread."""

    def __init__(self) -> None:
        self._ended = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        self._since = self._since or time.monotonic()

    def end(self) -> None:
        self._ended, self._since = self.seconds(), None

    def seconds(self) -> float:
        since = self._since
        return self._ended + (0.0 if since is None else time.monotonic() - since)


@dataclass(frozen=True)
class _Submission:
    """A request in vLLM's terms, and the future that its answer will set."""

    prompt: dict[str, Any]
    params: Any
    answer: Future[Outcome]


class Engine:
    """One vLLM engine in its own thread. `generate` may be called from many threads at once: all
    their requests run together. `threads` limits torch's; None leaves vLLM's default."""

    def __init__(
        self, model: str, config: EngineConfig, sampling: SamplingConfig, threads: int | None = None
    ) -> None:
        set_environment(config)
        self.model = model
        self._sampling = sampling
        self._submitted: SimpleQueue[_Submission | None] = SimpleQueue()
        self._running: dict[str, Future[Outcome]] = {}
        self._busy = _Busy()
        self._death: BaseException | None = None
        self._closing = False
        self._refusals: tuple[type[Exception], ...] = ()
        started: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(config, threads, started), name="engine", daemon=True
        )
        self._thread.start()
        self._llm = started.result()

    def generate(self, requests: Sequence[Request]) -> list[Outcome]:
        """The answers, in the order of the requests. Raises EngineDied."""
        from tempo_ray.models.vlm import load_processor

        if not requests:
            return []
        processor = load_processor(self.model)
        answers = [self._submit(request, processor) for request in requests]
        return [self._result(answer) for answer in answers]

    def _submit(self, request: Request, processor: Any) -> Future[Outcome]:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            repetition_penalty=self._sampling.repetition_penalty,
            max_tokens=request.max_tokens,
            seed=request.seed,
        )
        answer: Future[Outcome] = Future()
        self._submitted.put(_Submission(_prompt(request, processor), params, answer))
        return answer

    def _result(self, answer: Future[Outcome]) -> Outcome:
        while True:
            try:
                return answer.result(timeout=1.0)
            except TimeoutError:
                # a request submitted after the thread had ended is never answered
                if not self._thread.is_alive() and not answer.done():
                    raise EngineDied(
                        f"the engine has ended: {self._death or 'it was closed'}"
                    ) from self._death

    def counters(self) -> dict[str, float]:
        """vLLM's counters and gauges since the start, by name: `mm_cache_queries`,
        `mm_cache_hits`, `generation_tokens` and others; and `busy_seconds`, in which the engine
        had a request."""
        from vllm.v1.metrics.reader import Counter, Gauge

        of_vllm = {
            metric.name.removeprefix("vllm:"): float(metric.value)
            for metric in self._llm.get_metrics()
            if isinstance(metric, Counter | Gauge)
        }
        return of_vllm | {"busy_seconds": self._busy.seconds()}

    def close(self) -> None:
        """Answers what was submitted before, then ends the thread and frees the engine."""
        self._submitted.put(None)
        self._thread.join()
        del self._llm

    def _run(self, config: EngineConfig, threads: int | None, started: Future[Any]) -> None:
        """The engine's thread: takes submissions, steps the engine, delivers finished answers."""
        try:
            llm = self._start(config, threads)
        except BaseException as error:  # noqa: BLE001, goes to the thread that awaits the start
            started.set_exception(error)
            return
        started.set_result(llm)
        try:
            while self._take(llm):
                for output in llm.llm_engine.step():
                    if output.finished:
                        self._running.pop(output.request_id).set_result(_completion(output))
        except BaseException as error:  # noqa: BLE001, goes to every thread that awaits an answer
            self._death = error
            for answer in self._running.values():
                answer.set_exception(EngineDied(f"the engine died: {error}"))

    def _start(self, config: EngineConfig, threads: int | None) -> Any:
        import torch
        from vllm import LLM
        from vllm.exceptions import VLLMClientError
        from vllm.platforms import current_platform

        self._refusals = (ValueError, VLLMClientError)
        if threads is not None:
            torch.set_num_threads(threads)  # applies to the calling thread
        kwargs = engine_kwargs(config, current_platform.is_cpu())
        return LLM(self.model, disable_log_stats=False, mm_processor_cache_gb=0.5, **kwargs)

    def _take(self, llm: Any) -> bool:
        """Enqueues what was submitted, waiting for it if the engine is idle. False at the end."""
        while True:
            idle = not self._running
            if idle:
                self._busy.end()
            try:
                submission = self._submitted.get(block=idle and not self._closing)
            except Empty:
                return bool(self._running)
            self._busy.begin()
            if submission is None:
                self._closing = True
                continue
            try:
                (name,) = llm.enqueue([submission.prompt], [submission.params], use_tqdm=False)
            except self._refusals as error:  # only this request is at fault
                submission.answer.set_result(Refused(str(error).splitlines()[0]))
            else:
                # vLLM appends eight random characters to the id; its answers come without them
                self._running[name.rpartition("-")[0] or name] = submission.answer


def _prompt(request: Request, processor: Any) -> dict[str, Any]:
    """vLLM's prompt: the text, the frames, and the videos' names."""
    from tempo_ray.models.vlm import chat_text

    prompt: dict[str, Any] = {"prompt": chat_text(processor, request.parts)}
    if request.videos:
        prompt["multi_modal_data"] = {"video": as_vllm(request.videos)}
        if request.video_ids:
            prompt["multi_modal_uuids"] = {"video": list(request.video_ids)}
    return prompt


def _completion(output: Any) -> Completion:
    sample = output.outputs[0]
    return Completion(
        sample.text.strip(),
        len(output.prompt_token_ids or ()),
        len(sample.token_ids),
        str(sample.finish_reason),
    )
