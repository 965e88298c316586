"""What only a GPU can show of training."""

from pathlib import Path

import pytest
import torch

from tempo_ray.config import FramesConfig
from tempo_ray.models.vlm import load_model, load_model_config, load_processor
from tempo_ray.shapeworld.build import FAMILIES
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.batch import pack, read_group
from tempo_ray.train.curriculum import Group
from tempo_ray.train.score import Scorer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_flex_attention_is_sdpa_by_groups(
    family: str, dtype: torch.dtype, models: dict[str, Path], videos: list[str]
) -> None:
    path, device = str(models[family]), torch.device("cuda")
    processor, config = load_processor(path), load_model_config(path)
    texts = [f"{number}. A red circle moves left." for number in range(9)]
    groups = [
        Group(uri, (None, "Describe this video in order."), texts[0], tuple(texts[1:]))
        for uri in videos * 3
    ]
    batch = pack(
        [
            one
            for group in groups
            for one in read_group(processor, config, group, FramesConfig(), 4096)
        ]
    ).to(device)
    found = []
    for kind, given in (("sdpa", batch), ("flex", batch.for_flex())):
        model = use_packed_attention(load_model(path, dtype), kind).to(device)
        logps, _ = Scorer(model)(given.inputs, given.source, given.target)
        logps.sum().backward()
        found.append(
            (logps.detach(), torch.cat([one.grad.flatten().float() for one in model.parameters()]))
        )
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() / other.norm() < tolerance
