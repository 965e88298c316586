"""Settings -> DeepSpeed's config, policy and reference in its engines, and trained weights back."""

import math
import sys
import types
from typing import Any

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.utils import logger
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from tempo_ray.config import DeepSpeedConfig, OptimizerConfig
from tempo_ray.models.vlm import load_model
from tempo_ray.train.attention import use_packed_attention
from tempo_ray.train.lora import add_adapter, train_all_weights
from tempo_ray.train.policy import LogProbs, Policy
from tempo_ray.train.stage.context import StageContext

NO_WEIGHT_DECAY = ("bias", "norm")
"""Parts of the names of parameters that do not decay."""


def initialise_deepspeed() -> None:
    """Before any engine: quiet, and without compiling C++. The process group exists already."""
    logger.setLevel("WARNING")
    # its shared-memory collectives would be compiled at start: 98 s, and a compiler is needed
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
    _stub_muon()
    deepspeed.init_distributed(auto_mpi_discovery=False)


def _stub_muon() -> None:
    """DeepSpeed asks whether an optimiser is Muon, and importing Muon costs seconds because it sets
    up torch.compile. None of ours is, so the question is answered by a stub."""
    module = types.ModuleType("deepspeed.runtime.zero.muon.muon_optimizer")
    vars(module)["MuonWithAuxAdam"] = type("MuonWithAuxAdam", (), {})
    sys.modules.setdefault(module.__name__, module)


def engine_config(
    settings: DeepSpeedConfig, optimizer: OptimizerConfig, universal: bool = False
) -> dict[str, Any]:
    """DeepSpeed's own config; `universal`: it will load a universal checkpoint.

    torch's AdamW, because DeepSpeed's are compiled on first use. The step sets the learning rate
    and the boundary of gradient accumulation: a micro-batch is one packed row.
    """
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage:
        zero |= {"contiguous_gradients": True, "reduce_bucket_size": 50_000_000}
        if not torch.cuda.is_available():
            zero["overlap_comm"] = False  # it needs streams
    if settings.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = settings.param_persistence_threshold
    if settings.offload_optimizer and settings.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.grad_clip,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        # ZeRO-3 casts buffers to its dtype; rotary frequencies in bfloat16 are other positions
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
    """Of step `step` of `steps`, counted from 0: linear warm-up, then a cosine decay to zero."""
    warmup = math.ceil(optimizer.warmup * steps)
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    return optimizer.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def sharded_loading(settings: DeepSpeedConfig, config: dict[str, Any]) -> HfDeepSpeedConfig | None:
    """While the returned object lives, from_pretrained shards weights as it loads them."""
    return HfDeepSpeedConfig(config) if settings.zero_stage == 3 else None


def make_policy(context: StageContext, universal: bool = False) -> Policy:
    """The stage's policy and reference, in DeepSpeed engines; all ranks must call it.

    `universal`: a universal checkpoint will be loaded into it.

    Raises:
        InvalidModel: a model's files do not hold all of its weights.
    """
    settings, objective = context.config.deepspeed, context.objective.config
    config = engine_config(settings, objective.optimizer, universal)
    sharded = sharded_loading(settings, config)
    model, adapter = _trainable_model(context)
    # ranks load at different speeds, and DeepSpeed's own process group times out after ten minutes
    dist.barrier()
    weight_decay = objective.optimizer.weight_decay
    engine = _make_engine(LogProbs(model, adapter), config, weight_decay)
    reference = None
    reference_path = context.objective.separate_reference(context.start, context.initial)
    if reference_path is not None:
        frozen = use_packed_attention(load_model(reference_path, context.dtype), context.attention)
        reference = _make_frozen_engine(LogProbs(frozen.eval()), config)
    del sharded
    return Policy(engine, reference, context.attention == "flex")


def _trainable_model(context: StageContext) -> tuple[PreTrainedModel, PeftModel | None]:
    objective = context.objective.config
    model = use_packed_attention(load_model(context.start, context.dtype), context.attention)
    adapter = None
    if objective.lora is None:
        train_all_weights(model, objective.train_vision)
    else:
        adapter = add_adapter(model, objective.lora, context.seed, objective.train_vision)
    if context.config.deepspeed.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    return model, adapter


def _make_engine(module: torch.nn.Module, config: dict[str, Any], weight_decay: float) -> Any:
    return deepspeed.initialize(
        model=module, model_parameters=parameter_groups(module, weight_decay), config=config
    )[0]


def _make_frozen_engine(module: torch.nn.Module, config: dict[str, Any]) -> Any:
    """For forward passes only: ZeRO-3 keeps it sharded, the other stages have nothing to shard."""
    module.requires_grad_(False)
    inference = {name: value for name, value in config.items() if name != "optimizer"}
    if config["zero_optimization"]["stage"] != 3:
        inference["zero_optimization"] = {"stage": 0}
    return deepspeed.initialize(model=module, config=inference)[0]


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters; biases and norms do not decay."""
    decayed: list[torch.nn.Parameter] = []
    undecayed: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = not any(word in name for word in NO_WEIGHT_DECAY)
        (decayed if decays else undecayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def state_bytes(engine: Any) -> int:
    """Estimated bytes of a checkpoint: weights, their float32 copies and AdamW's two moments of all
    trained parameters."""
    elements = 0
    for parameter in engine.module.parameters():
        if parameter.requires_grad:  # ds_numel: elements before ZeRO-3 sharded the parameter
            elements += getattr(parameter, "ds_numel", parameter.numel())
    return 16 * elements


def trained_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters, unsharded, on rank 0's CPU; empty on the other ranks. All ranks must
    call it."""
    weights = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if dist.get_rank() == 0:
                weights[name] = parameter.detach().cpu().clone()
    return weights
