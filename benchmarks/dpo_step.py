"""Pairs per second of a DPO step: a video prompt with one chosen and k rejected answers as one
sequence, and as other trainers do it.

    python -m benchmarks.dpo_step [prompt=1024] [answer=64] [k=3] [hidden=512] [layers=8]
        [rounds=5] [peer=PYTHON] [model=FOLDER] [device=cpu] [dtype=float32] [checkpointing=0]

A step is the reference's forward pass, and the policy's forward and backward: LoRA on the language
model, vision tower frozen, sigmoid loss with NLL; Qwen2.5-VL's architecture with random weights, of
the given sizes or of a folder's config. `concatenated` is what DPO trainers do: the same model, and
for k pairs 2k rows of prompt, video and one answer, the video encoded once per row and pass. All
answers have the same length, so that no row has padding, and logits are computed at the answers
only. The benchmark fails unless both give the same loss; it reports how far gradients differ.

PYTHON is the interpreter of an environment with ms-swift 4.6: its trainer does the same pairs, and
TRL's, which has no DPO on video, does as many tokens of text. Their steps, and ours beside them,
also read the video's file and take AdamW's step. On the CPU.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, PreTrainedModel

from benchmarks.measure import in_turns, ratios, report, seconds
from tempo_ray.config import AlignConfig, FramesConfig, LoraConfig, OptimizerConfig
from tempo_ray.models.vlm import chat_text, load_model_config
from tempo_ray.shapeworld.build import make_model, make_processor, make_tokenizer, save
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import COLORS, DIRECTIONS, SHAPES, draw_story
from tempo_ray.train.attention import PROMPT, use_packed_attention
from tempo_ray.train.batch import PackedRow, pack
from tempo_ray.train.examples import PromptPairs, VideoPairs
from tempo_ray.train.lora import add_adapter
from tempo_ray.train.loss import PairLogProbs, pair_losses
from tempo_ray.train.objective import Dpo
from tempo_ray.train.policy import LogProbs, Policy
from tempo_ray.train.sequences import ExampleTokens, read_example

SIZES = {
    "prompt": 1024,
    "answer": 64,
    "k": 3,
    "hidden": 512,
    "layers": 8,
    "rounds": 5,
    "checkpointing": 0,
}
FPS, SIDE = 2, 224
"""Of the video. Both patches of 16 pixels, which our tiny models have, and of 14, on which ms-swift
relies, fill a frame two by two."""
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
"""What ms-swift puts before every prompt of Qwen2.5-VL."""
WORDS = (*COLORS, *SHAPES, *DIRECTIONS)
LORA, OPTIMIZER = LoraConfig(), OptimizerConfig()
OBJECTIVE = Dpo(AlignConfig(lora=LORA, optimizer=OPTIMIZER))
LOSS = OBJECTIVE.config.loss
THREADS = os.cpu_count() or 1
WARM_UP = 2
"""Steps of a peer that are not counted."""


@dataclass(frozen=True)
class Subject:
    """What is measured, and on what."""

    sizes: dict[str, int]
    model: PreTrainedModel
    adapter: PeftModel
    policy: Policy
    processor: Any
    example: VideoPairs

    @property
    def pairs(self) -> PromptPairs:
        return self.example.prompts[0]

    def read(self) -> ExampleTokens:
        return read_example(
            self.processor, self.model.config, self.example, FramesConfig(fps=FPS), sys.maxsize
        )[0]

    def speed(self, times: Sequence[float]) -> float:
        """Pairs per second."""
        return round(self.example.pairs / median(times), 3)


def draw_text(processor: Any, rng: np.random.Generator, tokens: int) -> str:
    text = " ".join(["a", *rng.choice(WORDS, tokens - 1)])
    assert len(processor.tokenizer(text)["input_ids"]) == tokens
    return text


def make_example(processor: Any, sizes: dict[str, int], folder: Path) -> VideoPairs:
    """A prompt of the given number of tokens, nearly all of them the video's, which is drawn and
    written; answers without their end token."""
    rng, patches = np.random.default_rng(0), processor.video_processor
    empty_prompt = processor.tokenizer(chat_text(processor, (None, "")))["input_ids"]
    frame_tokens = (SIDE // patches.patch_size // patches.merge_size) ** 2
    length, rest = divmod(sizes["prompt"] - (len(empty_prompt) - 1) - 8, frame_tokens)
    write_video(draw_story(rng, length), folder / "video.mp4", FPS, SIDE, SIDE)
    chosen, *rejected = (
        draw_text(processor, rng, sizes["answer"] - 1) for _ in range(sizes["k"] + 1)
    )
    prompt = draw_text(processor, rng, rest + 8)
    return VideoPairs(str(folder / "video.mp4"), (PromptPairs(prompt, chosen, tuple(rejected)),))


def make_subject(words: dict[str, str], sizes: dict[str, int], folder: Path) -> Subject:
    """Weights are drawn on their final device; the adapter's are not zero, so that policy and
    reference differ."""
    tokenizer = make_tokenizer()
    config = load_model_config(words["model"]) if "model" in words else None
    config = config or make_model("qwen2_5_vl", tokenizer, sizes["hidden"], sizes["layers"]).config
    sizes |= {
        "hidden": config.text_config.hidden_size,
        "layers": config.text_config.num_hidden_layers,
    }
    config.video_token_id = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    processor: Any = make_processor("qwen2_5_vl", tokenizer)
    processor.chat_template = SYSTEM + processor.chat_template
    processor.video_processor.size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    processor.video_processor.patch_size = config.vision_config.patch_size
    torch.manual_seed(0)
    with torch.device(words.get("device", "cpu")):
        dtype = getattr(torch, words.get("dtype", "float32"))
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    if "peer" in words:
        save(model, processor, folder / "model", dtype)
    adapter = add_adapter(model, LORA, 0)
    for name, weight in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    if sizes["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    policy = Policy(LogProbs(model, adapter), flex=model.device.type == "cuda")
    example = make_example(processor, sizes, folder)
    return Subject(sizes, model, adapter, policy, processor, example)


def run_backward(subject: Subject, losses: Tensor) -> float:
    """The backward pass of the mean, completed; returns the mean."""
    subject.adapter.zero_grad()
    loss = losses.mean()
    torch.autograd.backward(loss)
    if loss.is_cuda:
        torch.cuda.synchronize()
    return loss.item()


def packed(subject: Subject, row: PackedRow) -> float:
    """One step of ours."""
    use_packed_attention(subject.model, "flex" if subject.policy.flex else "sdpa")
    return run_backward(subject, OBJECTIVE.losses(subject.policy, row)[0])


def as_rows(tokens: ExampleTokens, device: torch.device) -> dict[str, Tensor]:
    """The example as other trainers see it: for each pair prompt, video and chosen, then for each
    pair prompt, video and rejected."""
    answers = [1] * (tokens.answers - 1) + list(range(2, tokens.answers + 1))
    rows = [
        np.flatnonzero((tokens.segments == PROMPT) | (tokens.segments == number))
        for number in answers
    ]
    ids = torch.from_numpy(np.stack([tokens.ids[row] for row in rows]))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.from_numpy(
            np.stack([tokens.positions[:, row] for row in rows], axis=1)
        ),
        "pixel_values_videos": tokens.pixels.repeat(len(rows), 1),
        "video_grid_thw": tokens.grid.repeat(len(rows), 1),
    }
    return {name: value.to(device) for name, value in inputs.items()}


def row_logps(
    model: PreTrainedModel, rows: dict[str, Tensor], answer: int
) -> tuple[Tensor, Tensor]:
    """(pairs,) each: log-probs in nats of the chosen and the rejected answers, which end the
    rows."""
    hidden = model.model(**rows, use_cache=False)[0]
    logits = model.lm_head(hidden[:, -answer - 1 : -1]).float()
    logps = -cross_entropy(
        logits.transpose(1, 2), rows["input_ids"][:, -answer:], reduction="none"
    ).sum(-1)
    chosen, rejected = logps.chunk(2)
    return chosen, rejected


def concatenated(subject: Subject, rows: dict[str, Tensor]) -> float:
    """One step in the concatenated form."""
    answer = subject.sizes["answer"]
    subject.model.set_attn_implementation("sdpa")
    with torch.no_grad(), subject.adapter.disable_adapter():
        reference_chosen, reference_rejected = row_logps(subject.model, rows, answer)
    chosen, rejected = row_logps(subject.model, rows, answer)
    lengths = torch.full_like(chosen, answer)
    log_probs = PairLogProbs(
        chosen, rejected, reference_chosen, reference_rejected, lengths, lengths
    )
    return run_backward(subject, pair_losses(log_probs, LOSS)[0])


def run_twice(subject: Subject, step: Callable[[], float]) -> tuple[float, Tensor, float | None]:
    """Loss and gradient of the second run, and its peak GPU memory in GiB."""
    step()
    on_gpu = subject.model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    loss = step()
    gradient = torch.cat(
        [
            parameter.grad.flatten()
            for parameter in subject.adapter.parameters()
            if parameter.grad is not None
        ]
    )
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None
    return loss, gradient.float(), peak


def compare_forms(subject: Subject) -> dict[str, Any]:
    """Ours and the concatenated form, in turns. Fails unless their losses agree."""
    tokens, device = subject.read(), subject.model.device
    row, rows = pack([tokens]).to(device), as_rows(tokens, device)
    steps = partial(packed, subject, row), partial(concatenated, subject, rows)
    (loss, gradient, peak), (plain_loss, plain_gradient, plain_peak) = (
        run_twice(subject, step) for step in steps
    )
    difference = {
        "loss": abs(plain_loss / loss - 1),
        "gradient": ((plain_gradient - gradient).norm() / gradient.norm()).item(),
    }
    tolerance = 1e-4 if subject.model.dtype == torch.float32 else 5e-2
    assert difference["loss"] < tolerance, difference
    ours, plain = in_turns(*steps, subject.sizes["rounds"])
    return {
        **ratios(plain, ours),
        "goal": 4,
        "pairs_per_second": {"ours": subject.speed(ours), "concatenated": subject.speed(plain)},
        "tokens": {"ours": len(tokens), "concatenated": rows["input_ids"].numel()},
        "peak_gib": {"ours": peak, "concatenated": plain_peak},
        "relative_difference": difference,
    }


SWIFT = """
import json, sys, torch
from swift.pipelines import rlhf_main
from swift.rlhf_trainers.dpo_trainer import DPOTrainer
from swift.template.templates.qwen import Qwen2VLTemplate

forward = DPOTrainer.concatenated_forward

def counted(self, model, batch, **rest):
    with open("swift.json", "w") as file:
        json.dump([int(batch["attention_mask"].sum()), int((batch["labels"] != -100).sum())], file)
    return forward(self, model, batch, **rest)

DPOTrainer.concatenated_forward = counted
torch.set_num_threads(int(sys.argv[1]))
Qwen2VLTemplate.video_token_id = int(sys.argv[2])  # it has Qwen's own, whatever the tokenizer says
rlhf_main(sys.argv[3:])
"""

TRL = """
import json, time, torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

with open("trl.json") as file:
    arguments = json.load(file)
torch.set_num_threads(arguments["threads"])
ends = []

class Clock(TrainerCallback):
    def on_step_end(self, *_, **__):
        ends.append(time.perf_counter())

class Counted(DPOTrainer):
    def _compute_loss(self, model, inputs, *rest):
        self.counts = [int(inputs["attention_mask"].sum()), int(inputs["completion_mask"].sum())]
        return super()._compute_loss(model, inputs, *rest)

trainer = Counted(
    Qwen2ForCausalLM(Qwen2Config(**arguments["model"])),
    args=DPOConfig(**arguments["trainer"]),
    train_dataset=Dataset.from_list(arguments["rows"] * arguments["trainer"]["max_steps"]),
    processing_class=AutoTokenizer.from_pretrained("model"),
    peft_config=LoraConfig(**arguments["lora"]),
    callbacks=[Clock()],
)
trainer.train()
with open("trl_done.json", "w") as file:
    json.dump([trainer.counts, ends], file)
"""


def run_peer(python: str, script: str, arguments: Sequence[str], folder: Path) -> None:
    environment = {
        "OMP_NUM_THREADS": str(THREADS),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "MODELSCOPE_CACHE": str(folder / "hub"),
        "FPS": str(FPS),
        "VIDEO_MIN_TOKEN_NUM": str((SIDE // 28) ** 2),  # or it enlarges the frames
    }
    command = [python, "-c", script, *arguments]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | environment, stdout=sys.stderr)


def trainer_arguments(sizes: dict[str, int]) -> dict[str, Any]:
    """What both peers pass to transformers' trainer."""
    return {
        "per_device_train_batch_size": sizes["k"],
        "gradient_accumulation_steps": 1,
        "max_steps": sizes["rounds"] + WARM_UP,
        "learning_rate": OPTIMIZER.lr,
        "gradient_checkpointing": False,
        "beta": LOSS.beta,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def swift(python: str, subject: Subject, folder: Path) -> tuple[list[float], list[int]]:
    """Seconds of ms-swift's steps by its own log; tokens and answer tokens of one of them."""
    pairs, options = subject.pairs, trainer_arguments(subject.sizes)
    messages = [
        {"role": "user", "content": f"<video>{pairs.prompt}"},
        {"role": "assistant", "content": pairs.chosen},
    ]
    rows = [
        {"messages": messages, "rejected_response": answer, "videos": [subject.example.uri]}
        for answer in pairs.rejected
    ]
    lines = [json.dumps(row) + "\n" for row in rows * options["max_steps"]]
    (folder / "pairs.jsonl").write_text("".join(lines))
    options |= {
        "rlhf_type": "dpo",
        "rpo_alpha": LOSS.nll_weight,
        "dataset": "pairs.jsonl",
        "max_length": 1_000_000,
        "model": "model",
        "model_type": "qwen2_5_vl",
        "template": "qwen2_5_vl",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "tuner_type": "lora",
        "lora_rank": LORA.rank,
        "lora_alpha": LORA.alpha,
        "lora_dropout": LORA.dropout,
        "freeze_vit": True,
        "eval_strategy": "no",
        "split_dataset_ratio": 0,
        "output_dir": "swift",
        "add_version": False,
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    video_token = str(subject.model.config.video_token_id)
    run_peer(python, SWIFT, [str(THREADS), video_token, *arguments], folder)
    log = (folder / "swift" / "logging.jsonl").read_text().splitlines()
    steps = enumerate(map(json.loads, log), 1)
    # it logs a running mean of the seconds per step
    ends = [step["train_speed(s/it)"] * number for number, step in steps if "loss" in step]
    return np.diff(ends)[WARM_UP - 1 :].tolist(), json.loads((folder / "swift.json").read_text())


def trl(python: str, subject: Subject, folder: Path) -> tuple[list[float], list[int]]:
    """The same of TRL's, on text: a Qwen2 of the language model's sizes."""
    pairs, text_config = subject.pairs, subject.model.config.text_config
    prompt = draw_text(subject.processor, np.random.default_rng(0), subject.sizes["prompt"])
    rows = [
        {"prompt": prompt, "chosen": f" {pairs.chosen}", "rejected": f" {answer}"}
        for answer in pairs.rejected
    ]
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    trainer = trainer_arguments(subject.sizes) | {
        "output_dir": "trl",
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, LOSS.nll_weight],
    }
    arguments = {
        "threads": THREADS,
        "rows": rows,
        "model": {name: getattr(text_config, name) for name in sizes}
        | {"tie_word_embeddings": True},
        "lora": {
            "r": LORA.rank,
            "lora_alpha": LORA.alpha,
            "target_modules": "all-linear",
            "task_type": "CAUSAL_LM",
        },
        "trainer": trainer,
    }
    (folder / "trl.json").write_text(json.dumps(arguments))
    run_peer(python, TRL, [], folder)
    counts, ends = json.loads((folder / "trl_done.json").read_text())
    return np.diff(ends)[WARM_UP - 1 :].tolist(), counts


def against_peers(python: str, subject: Subject, folder: Path) -> dict[str, Any]:
    """Each peer's steps, between as many of ours before and after."""
    trained = [weight for weight in subject.adapter.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=OPTIMIZER.lr)

    def step() -> None:
        packed(subject, pack([subject.read()]))
        torch.nn.utils.clip_grad_norm_(subject.adapter.parameters(), OPTIMIZER.grad_clip)
        optimizer.step()

    step()
    sizes = subject.sizes
    results = {}
    for name, peer in (("ms-swift", swift), ("trl on text", trl)):
        ours = [seconds(step) for _ in range(sizes["rounds"])]
        theirs, (tokens, answer_tokens) = peer(python, subject, folder)
        ours += [seconds(step) for _ in range(sizes["rounds"])]
        assert tokens >= 2 * sizes["k"] * (sizes["prompt"] + sizes["answer"]), (
            f"{name} had only {tokens} tokens"
        )
        results[name] = {
            "ratio": round(median(theirs) / median(ours), 3),
            "pairs_per_second": {"ours": subject.speed(ours), "theirs": subject.speed(theirs)},
            "seconds": {
                "ours": [round(duration, 2) for duration in ours],
                "theirs": [round(duration, 2) for duration in theirs],
            },
            "tokens": {"theirs": tokens, "of them answers": answer_tokens},
        }
    return results


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    sizes = {name: int(words.get(name, default)) for name, default in SIZES.items()}
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        subject = make_subject(words, sizes, Path(folder))
        results = compare_forms(subject)
        if "peer" in words:
            results["peers"] = against_peers(words["peer"], subject, Path(folder))
    machine = {
        "device": str(subject.model.device),
        "dtype": str(subject.model.dtype),
        "threads": THREADS,
    }
    report("dpo_step", ("torch", "transformers", "peft"), **results, sizes=sizes, **machine)


if __name__ == "__main__":
    main()
