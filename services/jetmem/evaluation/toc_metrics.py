"""Figures of the table of contents: how much of the evidence a walk reaches, how much its bullets repeat; pure.

Baselines choose a node's bullets in the places of `extract.choose`: the first ones, random ones, all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Final

import msgspec

from jetmem.domain.extract import Floats

#: Opened segments at which coverage is told.
OPENED: Final = (1, 3, 5)


class Coverage(msgspec.Struct, frozen=True):
    """Share of the evidence turns that lie in the first 1, 3, 5 opened segments; mean of `n` questions."""

    at_1: float
    at_3: float
    at_5: float
    n: int = 1


def coverage(opened: Sequence[Collection[str]], evidence: frozenset[str]) -> Coverage:
    """Of one question.

    Args:
        opened: Event ids of each opened segment, in the order of opening; overlaps count once.
        evidence: Not empty.
    """
    one, three, five = (len(evidence.intersection(chain.from_iterable(opened[:k]))) / len(evidence) for k in OPENED)
    return Coverage(one, three, five)


def mean(each: Iterable[Coverage]) -> Coverage:
    """Mean over questions; zeros for none."""
    every = list(each)
    count = max(1, len(every))
    return Coverage(
        at_1=math.fsum(c.at_1 for c in every) / count,
        at_3=math.fsum(c.at_3 for c in every) / count,
        at_5=math.fsum(c.at_5 for c in every) / count,
        n=len(every),
    )


def cited(grips: Collection[str], evidence: frozenset[str]) -> float:
    """Share of the evidence turns, at least one, that a bullet quotes."""
    return len(evidence.intersection(grips)) / len(evidence)


def repeated_words(bullets: Sequence[frozenset[str]]) -> float:
    """Mean of each bullet's greatest Jaccard likeness to another of its node, 0..1; 0 for fewer than two."""
    return _greatest(len(bullets), lambda a, b: len(bullets[a] & bullets[b]) / max(1, len(bullets[a] | bullets[b])))


def repeated_meaning(vectors: Sequence[Floats]) -> float:
    """The same by cosine of unit vectors."""
    return _greatest(len(vectors), lambda a, b: float(vectors[a] @ vectors[b]))


def _greatest(count: int, like: Callable[[int, int], float]) -> float:
    if count < 2:
        return 0.0
    return math.fsum(max(like(a, b) for b in range(count) if b != a) for a in range(count)) / count


def lead(candidates: int, count: int) -> list[int]:
    """The baseline that takes the first."""
    return list(range(min(candidates, count)))


def at_random(candidates: int, count: int, seed: int) -> list[int]:
    """The baseline that takes any; the same for the same seed."""
    return sorted(random.Random(seed).sample(range(candidates), min(candidates, count)))
