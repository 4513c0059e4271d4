"""What kinds of tasks there are, and what works and what fails in each.

Spherical k-means (Dhillon and Modha, 2001) over task vectors, from a fixed seed over rows in a fixed order; as many
clusters as sqrt(n / 2) (Mardia and others, 1979), at most `CLUSTERS_MAX`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from sklearn.cluster import KMeans

from jetmem.domain.procedures import estimate
from jetmem.domain.procedures.kernels import Floats, Situations
from jetmem.domain.procedures.statistics import wilson

CLUSTERS_MAX: Final = 24
_SEED: Final = 11
_STARTS: Final = 3
#: Of each cluster.
EXAMPLES: Final = 3
NAMED: Final = 5
#: From this lift on a procedure works: one that is alone in its cluster has 1, but for rounding.
_USUAL: Final = 1.0 - 1e-9


class Works(msgspec.Struct, frozen=True):
    """A procedure in one cluster: share of its runs there that succeeded, `lift` that over the cluster's share."""

    procedure: str
    rate: float
    lift: float
    lower: float
    runs: int


class Insight(msgspec.Struct, frozen=True):
    """One cluster: tasks nearest its middle, contexts that are frequent, what works, what fails.

    What works does as well there as the cluster's runs or better, what fails worse. First comes what is expected to do
    best, or worst, of rates drawn to those everywhere: what one run tells comes late.
    """

    size: int
    runs: int
    rate: float
    examples: tuple[str, ...]
    contexts: tuple[tuple[str, str, int], ...]
    works: tuple[Works, ...]
    fails: tuple[Works, ...]


def insights(situations: Situations, successes: Floats, runs: Floats, procedures: Sequence[str]) -> list[Insight]:
    """Sum up; `successes` and `runs` are (situations, procedures). Largest cluster first; none of no situations."""
    if not len(situations):
        return []
    distinct = len(np.unique(situations.vectors, axis=0))
    clusters = max(1, min(CLUSTERS_MAX, distinct, round(math.sqrt(len(situations) / 2))))
    made = KMeans(clusters, n_init=_STARTS, random_state=_SEED).fit(situations.vectors)
    rate = estimate.rates(successes.sum(0), runs.sum(0))
    found = []
    for number in range(clusters):
        rows = np.flatnonzero(made.labels_ == number)
        if len(rows):
            near = rows[np.argsort(-(situations.vectors[rows] @ made.cluster_centers_[number]), kind="stable")]
            found.append(_one(situations.take(near), successes[rows].sum(0), runs[rows].sum(0), rate, procedures))
    return sorted(found, key=lambda each: (-each.size, each.examples))


def _one(tasks: Situations, successes: Floats, runs: Floats, rate: Floats, procedures: Sequence[str]) -> Insight:
    here = float(successes.sum()) / max(1.0, float(runs.sum()))
    shrunk = estimate.shrunk(successes, runs, rate, estimate.CONTEXT_RUNS)
    works: list[Works] = []
    fails: list[Works] = []
    for i in np.argsort(-shrunk, kind="stable"):
        if not runs[i]:
            continue
        share = float(successes[i]) / float(runs[i])
        lift = share / here if here else 0.0
        one = Works(procedures[i], share, lift, wilson(float(successes[i]), float(runs[i]))[0], int(runs[i]))
        (works if lift >= _USUAL else fails).append(one)
    pairs = Counter((name, value) for each in tasks.contexts for name, value in each.items())
    contexts = sorted(((n, v, c) for (n, v), c in pairs.items()), key=lambda each: (-each[2], each))[:EXAMPLES]
    texts = tuple(dict.fromkeys(tasks.texts))  # a task that was tried in two contexts is one
    best, worst = tuple(works[:NAMED]), tuple(fails[::-1][:NAMED])
    return Insight(len(texts), int(runs.sum()), here, texts[:EXAMPLES], tuple(contexts), best, worst)
