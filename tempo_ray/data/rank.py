"""A run's answers/ -> its videos by richness, and the threshold that keeps the top share of them."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tempo_ray.paths import RunPaths, resolve

SHARES = (0.75, 0.5, 0.25, 0.1)
SHOWN = 10


class NoAnswers(ValueError):
    """The run has no selected videos; the message says which command makes them."""


def rank(run: str) -> str:
    """A table for people. Ranked are the videos that every other rule keeps. Raises NoAnswers."""
    filesystem, folder = resolve(RunPaths(run).answers)
    try:
        data = ds.dataset(folder, filesystem=filesystem, format="parquet")
    except OSError:
        raise NoAnswers(
            f"run={run}: no answers in it; make them with jobs/generate_pairs.py run={run} videos.input=FOLDER"
        ) from None
    wanted = (pc.field("status") == "kept") | pc.starts_with(pc.field("reason"), "not rich enough")
    table = data.to_table(columns=["uri", "richness"], filter=wanted)
    if not table.num_rows:
        raise NoAnswers(f"run={run}: no video of it passes the other rules")
    table = table.sort_by([("richness", "descending"), ("uri", "ascending")])
    values = table["richness"].to_numpy()
    lines = [
        f"{len(values)} videos; richness is the entropy, in bits, of how their time is shared among scenes"
    ]
    for share in SHARES:
        kept = max(1, round(share * len(values)))
        bound = (
            np.floor(values[kept - 1] * 1000) / 1000
        )  # rounded down, so that the video at the bound stays
        lines.append(
            f"  select.verdict.min_richness={bound:.3f} keeps the top {share:.0%} ({int((values >= bound).sum())} videos)"
        )
    lines.append("the richest:")
    rows = table.slice(0, SHOWN).to_pylist()
    return "\n".join([*lines, *(f"  {row['richness']:.3f}  {row['uri']}" for row in rows)])
