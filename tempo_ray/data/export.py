"""Pairs -> the JSON lines that other trainers read: TRL's preference format, ms-swift's, LLaMA-Factory's ShareGPT."""

import itertools
import json
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.dataset as ds

from tempo_ray.config import ExportFormat
from tempo_ray.paths import RunPaths, resolve, write_bytes, writing

Pair = dict[str, Any]
LLAMA_FACTORY_NAME = "tempo_ray"


class NoPairs(ValueError):
    """The run holds no pairs; the message says which command makes them."""


def trl(pair: Pair) -> dict[str, Any]:
    """TRL, conversational preference with an explicit prompt; the video stands in the prompt's content and in `videos`."""

    def said(text: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    asked = [{"type": "video"}, {"type": "text", "text": pair["prompt"]}]
    prompt = [{"role": "user", "content": asked}]
    return {
        "prompt": prompt,
        "chosen": said(pair["chosen"]),
        "rejected": said(pair["rejected"]),
        "videos": [pair["uri"]],
    }


def ms_swift(pair: Pair) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"<video>{pair['prompt']}"},
        {"role": "assistant", "content": pair["chosen"]},
    ]
    return {"messages": messages, "rejected_response": pair["rejected"], "videos": [pair["uri"]]}


def llama_factory(pair: Pair) -> dict[str, Any]:
    return {
        "conversations": [{"from": "human", "value": f"<video>{pair['prompt']}"}],
        "chosen": {"from": "gpt", "value": pair["chosen"]},
        "rejected": {"from": "gpt", "value": pair["rejected"]},
        "videos": [pair["uri"]],
    }


FORMATS: dict[ExportFormat, Callable[[Pair], dict[str, Any]]] = {
    "trl": trl,
    "ms_swift": ms_swift,
    "llama_factory": llama_factory,
}

LLAMA_FACTORY_INFO = {
    LLAMA_FACTORY_NAME: {
        "file_name": "llama_factory.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
            "videos": "videos",
        },
    }
}
"""What LLaMA-Factory's dataset_info.json must say of the file."""


def read_pairs(run: str) -> Iterator[Pair]:
    """The pairs of a run, a batch in memory at a time. Raises NoPairs."""
    filesystem, folder = resolve(RunPaths(run).pairs)
    try:
        data = ds.dataset(folder, filesystem=filesystem, format="parquet")
    except OSError:
        raise NoPairs(
            f"run={run}: no pairs in it; make them with jobs/generate_pairs.py run={run} videos.input=FOLDER"
        ) from None
    for batch in data.to_batches(batch_size=1024):
        yield from batch.to_pylist()


def export(run: str, form: ExportFormat) -> tuple[str, int]:
    """Writes RUN/export/FORMAT.jsonl, with LLaMA-Factory's dataset_info.json beside it. Returns the file and its lines."""
    file = posixpath.join(RunPaths(run).export, f"{form}.jsonl")
    pairs = read_pairs(run)
    first = next(pairs, None)
    if first is None:
        raise NoPairs(f"run={run}: its pairs are none")
    lines = 0
    with writing(file) as stream:
        for lines, pair in enumerate(itertools.chain([first], pairs), 1):  # noqa: B007, counts
            stream.write(json.dumps(FORMATS[form](pair), ensure_ascii=False).encode() + b"\n")
    if form == "llama_factory":
        info = json.dumps(LLAMA_FACTORY_INFO, indent=1) + "\n"
        write_bytes(posixpath.join(RunPaths(run).export, "dataset_info.json"), info.encode())
    return file, lines
