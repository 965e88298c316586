"""What is trained is what is served: log-probs of the trainer and of vLLM, token by token, on the same videos and answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tempo_ray import shapeworld
from tempo_ray.shapeworld.build import FAMILIES

MODELS = Path(shapeworld.__file__).parent / "models"

SCRIPT = """
import json, sys
import numpy as np
import torch
from tempo_ray.config import EngineConfig
from tempo_ray.models.engine import engine_kwargs, set_environment

config = EngineConfig(dtype="float32", max_model_len=2048, max_num_seqs=32, kv_cache_bytes=200_000_000, enforce_eager=True,
                      in_process=True)
set_environment(config)
from transformers import AutoModelForImageTextToText
from vllm import LLM, SamplingParams

from tempo_ray.models.frames import Frames, as_vllm
from tempo_ray.models.vlm import chat_text, load_model, load_model_config, load_processor
from tempo_ray.shapeworld import language
from tempo_ray.shapeworld.story import draw_story
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import group_tokens, pack
from tempo_ray.train.curriculum import Group
from tempo_ray.train.score import Scorer

path = sys.argv[1]
processor, model_config = load_processor(path), load_model_config(path)
rng = np.random.default_rng(0)
given = []
for frames, height, width in ((2, 64, 64), (6, 64, 64), (6, 32, 96), (6, 96, 32), (48, 64, 64), (120, 32, 32)):
    video = Frames.presented(rng.integers(0, 255, (frames, height, width, 3), dtype=np.uint8), 2.0)
    texts = [language.caption(draw_story(rng, 4).events, number) for number in range(3)]
    given.append((Group("", (None, "Describe this video in order."), texts[0], tuple(texts[1:])), video))

batch = pack([group_tokens(processor, model_config, group, video) for group, video in given])
with torch.no_grad():
    ours = Scorer(use_packed_attention(load_model(path, torch.float32), "sdpa"))(batch.inputs, batch.source, batch.target)[0]
ours = torch.split(ours, batch.lengths.tolist())

llm = LLM(path, **engine_kwargs(config, True))
asked = [
    (chat_text(processor, group.parts) + answer + processor.tokenizer.eos_token, video)
    for group, video in given
    for answer in (group.chosen, *group.rejected)
]
prompts = [{"prompt": text, "multi_modal_data": {"video": as_vllm([video])}} for text, video in asked]
outputs = llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0), use_tqdm=False)

stock = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
differs, stock_differs = [], []
for mine, output, (text, video) in zip(ours, outputs, asked, strict=True):
    said = [(token, at) for token, at in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)][-len(mine):]
    theirs = torch.tensor([at[token].logprob for token, at in said])
    differs.append(float((mine - theirs).abs().max()))
    inputs = processor(text=[text], videos=[video.pixels], video_metadata=[video.metadata], do_sample_frames=False,
                       return_tensors="pt", return_mm_token_type_ids=True)
    with torch.no_grad():
        logps = torch.log_softmax(stock(**inputs).logits[0, :-1], -1).gather(-1, inputs["input_ids"][0, 1:, None])[:, 0]
    stock_differs.append(float((logps[-len(mine):] - theirs).abs().max()))
print(json.dumps({"differs": differs, "stock": stock_differs, "tokens": [len(one) for one in ours]}))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_and_server_agree(family: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(MODELS / family)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert len(found["differs"]) == 18
    assert min(found["tokens"]) > 10
    assert max(found["differs"]) < 1e-4
    if family == "qwen2_5_vl":
        # the day this fails, transformers trains at the positions that are served: say so in docs/positions.md
        assert max(found["stock"][12:]) > 0.01
