"""Train one of the tiny Video LLMs that ship with the package, from nothing; about 40 minutes on one CPU core.

    python jobs/pretrain_shapeworld.py output=runs/qwen2_5_vl family=qwen2_5_vl

The folder gets weights, tokenizer, processor and `pretraining.json`: settings, seconds, loss curve, and an examination on
held-out stories. The same command goes on where it stopped.
"""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from tempo_ray.arguments import parse_args
from tempo_ray.config import PretrainConfig


def main() -> None:
    config = parse_args(PretrainConfig, __doc__)

    import torch

    from tempo_ray import job
    from tempo_ray.shapeworld.exam import examine
    from tempo_ray.shapeworld.pretrain import PretrainSettings, pretrain

    torch.set_num_threads(config.threads)
    output = Path(config.output)
    with job.running("pretrain_shapeworld", str(output.parent), config) as counts:
        settings = PretrainSettings(config.family, seed=config.seed, steps=config.steps)
        record = pretrain(settings, output, lambda line: print(line, flush=True))
        record["machine"] = (
            f"{os.cpu_count()} CPU cores, {platform.machine()}, {config.threads} used"
        )
        record["date"] = time.strftime("%Y-%m-%d")
        record["versions"] = {name: version(name) for name in ("torch", "transformers")}
        record["examination"] = counts["examination"] = examine(output)
        (output / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record["examination"], indent=1))


if __name__ == "__main__":
    main()
