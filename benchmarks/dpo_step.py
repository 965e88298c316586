"""Pairs per second of a DPO step: a video prompt with one chosen and k rejected answers as one sequence, and as others do it.

    python -m benchmarks.dpo_step [prompt=1024] [answer=64] [k=3] [hidden=512] [layers=8] [rounds=5] [peer=PYTHON]
                                  [model=FOLDER] [device=cpu] [dtype=float32] [checkpointing=0]

A step is the reference's pass, the model's forward and its backward: LoRA on the language model, vision tower frozen, sigmoid
loss with NLL; Qwen2.5-VL's architecture with random weights, of the sizes named or of a folder's config. `concatenated` is what
DPO trainers do: the same model, and for k pairs 2k rows of prompt, video and one answer, the video encoded once a row and pass.
All answers have one length, so that no row has padding, and logits are made at the answers only. Both give the same loss and
gradient, or it fails.

PYTHON is the interpreter of an environment with ms-swift 4.6: its trainer does the same pairs, and TRL's, which has no DPO on
video, as many tokens of text. Their steps, and ours beside them, also read the video's file and take AdamW's step. On the CPU.
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
from tempo_ray.config import FramesConfig, LoraConfig, LossConfig, OptimizerConfig
from tempo_ray.models.vlm import chat_text, load_model_config
from tempo_ray.shapeworld.build import make_model, make_processor, make_tokenizer, save
from tempo_ray.shapeworld.render import write_video
from tempo_ray.shapeworld.story import COLORS, DIRECTIONS, SHAPES, draw_story
from tempo_ray.train.attention import PROMPT, use_packed_attention
from tempo_ray.train.batch import Batch, Tokens, pack, read_group
from tempo_ray.train.curriculum import Group
from tempo_ray.train.learner import Learner, align_losses
from tempo_ray.train.lora import add_adapter
from tempo_ray.train.loss import PairScores, pair_losses
from tempo_ray.train.score import Scorer

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
"""Of the video. Whole patches, two by two, of 16 pixels, which our tiny models have, and of 14, which ms-swift relies on."""
SYSTEM = "You are a helpful assistant."
"""What ms-swift puts before every prompt of Qwen2.5-VL."""
WORDS = (*COLORS, *SHAPES, *DIRECTIONS)
LORA, LOSS, OPTIMIZER = LoraConfig(), LossConfig(), OptimizerConfig()
THREADS = os.cpu_count() or 1
WARM = 2
"""Steps of a peer that are not counted."""


@dataclass(frozen=True)
class Subject:
    """What is measured, and on what."""

    sizes: dict[str, int]
    model: PreTrainedModel
    adapter: PeftModel
    learner: Learner
    processor: Any
    group: Group

    def read(self) -> Tokens:
        return read_group(
            self.processor, self.model.config, self.group, FramesConfig(fps=FPS), sys.maxsize
        )[0]

    def speed(self, times: Sequence[float]) -> float:
        """Pairs per second."""
        return round(self.group.size / median(times), 3)


def said(processor: Any, rng: np.random.Generator, tokens: int) -> str:
    text = " ".join(["a", *rng.choice(WORDS, tokens - 1)])
    assert len(processor.tokenizer(text)["input_ids"]) == tokens
    return text


def make_group(processor: Any, sizes: dict[str, int], folder: Path) -> Group:
    """A prompt of so many tokens, nearly all of them the video's, which is drawn and written; answers without their end token."""
    rng, patches = np.random.default_rng(0), processor.video_processor
    around = len(processor.tokenizer(chat_text(processor, (None, ""), SYSTEM))["input_ids"]) - 1
    length, rest = divmod(
        sizes["prompt"] - around - 8, (SIDE // patches.patch_size // patches.merge_size) ** 2
    )
    write_video(draw_story(rng, length), folder / "video.mp4", FPS, SIDE, SIDE)
    chosen, *rejected = (said(processor, rng, sizes["answer"] - 1) for _ in range(sizes["k"] + 1))
    return Group(
        str(folder / "video.mp4"),
        (None, said(processor, rng, rest + 8)),
        chosen,
        tuple(rejected),
        SYSTEM,
    )


def make_subject(words: dict[str, str], sizes: dict[str, int], folder: Path) -> Subject:
    """Weights are drawn on the device where they stay; the adapter's are not zero, so that model and reference differ."""
    tokenizer = make_tokenizer()
    config = load_model_config(words["model"]) if "model" in words else None
    config = config or make_model("qwen2_5_vl", tokenizer, sizes["hidden"], sizes["layers"]).config
    sizes |= {
        "hidden": config.text_config.hidden_size,
        "layers": config.text_config.num_hidden_layers,
    }
    config.video_token_id = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    processor: Any = make_processor("qwen2_5_vl", tokenizer)
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
    learner = Learner(Scorer(model, adapter), None, flex=model.device.type == "cuda")
    return Subject(sizes, model, adapter, learner, processor, make_group(processor, sizes, folder))


def finished(subject: Subject, losses: Tensor) -> float:
    """The mean's backward pass, to its end."""
    subject.adapter.zero_grad()
    loss = losses.mean()
    torch.autograd.backward(loss)
    if loss.is_cuda:
        torch.cuda.synchronize()
    return loss.item()


def packed(subject: Subject, batch: Batch) -> float:
    """One step of ours."""
    use_packed_attention(subject.model, "flex" if subject.learner.flex else "sdpa")
    return finished(subject, align_losses(subject.learner, batch, LOSS)[0])


def as_rows(tokens: Tokens, device: torch.device) -> dict[str, Tensor]:
    """The group as others see it: for each pair prompt, video and chosen, then for each pair prompt, video and rejected."""
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
    """(pairs,) each: the log-probs of the chosen and the rejected answers, which end the rows."""
    hidden = model.model(**rows, use_cache=False)[0]
    logits = model.lm_head(hidden[:, -answer - 1 : -1]).float()
    logps = -cross_entropy(
        logits.transpose(1, 2), rows["input_ids"][:, -answer:], reduction="none"
    ).sum(-1)
    chosen, rejected = logps.chunk(2)
    return chosen, rejected


def concatenated(subject: Subject, rows: dict[str, Tensor]) -> float:
    """One step of the others' way."""
    answer = subject.sizes["answer"]
    subject.model.set_attn_implementation("sdpa")
    with torch.no_grad(), subject.adapter.disable_adapter():
        reference_chosen, reference_rejected = row_logps(subject.model, rows, answer)
    chosen, rejected = row_logps(subject.model, rows, answer)
    lengths = torch.full_like(chosen, answer)
    scores = PairScores(chosen, rejected, reference_chosen, reference_rejected, lengths, lengths)
    return finished(subject, pair_losses(scores, LOSS)[0])


def warmed(subject: Subject, step: Callable[[], float]) -> tuple[float, Tensor, float | None]:
    """Its loss and its gradient the second time, and the most GPU memory held, in GiB."""
    step()
    on_gpu = subject.model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    loss = step()
    gradient = torch.cat(
        [one.grad.flatten() for one in subject.adapter.parameters() if one.grad is not None]
    )
    return (
        loss,
        gradient.float(),
        round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    )


def compared(subject: Subject) -> dict[str, Any]:
    """Ours and the concatenated form, in turns. Fails unless they do the same."""
    tokens, device = subject.read(), subject.model.device
    batch, rows = pack([tokens]).to(device), as_rows(tokens, device)
    steps = partial(packed, subject, batch), partial(concatenated, subject, rows)
    (loss, gradient, peak), (other_loss, other_gradient, other_peak) = (
        warmed(subject, step) for step in steps
    )
    apart = {
        "loss": abs(other_loss / loss - 1),
        "gradient": ((other_gradient - gradient).norm() / gradient.norm()).item(),
    }
    assert apart["loss"] < (1e-4 if subject.model.dtype == torch.float32 else 5e-2), apart
    ours, theirs = in_turns(*steps, subject.sizes["rounds"])
    return {
        **ratios(theirs, ours),
        "goal": 4,
        "pairs_per_second": {"ours": subject.speed(ours), "concatenated": subject.speed(theirs)},
        "tokens": {"ours": len(tokens), "concatenated": rows["input_ids"].numel()},
        "peak_gib": {"ours": peak, "concatenated": other_peak},
        "relative_difference": apart,
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
    given = json.load(file)
torch.set_num_threads(given["threads"])
ends = []

class Clock(TrainerCallback):
    def on_step_end(self, *_, **__):
        ends.append(time.perf_counter())

class Counted(DPOTrainer):
    def _compute_loss(self, model, inputs, *rest):
        self.counts = [int(inputs["attention_mask"].sum()), int(inputs["completion_mask"].sum())]
        return super()._compute_loss(model, inputs, *rest)

trainer = Counted(
    Qwen2ForCausalLM(Qwen2Config(**given["model"])),
    args=DPOConfig(**given["trainer"]),
    train_dataset=Dataset.from_list(given["rows"] * given["trainer"]["max_steps"]),
    processing_class=AutoTokenizer.from_pretrained("model"),
    peft_config=LoraConfig(**given["lora"]),
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
    """What both peers hand on to transformers' trainer."""
    return {
        **{
            "per_device_train_batch_size": sizes["k"],
            "gradient_accumulation_steps": 1,
            "max_steps": sizes["rounds"] + WARM,
        },
        **{"learning_rate": OPTIMIZER.lr, "gradient_checkpointing": False, "beta": LOSS.beta},
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none"},
    }


def swift(python: str, subject: Subject, folder: Path) -> tuple[list[float], list[int]]:
    """Seconds of ms-swift's steps by its own log; tokens and answer tokens of one of them."""
    group, given = subject.group, trainer_arguments(subject.sizes)
    messages = [
        {"role": "user", "content": f"<video>{group.parts[1]}"},
        {"role": "assistant", "content": group.chosen},
    ]
    rows = [
        {"messages": messages, "rejected_response": one, "videos": [group.uri]}
        for one in group.rejected
    ]
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows * given["max_steps"])
    )
    given |= {
        **{
            "rlhf_type": "dpo",
            "rpo_alpha": LOSS.nll_weight,
            "dataset": "pairs.jsonl",
            "max_length": 1_000_000,
        },
        **{
            "model": "model",
            "model_type": "qwen2_5_vl",
            "template": "qwen2_5_vl",
            "torch_dtype": "float32",
            "attn_impl": "sdpa",
        },
        **{
            "tuner_type": "lora",
            "lora_rank": LORA.rank,
            "lora_alpha": LORA.alpha,
            "lora_dropout": LORA.dropout,
        },
        **{
            "freeze_vit": True,
            "eval_strategy": "no",
            "split_dataset_ratio": 0,
            "output_dir": "swift",
            "add_version": False,
        },
    }
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    run_peer(
        python, SWIFT, [str(THREADS), str(subject.model.config.video_token_id), *arguments], folder
    )
    logged = [
        json.loads(line) for line in (folder / "swift" / "logging.jsonl").read_text().splitlines()
    ]
    ends = [
        one["train_speed(s/it)"] * number for number, one in enumerate(logged, 1) if "loss" in one
    ]  # it logs a running mean
    return np.diff(ends)[WARM - 1 :].tolist(), json.loads((folder / "swift.json").read_text())


def trl(python: str, subject: Subject, folder: Path) -> tuple[list[float], list[int]]:
    """The same of TRL's, on text: a Qwen2 of the language model's sizes."""
    group, text, trainer = (
        subject.group,
        subject.model.config.text_config,
        trainer_arguments(subject.sizes),
    )
    asked = said(subject.processor, np.random.default_rng(0), subject.sizes["prompt"])
    rows = [
        {"prompt": asked, "chosen": f" {group.chosen}", "rejected": f" {one}"}
        for one in group.rejected
    ]
    kept = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    trainer |= {"output_dir": "trl", "use_cpu": True, "bf16": False, "max_length": None}
    given = {
        "threads": THREADS,
        "rows": rows,
        "model": {name: getattr(text, name) for name in kept} | {"tie_word_embeddings": True},
        "lora": {
            "r": LORA.rank,
            "lora_alpha": LORA.alpha,
            "target_modules": "all-linear",
            "task_type": "CAUSAL_LM",
        },
        "trainer": trainer
        | {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, LOSS.nll_weight]},
    }
    (folder / "trl.json").write_text(json.dumps(given))
    run_peer(python, TRL, [], folder)
    counts, ends = json.loads((folder / "trl_done.json").read_text())
    return np.diff(ends)[WARM - 1 :].tolist(), counts


def against_peers(python: str, subject: Subject, folder: Path) -> dict[str, Any]:
    """Each peer's steps, between as many of ours before and after."""
    optimizer = torch.optim.AdamW(
        [one for one in subject.adapter.parameters() if one.requires_grad], lr=OPTIMIZER.lr
    )

    def step() -> None:
        packed(subject, pack([subject.read()]))
        torch.nn.utils.clip_grad_norm_(subject.adapter.parameters(), OPTIMIZER.grad_clip)
        optimizer.step()

    step()
    sizes, found = subject.sizes, {}
    for name, peer in (("ms-swift", swift), ("trl on text", trl)):
        ours = [seconds(step) for _ in range(sizes["rounds"])]
        theirs, (tokens, answer_tokens) = peer(python, subject, folder)
        ours += [seconds(step) for _ in range(sizes["rounds"])]
        assert tokens >= 2 * sizes["k"] * (sizes["prompt"] + sizes["answer"]), (
            f"{name} had only {tokens} tokens"
        )
        found[name] = {
            "ratio": round(median(theirs) / median(ours), 3),
            "pairs_per_second": {"ours": subject.speed(ours), "theirs": subject.speed(theirs)},
            "seconds": {
                "ours": [round(one, 2) for one in ours],
                "theirs": [round(one, 2) for one in theirs],
            },
            "tokens": {"theirs": tokens, "of them answers": answer_tokens},
        }
    return found


def main() -> None:
    words = dict(word.split("=") for word in sys.argv[1:])
    sizes = {name: int(words.get(name, default)) for name, default in SIZES.items()}
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        subject = make_subject(words, sizes, Path(folder))
        found = compared(subject)
        if "peer" in words:
            found["peers"] = against_peers(words["peer"], subject, Path(folder))
    kind = {
        "device": str(subject.model.device),
        "dtype": str(subject.model.dtype),
        "threads": THREADS,
    }
    report("dpo_step", ("torch", "transformers", "peft"), **found, sizes=sizes, **kind)


if __name__ == "__main__":
    main()
