"""Train one of the tiny Video LLMs that ship with the package from nothing.

    tempo-ray pretrain-shapeworld output=runs/qwen2_5_vl family=qwen2_5_vl

Takes about 40 minutes on one CPU core. The folder gets weights, tokenizer, processor and
`pretraining.json`: settings, seconds, loss curve, and an examination on held-out stories. The same
command resumes an interrupted run.
"""

import json
import sys

from tempo_ray.config import PretrainConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import print_line, running, user_errors
from tempo_ray.storage import parent


def main(argv: list[str] | None = None) -> None:
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        config = parse_args(PretrainConfig, __doc__, words, section="pretrain_shapeworld")
        with running("pretrain_shapeworld", parent(config.output), config) as job:
            from tempo_ray.shapeworld.pretrain import pretrain_job

            job.summary = pretrain_job(config, print_line)
            print(json.dumps(job.summary.examination, indent=1))
