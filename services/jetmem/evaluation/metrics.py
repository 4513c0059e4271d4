"""Figures from rankings and timings; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

#: Of the data sets in LoCoMo's form.
CATEGORIES: Final[Mapping[int, str]] = {
    1: "multi-hop",
    2: "temporal",
    3: "open-domain",
    4: "single-hop",
    5: "adversarial",
}


class Scores(msgspec.Struct, frozen=True):
    """How well one ranking, or the mean of many, found the evidence; `n` rankings."""

    recall_5: float
    recall_10: float
    recall_20: float
    hit_10: float
    ndcg_10: float
    n: int = 1


_SCORES: Final = ("recall_5", "recall_10", "recall_20", "hit_10", "ndcg_10")


def recall(ranked: Sequence[str], evidence: frozenset[str], k: int) -> float:
    """Share of the evidence among the first k; `evidence` is not empty."""
    return len(evidence.intersection(ranked[:k])) / len(evidence)


def ndcg(ranked: Sequence[str], evidence: frozenset[str], k: int) -> float:
    """Normalised discounted cumulative gain with binary relevance; an id that comes twice counts once."""
    gained, seen = 0.0, set[str]()
    for rank, found in enumerate(ranked[:k], 1):
        if found in evidence and found not in seen:
            gained += 1 / math.log2(rank + 1)
            seen.add(found)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(evidence)) + 1))


def score(ranked: Sequence[str], evidence: frozenset[str]) -> Scores:
    """Score one ranking."""
    return Scores(
        recall_5=recall(ranked, evidence, 5),
        recall_10=recall(ranked, evidence, 10),
        recall_20=recall(ranked, evidence, 20),
        hit_10=float(not evidence.isdisjoint(ranked[:10])),
        ndcg_10=ndcg(ranked, evidence, 10),
    )


def mean(scores: Iterable[Scores]) -> Scores:
    """The mean of single rankings; zeros for none."""
    every = list(scores)
    count = max(1, len(every))
    means = {name: math.fsum(getattr(each, name) for each in every) / count for name in _SCORES}
    return Scores(**means, n=len(every))


def by_category(scores: Sequence[tuple[int, Scores]]) -> dict[int, Scores]:
    """Means per category, in the order of their numbers."""
    return {kind: mean(each for of, each in scores if of == kind) for kind in sorted({of for of, _ in scores})}


class Spread(msgspec.Struct, frozen=True):
    """Timings in milliseconds."""

    p50: float
    p95: float
    p99: float
    worst: float
    n: int


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` of all do not exceed (nearest rank); 0 for none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else 0.0


def spread(seconds: Sequence[float]) -> Spread:
    """Percentiles of timings taken in seconds."""
    p50, p95, p99, worst = (percentile(seconds, share) * 1000 for share in (0.5, 0.95, 0.99, 1.0))
    return Spread(p50, p95, p99, worst, len(seconds))
