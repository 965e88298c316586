"""A run's answers -> its videos by richness, and the thresholds that keep the top shares."""

import numpy as np
import pyarrow.compute as pc

from tempo_ray.errors import UserError
from tempo_ray.paths import RunPaths
from tempo_ray.tables import open_dataset

SHARES = (0.75, 0.5, 0.25, 0.1)
SHOWN = 10


def rank(run: str) -> str:
    """A human-readable table of the videos that pass every rule but that of richness.

    Raises UserError where the run has none.
    """
    dataset = open_dataset(RunPaths(run).answers)
    if dataset is None:
        raise UserError(
            f"run={run}: no answers in it; make them with "
            f"tempo-ray generate-pairs run={run} videos.input=FOLDER"
        )
    is_poor = pc.starts_with(pc.field("reason"), "not rich enough")
    table = dataset.to_table(
        columns=["uri", "richness"], filter=(pc.field("status") == "kept") | is_poor
    )
    if not table.num_rows:
        raise UserError(
            f"run={run}: no video of it passes the other rules; relax select.verdict, or add videos"
        )
    table = table.sort_by([("richness", "descending"), ("uri", "ascending")])
    values = table["richness"].to_numpy()
    lines = [
        f"{len(values)} videos; richness is the entropy, in bits, of how their time is divided "
        "among scenes",
        *(_share_line(values, share) for share in SHARES),
        "the richest:",
        *(f"  {row['richness']:.3f}  {row['uri']}" for row in table.slice(0, SHOWN).to_pylist()),
    ]
    return "\n".join(lines)


def _share_line(values: np.ndarray, share: float) -> str:
    """`values` is (videos,), falling. The bound is rounded down, so that the video at it stays."""
    kept = max(1, round(share * len(values)))
    bound = np.floor(values[kept - 1] * 1000) / 1000
    videos = int((values >= bound).sum())
    return f"  select.verdict.min_richness={bound:.3f} keeps the top {share:.0%} ({videos} videos)"
