"""Messages with frames -> texts, through one vLLM engine in this process or beside it."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo_ray.config import EngineConfig, SamplingConfig
from tempo_ray.models.frames import Frames, as_vllm


@dataclass(frozen=True)
class Request:
    """One question: text parts, None for each video, the videos in that order, and the seed of its sampling."""

    parts: tuple[str | None, ...]
    videos: tuple[Frames, ...]
    max_tokens: int
    seed: int


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
        kwargs |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, config.max_model_len)}
    return kwargs


def model_hash(path: str) -> str:
    """First 12 hex digits of the SHA-256 over a model folder's config and weights; the name itself for a hub model."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


class Engine:
    """One vLLM engine. `generate` returns the completions in the order of the requests; all are in flight together."""

    def __init__(self, model: str, config: EngineConfig, sampling: SamplingConfig, threads: int | None = None) -> None:
        set_environment(config)
        from vllm import LLM
        from vllm.platforms import current_platform

        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self.model = model
        self._sampling = sampling
        self._llm = LLM(
            model, disable_log_stats=True, mm_processor_cache_gb=0.5, **engine_kwargs(config, current_platform.is_cpu())
        )

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        from vllm import SamplingParams

        from tempo_ray.models.vlm import chat_text, load_processor

        if not requests:
            return []
        processor = load_processor(self.model)
        prompts: list[Any] = []
        params = []
        for request in requests:
            prompt: dict[str, Any] = {"prompt": chat_text(processor, request.parts)}
            if request.videos:
                prompt["multi_modal_data"] = {"video": as_vllm(request.videos)}
            prompts.append(prompt)
            params.append(
                SamplingParams(
                    temperature=self._sampling.temperature,
                    top_p=self._sampling.top_p,
                    repetition_penalty=self._sampling.repetition_penalty,
                    max_tokens=request.max_tokens,
                    seed=request.seed,
                )
            )
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [
            Completion(
                out.outputs[0].text.strip(),
                len(out.prompt_token_ids or ()),
                len(out.outputs[0].token_ids),
                str(out.outputs[0].finish_reason),
            )
            for out in outputs
        ]
