"""FlexAttention's compiled kernel, which needs a GPU."""

from pathlib import Path

import pytest
import torch

from tempo_ray.config import FramesConfig
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack
from tempo_ray.train.examples import PromptPairs, VideoPairs
from tempo_ray.train.policy import LogProbs
from tempo_ray.train.sequences import read_example

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_flex_attention_equals_sdpa_by_examples(
    family: str, dtype: torch.dtype, models: dict[str, Path], videos: list[str]
) -> None:
    path, device = str(models[family]), torch.device("cuda")
    processor, config = load_processor(path), load_model_config(path)
    texts = [f"{number}. A red circle moves left." for number in range(9)]
    prompt = PromptPairs("Describe this video in order.", texts[0], tuple(texts[1:]))
    row = pack(
        [
            tokens
            for video in videos * 3
            for tokens in read_example(
                processor, config, VideoPairs(video, (prompt,)), FramesConfig(), 4096
            )
        ]
    ).to(device)
    outputs = []
    for kind, packed in (("sdpa", row), ("flex", row.for_flex())):
        model = use_packed_attention(load_model(path, dtype), kind).to(device)
        logps, _ = LogProbs(model)(packed.inputs, packed.source, packed.target)
        logps.sum().backward()
        gradient = torch.cat([parameter.grad.flatten().float() for parameter in model.parameters()])
        outputs.append((logps.detach(), gradient))
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for sdpa, flex in zip(*outputs, strict=True):
        assert (sdpa - flex).norm() / flex.norm() < tolerance
