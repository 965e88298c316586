"""Ask models at an endpoint a benchmark's questions and score them; or compare two score files.

    tempo-ray evaluate run=runs/one models='[base, tempo]' questions=data/test/questions.jsonl
    tempo-ray evaluate compare runs/one/scores/base.parquet runs/one/scores/tempo.parquet

Writes scores/MODEL.parquet, one row per question, and summary/evaluate.json. With two models or
more, each is compared with the first on the same questions: difference, 95% bootstrap interval over
videos, McNemar's exact p. The endpoint's token is read from the environment variable
TEMPO_RAY_TOKEN.
"""

import sys

from tempo_ray.config import EvaluateConfig
from tempo_ray.config.load import parse_args
from tempo_ray.errors import UserError
from tempo_ray.job import print_line, running, user_errors


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    with user_errors():
        if words[:1] == ["compare"]:
            compare(words[1:])
        else:
            evaluate(words)


def evaluate(words: list[str]) -> None:
    config = parse_args(EvaluateConfig, __doc__, words, section="evaluate")
    with running("evaluate", config.run, config) as job:
        from tempo_ray.evaluate.run import evaluate

        evaluate(config, job, print_line)


def compare(files: list[str]) -> None:
    if len(files) != 2:
        raise UserError(
            "compare takes two score files: tempo-ray evaluate compare A.parquet B.parquet"
        )

    from tempo_ray.evaluate.run import compare_files

    print(compare_files(*files))
