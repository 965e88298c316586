"""Settings -> DeepSpeed's config, its engine, and the trained weights back out of it."""

import math
import sys
import types
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.utils import logger
from transformers.integrations import HfDeepSpeedConfig

from tempo_ray.config import DeepSpeedConfig, OptimizerConfig

UNDECAYED = ("bias", "norm")


def engine_config(
    settings: DeepSpeedConfig, optimizer: OptimizerConfig, universal: bool = False
) -> dict[str, Any]:
    """`universal`: what is loaded is a universal checkpoint.

    torch's own AdamW, because DeepSpeed's are compiled on first use. The learning rate is set by us at every step, and so is
    the accumulation boundary: a micro-batch is what one call brings.
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage:
        zero |= {"contiguous_gradients": True, "reduce_bucket_size": 50_000_000}
        if not torch.cuda.is_available():
            zero["overlap_comm"] = False  # it needs streams
    if settings.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = settings.whole_below
    if settings.offload_optimizer and settings.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.grad_clip,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        # ZeRO-3 makes a model's buffers of its dtype; rotary frequencies in bfloat16 are other positions
        "data_types": {"keep_in_fp32_modules": ["inv_freq"]},
        "zero_optimization": zero,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.lr,
                "betas": [optimizer.beta1, optimizer.beta2],
                "torch_adam": True,
            },
        },
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
        "checkpoint": {"load_universal": universal},
    }


def learning_rate(step: int, steps: int, optimizer: OptimizerConfig) -> float:
    """Of the step-th of `steps`, counted from 0: linear warm-up, then a cosine to zero."""
    warmup = math.ceil(optimizer.warmup * steps)
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    return optimizer.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _spare_muon() -> None:
    """DeepSpeed asks of every optimizer whether it is Muon, and importing Muon costs seconds: it readies torch.compile.
    Nothing here is Muon, so the question is answered with a class that nothing is."""
    module = types.ModuleType("deepspeed.runtime.zero.muon.muon_optimizer")
    vars(module)["MuonWithAuxAdam"] = type("MuonWithAuxAdam", (), {})
    sys.modules.setdefault(module.__name__, module)


def prepare() -> None:
    """Must run before DeepSpeed starts: quiet, and no C++ compiled. The process group exists already."""
    logger.setLevel("WARNING")
    # its shared-memory collectives are compiled at start otherwise: 98 s, and a compiler is needed
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    _spare_muon()
    deepspeed.init_distributed(auto_mpi_discovery=False)


def sharded_loading(settings: DeepSpeedConfig, config: dict[str, Any]) -> HfDeepSpeedConfig | None:
    """While this object lives, from_pretrained shards the weights as it loads them."""
    return HfDeepSpeedConfig(config) if settings.zero_stage == 3 else None


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that are trained; biases and norms do not decay."""
    trained = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
    decayed = [one for name, one in trained if not any(word in name for word in UNDECAYED)]
    others = [one for name, one in trained if any(word in name for word in UNDECAYED)]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_engine(module: torch.nn.Module, config: dict[str, Any], weight_decay: float) -> Any:
    return deepspeed.initialize(
        model=module, model_parameters=parameter_groups(module, weight_decay), config=config
    )[0]


def make_frozen_engine(module: torch.nn.Module, config: dict[str, Any]) -> Any:
    """For forwards only: ZeRO-3 keeps it sharded, the other stages have nothing to shard."""
    module.requires_grad_(False)
    inference = {name: value for name, value in config.items() if name != "optimizer"}
    if config["zero_optimization"]["stage"] != 3:
        inference["zero_optimization"] = {"stage": 0}
    return deepspeed.initialize(model=module, config=inference)[0]


def state_bytes(engine: Any) -> int:
    """About what a save takes: weights, float32 copies and AdamW's two moments of all that is trained."""
    trained = sum(
        getattr(one, "ds_numel", one.numel())
        for one in engine.module.parameters()
        if one.requires_grad
    )
    return 16 * trained


def trained_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters, whole, on rank 0's CPU; empty on the other ranks. All ranks must call it."""
    keep = torch.distributed.get_rank() == 0
    weights = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if keep:
                weights[name] = parameter.detach().cpu().clone()
    return weights
