"""Compare ways of training: a declared table of arms x seeds, through the same jobs.

    tempo-ray study --config study run=runs/study

Every arm is trained and asked for every seed; what arms have in common is made once. Writes
table.md, table.parquet and study.png: accuracies, paired differences to the baseline with 95%
intervals over videos and seeds, and p-values corrected after Holm. An interrupted study resumes
with the same command.
"""

import sys
from pathlib import Path

from tempo_ray.config import StudyConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import print_line, running, user_errors


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    with user_errors():
        config = parse_args(StudyConfig, __doc__, words, section="study")
        from tempo_ray.processes import Jobs, job_failures
        from tempo_ray.report.study import write_study
        from tempo_ray.study.plan import make_plan
        from tempo_ray.study.run import read_all_scores, run_study
        from tempo_ray.study.table import study_rows

        plan = make_plan(config)
        with job_failures(), running("study", config.run, config):
            run_study(config, plan, Jobs(Path(config.run, "logs"), config.config), print_line)
            rows = study_rows(read_all_scores(plan), config.baseline)
            print_line(write_study(rows, Path(config.run)))
