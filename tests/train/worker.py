"""What one worker runs in tests of a stage: torch's process group as Ray Train would make it, and no Ray.

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
from tempo_ray.train import deepspeed
from tempo_ray.train.learner import Work
from tempo_ray.train.loop import stage_groups
from tempo_ray.train.stage import Outside, train_stage


def train(config: TrainConfig, name: str, out: str, apart: bool) -> None:
    work = Work(config, name, "sft" if name == "sft" else "align", config.model, config.model, 0)
    result = Path(out, f"result-{dist.get_rank()}")
    result.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        if dist.get_rank() == 0:
            print(line, flush=True)

    # a folder of its own for each worker is what nodes without a common disk have
    saves = Path(out, f"saves-{dist.get_rank()}" if apart else "saves")
    outside = Outside(tell, lambda entry: None, str(saves), result, Path(out, "events", name))
    facts = train_stage(work, stage_groups(config, name), outside)
    if dist.get_rank() == 0:
        Path(out, "facts.json").write_text(json.dumps(facts))


def main(file: str) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    deepspeed.prepare()
    for stage in json.loads(Path(file).read_text()):
        train(
            TrainConfig.model_validate(stage["config"]), stage["name"], stage["out"], stage["apart"]
        )


main(sys.argv[1])
