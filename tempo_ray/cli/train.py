"""Pairs -> an aligned and fine-tuned model: curriculum DPO and SFT, by Ray Train and DeepSpeed.

    tempo-ray train --config embedded run=runs/try sft.data=my/instructions.json
    ray job submit --working-dir . -- python jobs/train.py --config cluster run=s3://bucket/run \\
        sft.data=s3://bucket/instructions.json

Trains the stages of the recipe one after the other. RUN/model is the merged model; RUN/stages has
the adapter, merged model and figures of each stage, RUN/train/tensorboard the curves. The same
command resumes: finished stages are kept, an unfinished one starts from its last checkpoint.
"""

import sys

from tempo_ray.config import TrainConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import print_line, running, user_errors


def main(argv: list[str] | None = None) -> None:
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        config = parse_args(TrainConfig, __doc__, words, section="train")
        with running("train", config.run, config) as job:
            from tempo_ray.train.run.job import train

            train(config, job, print_line)
