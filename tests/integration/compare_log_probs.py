"""A model folder -> JSON: how far vLLM's log-probs are from the trainer's and from stock
transformers', per answer, on the same videos and answers.

    python tests/integration/compare_log_probs.py FOLDER

test_parity.py runs it in a process of its own: an engine cannot be ended within one.
"""

# ruff: noqa: E402 - the environment must be set before vLLM is imported
import json
import sys

from tempo_ray.config import EngineConfig
from tempo_ray.models.engine import engine_kwargs, set_environment

ENGINE = EngineConfig(
    dtype="float32",
    max_model_len=2048,
    max_num_seqs=32,
    kv_cache_bytes=200_000_000,
    enforce_eager=True,
    in_process=True,
)
set_environment(ENGINE)

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText
from vllm import LLM, SamplingParams

from tempo_ray.models.frames import Frames, as_vllm
from tempo_ray.models.vlm import chat_text, load_model, load_model_config, load_processor
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack
from tempo_ray.train.examples import PromptPairs, VideoPairs
from tempo_ray.train.policy import LogProbs
from tempo_ray.train.sequences import tokenize_example

PROMPT = "Describe this video in order."
SIZES = ((2, 64, 64), (6, 64, 64), (6, 32, 96), (6, 96, 32), (48, 64, 64), (120, 32, 32))
"""(frames, height, width) of the videos."""
ANSWERS = 3
"""Per video."""


def make_examples() -> list[tuple[VideoPairs, Frames]]:
    rng = np.random.default_rng(0)
    examples = []
    for frames, height, width in SIZES:
        pixels = rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
        texts = [language.caption(draw_story(rng, 4).events, number) for number in range(ANSWERS)]
        pairs = VideoPairs("", (PromptPairs(PROMPT, texts[0], tuple(texts[1:])),))
        examples.append((pairs, Frames.presented(pixels, 2.0)))
    return examples


def trained_log_probs(
    path: str, examples: list[tuple[VideoPairs, Frames]]
) -> tuple[torch.Tensor, ...]:
    """Per answer, (tokens,): all examples packed into one row."""
    processor, config = load_processor(path), load_model_config(path)
    row = pack([tokenize_example(processor, config, example, video) for example, video in examples])
    model = use_packed_attention(load_model(path, torch.float32), "sdpa")
    with torch.no_grad():
        logps, _ = LogProbs(model)(row.inputs, row.source, row.target)
    return torch.split(logps, row.lengths.tolist())


def served_log_probs(
    path: str, sequences: list[tuple[str, Frames]], lengths: list[int]
) -> list[torch.Tensor]:
    """Per sequence, the log-probs of its last tokens as vLLM gives them for a prompt."""
    llm = LLM(path, **engine_kwargs(ENGINE, True))
    prompts: list[Any] = [
        {"prompt": text, "multi_modal_data": {"video": as_vllm([video])}}
        for text, video in sequences
    ]
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0)
    outputs: list[Any] = llm.generate(prompts, params, use_tqdm=False)
    served = []
    for output, length in zip(outputs, lengths, strict=True):
        tokens, logprobs = output.prompt_token_ids[-length:], output.prompt_logprobs[-length:]
        chosen = [at[token].logprob for token, at in zip(tokens, logprobs, strict=True)]
        served.append(torch.tensor(chosen))
    return served


def stock_log_probs(
    path: str, sequences: list[tuple[str, Frames]], lengths: list[int]
) -> list[torch.Tensor]:
    """The same of stock transformers, which computes its own positions."""
    processor = load_processor(path)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
    stock = []
    for (text, video), length in zip(sequences, lengths, strict=True):
        inputs = processor(
            text=[text],
            videos=[video.pixels],
            video_metadata=[video.metadata],
            do_sample_frames=False,
            return_tensors="pt",
            return_mm_token_type_ids=True,
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0, :-1]
        logps = torch.log_softmax(logits, -1).gather(-1, inputs["input_ids"][0, 1:, None])[:, 0]
        stock.append(logps[-length:])
    return stock


def main(path: str) -> None:
    examples = make_examples()
    trained = trained_log_probs(path, examples)
    lengths = [len(logps) for logps in trained]
    processor = load_processor(path)
    sequences = [
        (chat_text(processor, [None, PROMPT]) + answer + processor.tokenizer.eos_token, video)
        for example, video in examples
        for prompt in example.prompts
        for answer in (prompt.chosen, *prompt.rejected)
    ]
    served = served_log_probs(path, sequences, lengths)
    stock = stock_log_probs(path, sequences, lengths)

    def largest_differences(logps: Any) -> list[float]:
        return [
            float((ours - theirs).abs().max()) for ours, theirs in zip(logps, served, strict=True)
        ]

    differences = {
        "trainer": largest_differences(trained),
        "stock": largest_differences(stock),
        "tokens": lengths,
    }
    print(json.dumps(differences))


if __name__ == "__main__":
    main(sys.argv[1])
