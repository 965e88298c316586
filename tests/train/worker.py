"""What one worker runs in tests of a stage: torch's process group as Ray Train would set it up, and
no Ray.

python -m torch.distributed.run --nproc-per-node N tests/train/worker.py STAGES.json
"""

import json
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
import torch.distributed as dist

from tempo_ray.config import TrainConfig
from tempo_ray.records import StageSpec, write_row
from tempo_ray.train.objective import objective_of
from tempo_ray.train.run.plan import stage_examples
from tempo_ray.train.stage.context import StageContext, StageIO
from tempo_ray.train.stage.loop import train_stage
from tempo_ray.train.stage.zero import initialise_deepspeed


def make_context(config: TrainConfig, name: str) -> StageContext:
    """The first stage of a run."""
    spec = StageSpec(name, "sft" if name == "sft" else "dpo", 0, "content", "digest")
    objective = objective_of(spec.objective, config)
    return StageContext(config, spec, objective, config.model, config.model)


def train(config: TrainConfig, name: str, out: str, separate_disks: bool) -> None:
    output = Path(out, f"result-{dist.get_rank()}")
    output.mkdir(parents=True, exist_ok=True)

    def log(line: str) -> None:
        if dist.get_rank() == 0:
            print(line, flush=True)

    # a folder per worker is what nodes without a shared disk have
    checkpoints = f"checkpoints-{dist.get_rank()}" if separate_disks else "checkpoints"
    io = StageIO(
        log=log,
        observe=lambda metrics: None,
        checkpoints=str(Path(out, checkpoints)),
        output=output,
        tensorboard=Path(out, "tensorboard", name),
    )
    result = train_stage(make_context(config, name), stage_examples(config, name), io)
    if dist.get_rank() == 0:
        Path(out, "result.json").write_text(json.dumps(write_row(result)))


def main(file: str) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    initialise_deepspeed()
    for stage in json.loads(Path(file).read_text()):
        config = TrainConfig.model_validate(stage["config"])
        train(config, stage["name"], stage["out"], stage["separate_disks"])


if __name__ == "__main__":
    main(sys.argv[1])
