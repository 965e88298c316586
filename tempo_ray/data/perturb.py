"""The number of clips -> perturbed orders of them: some dropped, blocks shuffled, or blocks reversed. Pure.

With n clips and strength r, where a larger r is stronger and makes an easier pair (TEMPO, arXiv 2503.16929):

- drop: max(1, n // r) clips are kept, in order;
- shuffle: blocks of max(1, n // r) neighbouring clips, in a random order;
- reverse: the same blocks, last first; inside a block the order stays.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tempo_ray.config import PerturbationType

Order = tuple[int, ...]

_ENUMERATE = (
    720  # at most so many candidates are listed; of more, one not seen before is soon drawn
)


@dataclass(frozen=True)
class Perturbation:
    type: PerturbationType
    strength: int
    order: Order


def generator(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone: the same on any node and after any retry."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def order_distance(order: Sequence[int]) -> float:
    """Kendall tau distance to the clean order: the share of pairs of shown clips that are turned round, 0 to 1."""
    pairs = len(order) * (len(order) - 1) // 2
    turned = sum(one > other for one, other in itertools.combinations(order, 2))
    return turned / pairs if pairs else 0.0


def _blocks(n: int, strength: int) -> list[Order]:
    size = max(1, n // strength)
    return [tuple(range(start, min(start + size, n))) for start in range(0, n, size)]


def _joined(blocks: Sequence[Order]) -> Order:
    return tuple(itertools.chain.from_iterable(blocks))


def _draw(n: int, kind: PerturbationType, strength: int, rng: np.random.Generator) -> Order:
    """One order as the published code draws it; it may be the clean one."""
    if kind == "drop":
        return tuple(sorted(rng.permutation(n)[: max(1, n // strength)].tolist()))
    blocks = _blocks(n, strength)
    if kind == "reverse":
        return _joined(blocks[::-1])
    return _joined([blocks[index] for index in rng.permutation(len(blocks))])


def _candidates(
    n: int, kind: PerturbationType, strength: int, rng: np.random.Generator
) -> Iterator[Order]:
    """Orders of this kind and strength in a random order, each once where they are few; else draws without end."""
    blocks = _blocks(n, strength)
    kept = max(1, n // strength)
    few: list[Order] | None = None
    if kind == "reverse":
        few = [_joined(blocks[::-1])]
    elif kind == "drop" and math.comb(n, kept) <= _ENUMERATE:
        few = list(itertools.combinations(range(n), kept))
    elif kind == "shuffle" and len(blocks) <= 6:  # 6! = 720
        few = [_joined(order) for order in itertools.permutations(blocks)]
    if few is None:
        while True:
            yield _draw(n, kind, strength, rng)
    yield from (few[index] for index in rng.permutation(len(few)))


def distinct(
    n: int, types: Sequence[PerturbationType], strengths: Sequence[int], seed: int, video_id: str
) -> list[Perturbation]:
    """Perturbations that differ from the clean order and from each other; for a small n there are fewer of them.

    The strongest are found first, and reversals before shuffles at every strength, since a reversal has one order and a
    shuffle may take another. Returned from the strongest to the weakest, types in the order given.
    """
    seen: set[Order] = {tuple(range(n))}
    found: list[Perturbation] = []
    for kind in sorted(set(types), key=lambda name: name != "reverse"):
        for strength in sorted(set(strengths), reverse=True):
            rng = generator(seed, video_id, kind, strength)
            for order in _candidates(n, kind, strength, rng):
                if order not in seen:
                    seen.add(order)
                    found.append(Perturbation(kind, strength, order))
                    break
    return sorted(found, key=lambda one: (-one.strength, list(types).index(one.type)))


def reference(
    n: int, types: Sequence[PerturbationType], strengths: Sequence[int], seed: int, video_id: str
) -> list[Perturbation]:
    """Every type at every strength as the published code makes them: strengths that collapse and unchanged orders included."""
    return [
        Perturbation(
            kind, strength, _draw(n, kind, strength, generator(seed, video_id, kind, strength))
        )
        for strength in sorted(set(strengths), reverse=True)
        for kind in types
    ]
