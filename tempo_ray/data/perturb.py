"""The number of clips -> perturbed orders of them: some dropped, blocks shuffled, blocks reversed.

Pure. With n clips and strength r, where a larger r is stronger and makes an easier pair (TEMPO,
arXiv 2503.16929):

- drop: max(1, n // r) clips are kept, in order;
- shuffle: blocks of max(1, n // r) consecutive clips, in a random order;
- reverse: the same blocks, last first; within a block the order stays.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from tempo_ray.config import PerturbationType

Order = tuple[int, ...]

_MAX_LISTED = 720
"""Up to this many candidates are listed; of more, an unseen one is soon drawn."""


@dataclass(frozen=True)
class Perturbation:
    type: PerturbationType
    strength: int
    order: Order
    """Clip indices as they are shown."""


def generator(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone: the same on any node and after any retry."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def order_distance(order: Sequence[int]) -> float:
    """Kendall tau distance to the clean order: the share of pairs of shown clips that are inverted,
    0 to 1."""
    pairs = len(order) * (len(order) - 1) // 2
    inverted = sum(earlier > later for earlier, later in itertools.combinations(order, 2))
    return inverted / pairs if pairs else 0.0


def _blocks(n: int, strength: int) -> list[Order]:
    size = max(1, n // strength)
    return [tuple(range(start, min(start + size, n))) for start in range(0, n, size)]


def _joined(blocks: Sequence[Order]) -> Order:
    return tuple(itertools.chain.from_iterable(blocks))


def _kept(permutation: Int[np.ndarray, " n"], strength: int) -> Order:
    """Drops all clips but the first n // r of a permutation."""
    return tuple(sorted(permutation[: max(1, len(permutation) // strength)].tolist()))


def _shuffled(blocks: Sequence[Order], permutation: Int[np.ndarray, " blocks"]) -> Order:
    return _joined([blocks[index] for index in permutation])


def _draw(n: int, kind: PerturbationType, strength: int, rng: np.random.Generator) -> Order:
    """One order as the published code draws it; it may be the clean one."""
    if kind == "drop":
        return _kept(rng.permutation(n), strength)
    blocks = _blocks(n, strength)
    if kind == "reverse":
        return _joined(blocks[::-1])
    return _shuffled(blocks, rng.permutation(len(blocks)))


def _listed(n: int, kind: PerturbationType, strength: int) -> list[Order] | None:
    """Every order of this kind and strength; None where there are too many."""
    blocks = _blocks(n, strength)
    kept = max(1, n // strength)
    if kind == "reverse":
        return [_joined(blocks[::-1])]
    if kind == "drop" and math.comb(n, kept) <= _MAX_LISTED:
        return list(itertools.combinations(range(n), kept))
    if kind == "shuffle" and math.factorial(len(blocks)) <= _MAX_LISTED:
        return [_joined(order) for order in itertools.permutations(blocks)]
    return None


def _candidates(
    n: int, kind: PerturbationType, strength: int, rng: np.random.Generator
) -> Iterator[Order]:
    """Orders of this kind and strength in random order: each once where they are few, otherwise
    draws without end."""
    listed = _listed(n, kind, strength)
    if listed is None:
        while True:
            yield _draw(n, kind, strength, rng)
    yield from (listed[index] for index in rng.permutation(len(listed)))


def distinct(
    n: int, types: Sequence[PerturbationType], strengths: Sequence[int], seed: int, video_id: str
) -> list[Perturbation]:
    """Perturbations that differ from the clean order and from each other. A small n has fewer.

    They are drawn strongest first, and reversals before the other types: a reversal has only one
    order, where a shuffle can take another. Returned from strongest to weakest, types as given.
    """
    seen: set[Order] = {tuple(range(n))}
    perturbations: list[Perturbation] = []
    for kind in sorted(set(types), key=lambda name: (name != "reverse", name)):
        for strength in sorted(set(strengths), reverse=True):
            rng = generator(seed, video_id, kind, strength)
            for order in _candidates(n, kind, strength, rng):
                if order not in seen:
                    seen.add(order)
                    perturbations.append(Perturbation(kind, strength, order))
                    break
    rank = list(types).index
    return sorted(perturbations, key=lambda drawn: (-drawn.strength, rank(drawn.type)))


def published(
    n: int, types: Sequence[PerturbationType], strengths: Sequence[int], seed: int, video_id: str
) -> list[Perturbation]:
    """Every type at every strength as the published code makes them, strengths that collapse and
    unchanged orders included."""
    return [
        Perturbation(
            kind, strength, _draw(n, kind, strength, generator(seed, video_id, kind, strength))
        )
        for strength in sorted(set(strengths), reverse=True)
        for kind in types
    ]
