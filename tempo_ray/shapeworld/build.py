"""A family's name -> a model folder in the Hugging Face layout with random weights.

Stock architectures and processors: transformers and vLLM load the folder without code of ours.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tempo_ray.data import prompts
from tempo_ray.shapeworld import language, story

ModelType = Literal["qwen2_5_vl", "qwen3_vl"]
FAMILIES: tuple[ModelType, ...] = ("qwen2_5_vl", "qwen3_vl")

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CONTEXT = 4096
"""Tokens."""
VOCABULARY = 1024
PATCH, MERGE = 16, 2
"""Pixels per side of a patch; patches per side of a token."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ['video', 'video_url'] %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] in ['image', 'image_url'] %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _texts() -> list[str]:
    """A sample of everything that is ever said in ShapeWorld."""
    rng = np.random.default_rng(0)
    wording = prompts.SHAPEWORLD
    texts = list(wording.describe) * 20
    texts += [wording.first_clip, wording.next_clip, wording.whole_from_clips] * 20
    texts += [
        "<0.2 seconds> <1.5 seconds> 0 1 2 3 4 5 6 7 8 9",
        "user\nassistant\nsystem\n",
        prompts.CAPTION_MARK,
    ] * 20
    for index in range(1500):
        drawn = story.draw_story(rng, int(rng.integers(4, 12)))
        texts.append(language.caption(drawn.events, index))
        whole = wording.whole_by_caption([event.text() for event in drawn.events])
        texts += [part for part in whole if isinstance(part, str)]
        texts += [question.text for question in language.ask(drawn, rng, 6, 0.5)]
        texts += [" yes no", f" new: {drawn.events[0].thing}"]
    return texts


def make_tokenizer() -> Qwen2Tokenizer:
    """Byte-level BPE in which nearly every word of ShapeWorld is one token."""
    bpe = Tokenizer(models.BPE())
    stock: Any = Qwen2Tokenizer()
    bpe.pre_tokenizer = stock._tokenizer.pre_tokenizer
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(), trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        model_max_length=CONTEXT,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": SPECIAL}, replace_extra_special_tokens=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor(family: ModelType, tokenizer: Qwen2Tokenizer) -> ProcessorMixin:
    side = PATCH * MERGE
    shared = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    size = {"shortest_edge": side * side, "longest_edge": 128 * 128}
    if family == "qwen2_5_vl":
        image = Qwen2VLImageProcessor(size=size, **shared)
        per_frame = Qwen2VLVideoProcessor(
            size={"shortest_edge": side * side, "longest_edge": 64 * 64},
            cap_pixels_per_frame=False,
            **shared,
        )
        return Qwen2_5_VLProcessor(image, tokenizer, per_frame, chat_template=CHAT_TEMPLATE)
    # Qwen3-VL's own mean and std; vLLM normalises videos by those of the image processor
    image = Qwen2VLImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, **shared)
    # Qwen3-VL counts the pixels of all frames together
    all_frames = Qwen3VLVideoProcessor(
        size={"shortest_edge": 2 * side * side, "longest_edge": 768 * 64 * 64},
        cap_pixels_per_frame=True,
        max_video_tokens=4,
        **shared,
    )
    return Qwen3VLProcessor(image, tokenizer, all_frames, chat_template=CHAT_TEMPLATE)


def make_model(
    family: ModelType, tokenizer: Qwen2Tokenizer, hidden: int = 192, layers: int = 4
) -> PreTrainedModel:
    """A model of that family with random weights. `hidden`, its width, is a multiple of 64."""
    text = _text_config(tokenizer, hidden, layers)
    vision = _vision_config(hidden)
    shared: dict[str, Any] = {
        "tie_word_embeddings": True,
        "image_token_id": _token_id(tokenizer, "<|image_pad|>"),
        "video_token_id": _token_id(tokenizer, "<|video_pad|>"),
        "vision_start_token_id": _token_id(tokenizer, "<|vision_start|>"),
        "vision_end_token_id": _token_id(tokenizer, "<|vision_end|>"),
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
    if family == "qwen2_5_vl":
        text |= {"rope_parameters": rope | {"mrope_section": [8, 12, 12]}}
        vision |= {
            "fullatt_block_indexes": [0, 1, 2],
            "window_size": 64,
            "tokens_per_second": 2,
        }
        return Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **shared)
        )
    rope |= {"mrope_section": [12, 10, 10], "mrope_interleaved": True}
    text |= {"rope_parameters": rope, "head_dim": 64}
    vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 256}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, **shared)
    )


def _token_id(tokenizer: Qwen2Tokenizer, token: str) -> Any:
    return tokenizer.convert_tokens_to_ids(token)


def _text_config(tokenizer: Qwen2Tokenizer, hidden: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": _token_id(tokenizer, "<|im_end|>"),
        "pad_token_id": _token_id(tokenizer, "<|endoftext|>"),
    }


def _vision_config(hidden: int) -> dict[str, Any]:
    return {
        "depth": 3,
        "hidden_size": 128,
        "num_heads": 4,
        "intermediate_size": 320,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": hidden,
    }


def save(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Writes the whole folder: weights, processor, generation config, and tempo_ray.json, which
    names the prompts that the model is asked with."""
    torch.nn.Module.to(model, dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer: Any = processor.tokenizer
    GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(folder)
    (folder / "tempo_ray.json").write_text(json.dumps({"prompts": "shapeworld"}) + "\n")


def make_random(
    family: ModelType, folder: Path, seed: int = 0, hidden: int = 192, layers: int = 4
) -> None:
    """Writes a loadable model that has learned nothing: for tests of everything but quality.

    `hidden` and `layers` are the language model's; the defaults are those of the shipped models.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(family, tokenizer, hidden, layers)
    save(model, make_processor(family, tokenizer), folder)
    AutoModelForImageTextToText.from_pretrained(folder)
