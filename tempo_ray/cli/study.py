"""Compare ways of training: a declared table of arms x seeds, through the same jobs.

    tempo-ray study --config study run=runs/study

Every arm is trained and asked for every seed; what arms have in common is made once. Writes
table.md, table.parquet and study.png: accuracies, paired differences to the baseline with 95%
intervals over videos and seeds, and p-values corrected after Holm. An interrupted study resumes
with the same command.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from tempo_ray.config import StudyConfig
from tempo_ray.config.load import parse_args
from tempo_ray.job import print_line, running, user_errors


def main(argv: list[str] | None = None) -> None:
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        config = parse_args(StudyConfig, __doc__, words, section="study")
        from tempo_ray.processes import JobFailed, Jobs
        from tempo_ray.study.plan import make_plan
        from tempo_ray.study.run import run_study

        plan = make_plan(config)
        with running("study", config.run, config):
            try:
                jobs = Jobs(Path(config.run, "logs"), config.config)
                run_study(config, plan, jobs, print_line)
            except JobFailed as failure:
                print(failure, file=sys.stderr)
                raise SystemExit(1) from None
            write_results(config)


def write_results(config: StudyConfig) -> None:
    """The tables and the plot, from the scores of all arms and seeds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tempo_ray.report.study import draw_study
    from tempo_ray.study.plan import make_plan
    from tempo_ray.study.run import read_all_scores
    from tempo_ray.study.table import markdown, study_rows

    rows = study_rows(read_all_scores(make_plan(config)), config.baseline)
    folder = Path(config.run)
    table = markdown(rows)
    (folder / "table.md").write_text(table)
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), folder / "table.parquet")
    draw_study([asdict(row) for row in rows], folder / "study.png")
    print(f"\n{table}\n{folder / 'table.md'}, table.parquet and study.png beside it")
