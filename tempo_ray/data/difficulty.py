"""Two answers -> how far apart they are, in words. Pure."""

from collections.abc import Sequence


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Levenshtein distance: fewest words put in, taken out or changed."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def text_distance(chosen: str, rejected: str) -> float:
    """Word-level edit distance over the longer length: 0 for the same text, 1 for nothing in common."""
    one, other = chosen.split(), rejected.split()
    return edit_distance(one, other) / max(len(one), len(other), 1)


def length_ratio(chosen: str, rejected: str) -> float | None:
    """Words of rejected over words of chosen; None where chosen is empty."""
    words = len(chosen.split())
    return len(rejected.split()) / words if words else None
