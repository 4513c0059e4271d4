"""Which procedures belong together: three kinds of edges, each with a strength in 0..1 and a bounded degree.

| kind | strength |
| --- | --- |
| SIMILAR_TO | cosine of the vectors of description and steps, or of the mean task, `(cos - 0.5) / 0.5`, 0 below |
| CONTEXT_RELATED | Jaccard (1912) of where both were tried and succeeded, times n / (n + 5) |
| FOLLOWS | share of runs of a in a session that b came next after, times n / (n + 5) |

CONTEXT_RELATED counts tasks, near-equal ones as one, and context values. n / (n + 5) shrinks what was seen rarely.
Strength along a path is the product of its edges, the best path counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import networkx as nx
import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["similar_to", "context_related", "follows"]
#: Neighbours kept of each kind, the strongest.
DEGREE_MAX: Final = 16
HOPS_MAX: Final = 3
#: Reached by one walk: three hops of full degree would be 100,000.
REACHED_MAX: Final = 64
#: Paths weaker than this move nothing that anyone would see.
STRENGTH_MIN: Final = 0.05
SIMILAR_FROM: Final = 0.5
RARE: Final = 5.0


class Edge(msgspec.Struct, frozen=True, order=True):
    """From one procedure to another; SIMILAR_TO and CONTEXT_RELATED come in both directions."""

    source: str
    target: str
    kind: Kind
    strength: float


class Together(msgspec.Struct, frozen=True):
    """What CONTEXT_RELATED counts of a pair: tasks and contexts both tried, where either and where both succeeded."""

    seen: int = 0
    either: int = 0
    both: int = 0


def similar(names: Sequence[str], vectors: NDArray[np.float32]) -> list[Edge]:
    """Edges by meaning, from unit vectors (names, d); zero rows relate to nothing."""
    cosine = np.clip(vectors @ vectors.T, -1.0, 1.0)
    found = []
    for i, name in enumerate(names):
        for j in np.argsort(-cosine[i], kind="stable")[: DEGREE_MAX + 1]:
            strength = (float(cosine[i, j]) - SIMILAR_FROM) / (1.0 - SIMILAR_FROM)
            if int(j) != i and strength > 0:
                found.append(Edge(name, names[int(j)], "similar_to", min(1.0, strength)))
    return bounded(found)


def together(pair: Together, first: bool, second: bool, sign: int = 1) -> Together:
    """Count one task or context that both tried, by whether each ever succeeded there; `sign` -1 takes it back."""
    return Together(pair.seen + sign, pair.either + sign * (first or second), pair.both + sign * (first and second))


def context_strength(pair: Together) -> float:
    """Strength of CONTEXT_RELATED."""
    return pair.both / pair.either * pair.seen / (pair.seen + RARE) if pair.either > 0 else 0.0


def follows_strength(next_after: int, runs: int) -> float:
    """Strength of FOLLOWS: `next_after` of `runs` runs that had a next one in their session."""
    return next_after / runs * next_after / (next_after + RARE) if runs > 0 else 0.0


def bounded(edges: Iterable[Edge], degree: int = DEGREE_MAX) -> list[Edge]:
    """The strongest of each source and kind, ties by name; the same for every order."""
    of: dict[tuple[str, Kind], list[Edge]] = {}
    for edge in edges:
        of.setdefault((edge.source, edge.kind), []).append(edge)
    kept = [sorted(each, key=lambda e: (-e.strength, e.target))[:degree] for each in of.values()]
    return sorted(edge for each in kept for edge in each)


def graph(edges: Iterable[Edge]) -> nx.DiGraph:
    """The strongest edge of any kind between each two."""
    made = nx.DiGraph()
    for edge in sorted(edges):
        if not made.has_edge(edge.source, edge.target) or made[edge.source][edge.target]["strength"] < edge.strength:
            made.add_edge(edge.source, edge.target, strength=edge.strength, kind=edge.kind)
    return made


def reach(of: nx.DiGraph, source: str, hops: int = HOPS_MAX) -> dict[str, float]:
    """Strength of the best path to each procedure within so many hops, without `source`; at most `REACHED_MAX`.

    A walk by hops (Bellman, 1958, in the max-product form): a longer path never counts for more than it is.
    """
    if source not in of:
        return {}
    best, edge = {source: 1.0}, {source: 1.0}
    for _ in range(hops):
        further: dict[str, float] = {}
        for node, strength in edge.items():
            for target, data in of[node].items():
                along = strength * float(data["strength"])
                if along >= STRENGTH_MIN and along > max(best.get(target, 0.0), further.get(target, 0.0)):
                    further[target] = along
        best |= further
        edge = dict(sorted(further.items(), key=lambda each: (-each[1], each[0]))[:REACHED_MAX])
    del best[source]
    return dict(sorted(best.items(), key=lambda each: (-each[1], each[0]))[:REACHED_MAX])


def central(of: nx.DiGraph) -> Mapping[str, float]:
    """How much leads to each procedure: PageRank (Page and others, 1999) by strength; sums to 1."""
    ranked: Mapping[str, float] = nx.pagerank(of, weight="strength") if of else {}
    return ranked
