"""Two answers -> how far apart they are, in words. Pure."""

from collections.abc import Sequence


def edit_distance(source: Sequence[str], target: Sequence[str]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions."""
    row = list(range(len(target) + 1))
    for i, left in enumerate(source, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(target, 1):
            substituted = diagonal + (left != right)
            diagonal = row[j]
            row[j] = min(row[j] + 1, row[j - 1] + 1, substituted)
    return row[-1]


def text_distance(chosen: str, rejected: str) -> float:
    """Word-level edit distance over the longer length: 0 for equal texts, 1 for texts with nothing
    in common."""
    chosen_words, rejected_words = chosen.split(), rejected.split()
    longer = max(len(chosen_words), len(rejected_words), 1)
    return edit_distance(chosen_words, rejected_words) / longer


def length_ratio(chosen: str, rejected: str) -> float | None:
    """Words of rejected over words of chosen; None where chosen is empty."""
    words = len(chosen.split())
    return len(rejected.split()) / words if words else None
