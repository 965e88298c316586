"""answers/, failures/ and pairs/ -> what became of every video: in = kept + dropped + failed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from tempo_ray.config import GeneratePairsConfig, PairsConfig
from tempo_ray.data.failures import TRANSIENT_REASON
from tempo_ray.data.pairs import broken_rules
from tempo_ray.paths import RunPaths
from tempo_ray.records import PairsSummary, VideoAnswers
from tempo_ray.tables import count_rows, open_dataset

Kind = Literal["status", "reason", "answers", "rule"]
Tally = Counter[tuple[Kind, str]]
"""Rows by status, and by `STATUS: REASON`; answers; and dropped candidate pairs by the first rule
that they broke."""

_TALLY = pa.schema([("kind", pa.string()), ("name", pa.string()), ("count", pa.int64())])


def tally_rows(rows: Iterable[VideoAnswers], config: PairsConfig) -> Tally:
    """Reasons are counted without the figures that follow them in parentheses."""
    tally: Tally = Counter()
    for row in rows:
        tally["status", str(row.status)] += 1
        if row.reason is not None:
            tally["reason", f"{row.status}: {row.reason.split(' (')[0]}"] += 1
        tally["answers", "answers"] += len(row.answers)
        for rule in broken_rules(row, config):
            tally["rule", rule] += 1
    return tally


def table_of_tally(tally: Tally) -> pa.Table:
    """(kind, name, count), as a task hands it over."""
    kinds = [kind for kind, _ in tally]
    names = [name for _, name in tally]
    return pa.table([kinds, names, list(tally.values())], schema=_TALLY)


def sum_of_tallies(rows: Iterable[Mapping[str, Any]]) -> Tally:
    """Rows of `table_of_tally` -> the tally of all."""
    tally: Tally = Counter()
    for row in rows:
        tally[row["kind"], row["name"]] += row["count"]
    return tally


def count_transient(paths: RunPaths) -> int:
    """Videos in failures/ that have no row in answers/. A restarted actor may have written one
    twice, or have read it after all."""
    failures = open_dataset(paths.failures)
    if failures is None:
        return 0
    failed = set(failures.to_table(columns=["video_id"])["video_id"].to_pylist())
    answers = open_dataset(paths.answers)
    if answers is None or not failed:
        return len(failed)
    answered_too = answers.count_rows(filter=pc.field("video_id").isin(list(failed)))
    return len(failed) - int(answered_too)


def summary_of(tally: Tally, videos_in: int, transient: int, pairs: int) -> PairsSummary:
    """`transient` is the number of videos that failed transiently, `pairs` that of pairs/."""

    def counts(kind: Kind) -> Counter[str]:
        return Counter({name: count for (of_kind, name), count in tally.items() if of_kind == kind})

    statuses, reasons = counts("status"), counts("reason")
    if transient:
        reasons[f"failed: {TRANSIENT_REASON}"] += transient
    return PairsSummary(
        videos_in=videos_in,
        kept=statuses["kept"],
        dropped=statuses["dropped"],
        failed=statuses["failed"] + transient,
        to_retry=transient,
        reasons=dict(reasons.most_common()),
        answers=counts("answers").total(),
        pairs=pairs,
        pairs_dropped=dict(counts("rule").most_common()),
    )


def account(config: GeneratePairsConfig, tally: Tally, videos_in: int) -> PairsSummary:
    """The whole account of a run; `tally` is that of its answers/."""
    paths = RunPaths(config.run)
    return summary_of(tally, videos_in, count_transient(paths), count_rows(paths.pairs))


def summary_lines(summary: PairsSummary) -> list[str]:
    """The account, human-readable."""
    lines = [
        f"videos in {summary.videos_in} = kept {summary.kept} + dropped {summary.dropped} + "
        f"failed {summary.failed}; answers {summary.answers}; pairs {summary.pairs}"
    ]
    lines += [f"  {count:6d}  {reason}" for reason, count in summary.reasons.items()]
    lines += [
        f"  {count:6d}  pairs dropped by {rule}" for rule, count in summary.pairs_dropped.items()
    ]
    if summary.to_retry:
        lines.append(
            f"{summary.to_retry} videos could not be read now; the same command retries them"
        )
    return lines
