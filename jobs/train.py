"""Pairs -> an aligned and fine-tuned model: curriculum DPO and SFT, by Ray Train and DeepSpeed.

    python jobs/train.py --config jobs/configs/FILE.yaml run=RUN model=MODEL [key=value ...]

Trains the recipe's stages one after the other; RUN/model is the merged model, RUN/stages has each stage's adapter, merged
model and facts, and RUN/train/tensorboard its curves. The same command goes on where it stopped: finished stages are kept,
an unfinished one starts from its last save.
"""

from tempo_ray.arguments import parse_args
from tempo_ray.config import TrainConfig


def main() -> None:
    config = parse_args(TrainConfig, __doc__, section="train")

    from tempo_ray import job
    from tempo_ray.train.plan import make_plan, resolved

    with job.running("train", config.run, config) as counts:
        config = resolved(config)
        plan = make_plan(config)
        print(plan.shown, flush=True)

        from tempo_ray.train import launch

        facts = launch.train(config, plan)
        counts |= facts
        print(launch.summary(facts))


if __name__ == "__main__":
    main()
