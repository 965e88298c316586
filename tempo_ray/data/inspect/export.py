"""Pairs -> the JSON lines that other trainers read: TRL's preference format, ms-swift's, and
LLaMA-Factory's ShareGPT."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from tempo_ray.config import ExportFormat
from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.records import Pair
from tempo_ray.storage import join, open_output, write_bytes
from tempo_ray.tables import open_dataset, records_of

LLAMA_FACTORY_NAME = "tempo_ray"


def _trl_answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def trl(pair: Pair) -> dict[str, Any]:
    """TRL, conversational preference with an explicit prompt. The video is a part of the prompt's
    content, and its file in `videos`."""
    question = [{"type": "video"}, {"type": "text", "text": pair.prompt}]
    return {
        "prompt": [{"role": "user", "content": question}],
        "chosen": _trl_answer(pair.chosen),
        "rejected": _trl_answer(pair.rejected),
        "videos": [pair.uri],
    }


def ms_swift(pair: Pair) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"<video>{pair.prompt}"},
        {"role": "assistant", "content": pair.chosen},
    ]
    return {"messages": messages, "rejected_response": pair.rejected, "videos": [pair.uri]}


def llama_factory(pair: Pair) -> dict[str, Any]:
    return {
        "conversations": [{"from": "human", "value": f"<video>{pair.prompt}"}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "videos": [pair.uri],
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
"""What LLaMA-Factory's dataset_info.json must say about the file."""


def read_pairs(run: str) -> Iterator[Pair]:
    """The pairs of a run, one batch of rows in memory at a time. Raises UserError."""
    dataset = open_dataset(RunPaths(run).pairs)
    if dataset is None:
        raise UserError(
            f"run={run}: no pairs in it; make them with "
            f"tempo-ray generate-pairs run={run} videos.input=FOLDER"
        )
    for batch in dataset.to_batches(batch_size=1024):
        yield from records_of(Pair, batch)


def export(run: str, export_format: ExportFormat) -> tuple[str, int]:
    """Writes RUN/export/FORMAT.jsonl, for LLaMA-Factory with its dataset_info.json beside it.

    Returns the file and the number of pairs. Raises UserError where the run has none.
    """
    folder = RunPaths(run).export
    file = join(folder, f"{export_format}.jsonl")
    pairs = read_pairs(run)
    first = next(pairs, None)
    if first is None:
        raise UserError(f"run={run}: no pair of it passed the rules; relax pairs.*, or add videos")
    count = 0
    with open_output(file) as stream:
        for pair in itertools.chain([first], pairs):
            line = json.dumps(FORMATS[export_format](pair), ensure_ascii=False)
            stream.write(line.encode() + b"\n")
            count += 1
    if export_format == "llama_factory":
        info = json.dumps(LLAMA_FACTORY_INFO, indent=1) + "\n"
        write_bytes(join(folder, "dataset_info.json"), info.encode())
    return file, count
