"""A family's name -> a tiny Video LLM, trained from nothing.

It plays the paper's pre-trained model: it sees what is in a shot, writes faithfully what it is told in words, and ties
whole videos to time only weakly, because the captions of whole videos that it learns from come in a random order more
often than not (`shuffled_share`), as those of real pre-training data do.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from tempo_ray.config import FramesConfig
from tempo_ray.data.prompts import SHAPEWORLD, Part, Show
from tempo_ray.models.frames import Frames, sample_indices
from tempo_ray.models.vlm import Encoded, chat_text, encode
from tempo_ray.shapeworld import build, language, story
from tempo_ray.shapeworld.render import cut_frames, draw_frame, frame_at
from tempo_ray.shapeworld.story import Shot, Split, Story, draw_split

IGNORE = -100
FPS, SIDE = 24, 64


@dataclass(frozen=True)
class PretrainSettings:
    family: build.Family
    seed: int = 0
    vision_steps: int = 400
    """The vision tower learns to name colour, shape and deed first, as real ones come pre-trained."""
    vision_batch: int = 128
    steps: int = 4000
    single_shot_steps: int = 400
    """Single shots come before whole videos: four-shot captions from the start stay at chance."""
    batch: int = 32
    micro_batches: int = 4
    lr: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    shuffled_share: float = 0.8
    """Share of the whole-video captions whose events come in a random order."""
    save_every: int = 250


@dataclass(frozen=True)
class Example:
    """One exchange: message parts (None stands for a video), the videos, and the answer."""

    parts: list[str | None]
    videos: list[Frames]
    answer: str


def _as_seen(frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a codec does to a frame, roughly: chroma at half resolution, and a little noise."""
    yuv = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
    seen = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB_I420).astype(np.int16)
    return np.clip(seen + rng.normal(0, rng.uniform(0, 4), seen.shape), 0, 255).astype(np.uint8)


def clip_frames(shot: Shot, rng: np.random.Generator) -> Frames:
    """Two key frames of a shot, at about a third and two thirds of it."""
    early, late = np.clip(rng.normal((1 / 3, 2 / 3), 0.05), 0, 1)
    pixels = np.stack([_as_seen(draw_frame(shot, u, SIDE, SIDE), rng) for u in (early, late)])
    return Frames.presented(pixels, 2.0)


def video_frames(story: Story, model_type: str, rng: np.random.Generator) -> Frames:
    """The whole video as the model's loader samples it."""
    total = cut_frames(story, FPS)[-1]
    indices = sample_indices(total, FPS, FramesConfig(), model_type)
    pixels = np.stack([_as_seen(frame_at(story, index, FPS, SIDE, SIDE), rng) for index in indices])
    metadata = Frames.presented(pixels, FPS).metadata
    return Frames(
        pixels,
        metadata | {"total_num_frames": total, "frames_indices": indices, "duration": total / FPS},
    )


def _message(
    parts: list[Part], show: Callable[[tuple[int, ...]], Frames]
) -> tuple[list[str | None], list[Frames]]:
    return (
        [part if isinstance(part, str) else None for part in parts],
        [show(part.clips) for part in parts if isinstance(part, Show)],
    )


def _story(rng: np.random.Generator, split: Split, low: int, high: int) -> Story:
    return draw_split(rng, split, int(rng.integers(low, high + 1)))


def _lines(story: Story) -> str:
    """The story in words: its events in order, numbered, one a line."""
    return "".join(
        f"{number}. {language.caption_event(event)}\n"
        for number, event in enumerate(story.events, 1)
    )


class Tasks:
    """Draws examples; one method a task."""

    def __init__(self, model_type: str, split: Split, shuffled_share: float) -> None:
        self.model_type = model_type
        self.split: Split = split
        self.shuffled_share = shuffled_share

    def first_clip(self, rng: np.random.Generator) -> Example:
        shot = _story(rng, self.split, 1, 1).shots[0]
        parts, videos = _message(SHAPEWORLD.caption_first_clip(0), lambda _: clip_frames(shot, rng))
        return Example(parts, videos, f"Caption: {language.caption_event(shot.event)}")

    def next_clip(self, rng: np.random.Generator) -> Example:
        shots = _story(rng, self.split, 2, 2).shots
        parts, videos = _message(
            SHAPEWORLD.caption_next_clip(0, 1), lambda clips: clip_frames(shots[clips[0]], rng)
        )
        event = shots[1].event
        return Example(
            parts, videos, f"The {event.thing} is new. Caption: {language.caption_event(event)}"
        )

    def from_captions(self, rng: np.random.Generator, most: int = 7) -> Example:
        events = _story(rng, self.split, 1, most).events
        parts, videos = _message(
            SHAPEWORLD.whole_by_caption([language.caption_event(event) for event in events]),
            lambda _: None,
        )  # type: ignore[arg-type,return-value]
        return Example(parts, videos, language.caption(events, int(rng.integers(3))))

    def from_clips(self, rng: np.random.Generator) -> Example:
        drawn = _story(rng, self.split, 2, 6)
        parts, videos = _message(
            SHAPEWORLD.whole_by_clip(range(len(drawn.shots))),
            lambda clips: clip_frames(drawn.shots[clips[0]], rng),
        )
        return Example(parts, videos, language.caption(drawn.events, int(rng.integers(3))))

    def from_video(self, rng: np.random.Generator) -> Example:
        drawn = _story(rng, self.split, 2, 6)
        events = list(drawn.events)
        if rng.random() < self.shuffled_share:
            events = [events[index] for index in rng.permutation(len(events))]
        order = range(len(drawn.shots))
        parts, videos = _message(
            SHAPEWORLD.whole_by_video(order, int(rng.integers(6))),
            lambda _: video_frames(drawn, self.model_type, rng),
        )
        return Example(parts, videos, language.caption(events, int(rng.integers(3))))

    def text_question(self, rng: np.random.Generator) -> Example:
        """A question about a story told in words: what a language model knows of order before it sees a video."""
        drawn = _story(rng, self.split, 3, 6)
        question = language.ask(drawn, rng, 1, 0.7)[0]
        return Example([_lines(drawn) + question.text], [], question.answer)

    def clips_question(self, rng: np.random.Generator) -> Example:
        """A question about clips that are shown one by one: the model can tell their order, as it can that of sentences."""
        drawn = _story(rng, self.split, 3, 6)
        question = language.ask(drawn, rng, 1, 0.7)[0]
        videos = [clip_frames(shot, rng) for shot in drawn.shots]
        return Example([*[None] * len(videos), question.text], videos, question.answer)

    def video_question(self, rng: np.random.Generator) -> Example:
        """A question about a whole video, never about order: that it is not taught."""
        drawn = _story(rng, self.split, 2, 6)
        question = language.ask(drawn, rng, 1, 0.0)[0]
        return Example(
            [None, question.text], [video_frames(drawn, self.model_type, rng)], question.answer
        )

    def content_question(self, rng: np.random.Generator) -> Example:
        """Which of two captions fits? The wrong one tells an event that is not there; the order of both is random.

        It teaches to find and say the one of two captions that fits, from words, clips or a whole video, and nothing of order.
        """
        drawn = _story(rng, self.split, 2, 6)
        count = len(drawn.events)
        told = [drawn.events[index] for index in rng.permutation(count)]
        things = {event.thing for event in told}
        strange = [
            event
            for event in _story(rng, self.split, count, count).events
            if event.thing not in things
        ]
        if not strange:
            return self.content_question(rng)
        wrong = list(told)
        wrong[int(rng.integers(count))] = strange[0]
        if rng.random() < 0.6:
            wrong = [wrong[index] for index in rng.permutation(count)]
        phrasing = int(rng.integers(3))
        question = language.ask_which_fits(
            language.caption(told, phrasing), language.caption(wrong, phrasing), rng
        )
        shown = rng.random()
        if shown < 0.25:
            return Example([_lines(drawn) + question.text], [], question.answer)
        if shown < 0.45:
            return Example(
                [*[None] * count, question.text],
                [clip_frames(shot, rng) for shot in drawn.shots],
                question.answer,
            )
        return Example(
            [None, question.text], [video_frames(drawn, self.model_type, rng)], question.answer
        )

    def draw(self, rng: np.random.Generator, single: bool) -> Example:
        if single:
            return self.first_clip(rng) if rng.random() < 0.9 else self.from_captions(rng, 2)
        return getattr(self, str(rng.choice(list(MIX), p=list(MIX.values()))))(rng)


MIX = {
    "first_clip": 0.05,
    "next_clip": 0.06,
    "from_captions": 0.09,
    "from_clips": 0.09,
    "from_video": 0.17,
    "text_question": 0.16,
    "clips_question": 0.12,
    "video_question": 0.12,
    "content_question": 0.14,
}
"""A task of `Tasks` -> its share of the examples once single shots are over."""


def encode_examples(
    processor: Any, config: PretrainedConfig, examples: list[Example]
) -> tuple[list[Encoded], list[int]]:
    """Prompt and answer of each example as one sequence, and where its answer begins."""
    prompts = [chat_text(processor, example.parts) for example in examples]
    end = processor.tokenizer.eos_token
    texts = [
        prompt + example.answer + end for prompt, example in zip(prompts, examples, strict=True)
    ]
    encoded = encode(processor, config, texts, [example.videos for example in examples])
    answers = processor.tokenizer([example.answer + end for example in examples])["input_ids"]
    return encoded, [
        len(one.input_ids) - len(answer) for one, answer in zip(encoded, answers, strict=True)
    ]


def collate(encoded: list[Encoded], starts: list[int], pad: int) -> dict[str, torch.Tensor | None]:
    """Right-padded batch with labels on the answers only."""
    length = max(len(one.input_ids) for one in encoded)
    ids = torch.full((len(encoded), length), pad)
    mask = torch.zeros((len(encoded), length), dtype=torch.long)
    positions = torch.zeros((3, len(encoded), length), dtype=torch.long)
    labels = torch.full((len(encoded), length), IGNORE)
    for row, (one, start) in enumerate(zip(encoded, starts, strict=True)):
        count = len(one.input_ids)
        ids[row, :count] = torch.from_numpy(one.input_ids)
        mask[row, :count] = 1
        positions[:, row, :count] = torch.from_numpy(one.positions)
        labels[row, start:count] = ids[row, start:count]
    patches = [one.pixel_values_videos for one in encoded if one.pixel_values_videos is not None]
    grids = [one.video_grid_thw for one in encoded if one.video_grid_thw is not None]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "pixel_values_videos": torch.cat(patches) if patches else None,
        "video_grid_thw": torch.cat(grids) if grids else None,
        "labels": labels,
    }


def answer_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor | None]) -> torch.Tensor:
    """Cross-entropy summed over the answer tokens; logits are made for them only.

    A token of an answer of n weighs 1 / sqrt(n): one word that answers a question is not to drown in long captions.
    """
    labels = batch["labels"]
    assert labels is not None
    hidden = model.model(
        **{name: value for name, value in batch.items() if name != "labels"}, use_cache=False
    )[0]
    target = labels[:, 1:]
    wanted = target != IGNORE
    weights = answer_weights(labels)[wanted]
    logits = model.lm_head(hidden[:, :-1][wanted])
    return (
        torch.nn.functional.cross_entropy(logits, target[wanted], reduction="none") * weights
    ).sum()


def answer_weights(labels: torch.Tensor) -> torch.Tensor:
    """(rows, tokens) labels -> (rows, tokens - 1) weights, 0 outside the answers."""
    wanted = labels[:, 1:] != IGNORE
    return wanted * wanted.sum(1, keepdim=True).clamp(min=1).rsqrt()


def _rate(step: int, settings: PretrainSettings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _batches(
    tasks: Tasks, settings: PretrainSettings, processor: Any, config: PretrainedConfig, first: int
) -> Iterator:
    """The batch of every step from `first` on; each step's draw depends on its number alone, so a resumed run sees the same."""
    pad = processor.tokenizer.pad_token_id
    for step in range(first, settings.steps):
        rng = np.random.default_rng((settings.seed, step))
        single = step < settings.single_shot_steps
        encoded, starts = encode_examples(
            processor, config, [tasks.draw(rng, single) for _ in range(settings.batch)]
        )
        # short beside short: padding would be half of the work
        by_length = sorted(range(settings.batch), key=lambda row: len(encoded[row].input_ids))
        parts = np.array_split(by_length, settings.micro_batches)
        yield (
            step,
            [
                collate([encoded[row] for row in part], [starts[row] for row in part], pad)
                for part in parts
            ],
        )


def initialise(model: PreTrainedModel) -> None:
    """Weights of variance 1 / fan-in. The stock 0.02 is meant for widths in the thousands: at 128 nothing is learnt for long."""
    for name, weight in model.named_parameters():
        if "embed" in name and weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.05)
        elif weight.ndim >= 2:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


DEEDS = sorted(
    {story.draw_event(np.random.default_rng(seed), "red", "square").deed for seed in range(1000)}
    | {"turns red"}
)


def pretrain_vision(
    model: PreTrainedModel,
    processor: Any,
    settings: PretrainSettings,
    report: Callable[[str], None],
) -> None:
    """Teaches the vision tower to tell colour, shape and deed of one shot apart, by a linear head on its mean output."""
    tower = model.model.visual
    names = (list(story.COLORS), list(story.SHAPES), DEEDS)
    head = torch.nn.Linear(model.config.text_config.hidden_size, sum(len(one) for one in names))
    weights = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        weights, lr=1e-3, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    for step in range(settings.vision_steps):
        rng = np.random.default_rng((settings.seed, 1, step))
        shots = [_story(rng, "train", 1, 1).shots[0] for _ in range(settings.vision_batch)]
        seen = [clip_frames(shot, rng) for shot in shots]
        told = [(shot.event.color, shot.event.shape, shot.event.deed) for shot in shots]
        target = torch.tensor(
            [[known.index(word) for known, word in zip(names, row, strict=True)] for row in told]
        )
        pixels = [one.pixels for one in seen]
        patches = processor.video_processor(
            videos=pixels,
            video_metadata=[one.metadata for one in seen],
            do_sample_frames=False,
            return_tensors="pt",
        )
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50, 2 * (1 - step / settings.vision_steps))
        tokens = tower(
            patches["pixel_values_videos"], grid_thw=patches["video_grid_thw"]
        ).pooler_output
        logits = head(tokens.view(len(shots), -1, tokens.shape[-1]).mean(1)).split(
            [len(one) for one in names], -1
        )
        loss = torch.stack(
            [
                torch.nn.functional.cross_entropy(one, target[:, column])
                for column, one in enumerate(logits)
            ]
        ).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            right = [
                (one.argmax(-1) == target[:, column]).float().mean().item()
                for column, one in enumerate(logits)
            ]
            report(
                f"vision step {step + 1}/{settings.vision_steps}  colour, shape, deed right: "
                + " ".join(f"{r:.2f}" for r in right)
            )


def pretrain(
    settings: PretrainSettings, output: Path, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Trains the model and writes its folder and `pretraining.json`, the record. A second call goes on from the last save."""
    torch.manual_seed(settings.seed)
    tokenizer = build.make_tokenizer()
    processor = build.make_processor(settings.family, tokenizer)
    model = build.make_model(settings.family, tokenizer)
    initialise(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    work = output.with_name(f".{output.name}.pretraining")
    work.mkdir(parents=True, exist_ok=True)
    state_file = work / "state.pt"
    first, curve, spent = 0, [], 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, curve, spent = state["step"], state["curve"], state["seconds"]
        report(f"going on from step {first}")
    else:
        pretrain_vision(model, processor, settings, report)
    tasks = Tasks(settings.family, "train", settings.shuffled_share)
    model.train()
    began = time.monotonic()
    for step, batches in _batches(tasks, settings, processor, model.config, first):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _rate(step, settings)
        optimizer.zero_grad(set_to_none=True)
        weight = sum(float(answer_weights(batch["labels"]).sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            part = answer_loss(model, batch) / weight
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 25 == 0:
            seconds = spent + time.monotonic() - began
            curve.append([step + 1, round(loss, 4)])
            report(f"step {step + 1}/{settings.steps}  loss {loss:.4f}  {seconds:.0f} s")
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
                "curve": curve,
                "seconds": spent + time.monotonic() - began,
            }
            torch.save(state, state_file.with_suffix(".part"))
            state_file.with_suffix(".part").rename(state_file)
    seconds = spent + time.monotonic() - began
    model.eval()
    build.save(model, processor, output)
    record = {
        "settings": asdict(settings),
        "mix": MIX,
        "data": f"{settings.steps * settings.batch} examples, each drawn anew from the train split of ShapeWorld",
        "parameters": sum(one.numel() for one in model.parameters()),
        "seconds": round(seconds),
        "loss_curve": curve,
    }
    (output / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    return record
