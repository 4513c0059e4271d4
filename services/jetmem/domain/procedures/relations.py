"""Which procedures belong together: three kinds of edges, each with a strength in 0..1 and a bounded degree.

| kind | strength |
| --- | --- |
| SIMILAR_TO | cosine of the vectors of description and steps, or of the mean task, `(cos - 0.5) / 0.5`, 0 below |
| CONTEXT_RELATED | Jaccard (1912) of where both were tried and succeeded, times n / (n + 5) |
| FOLLOWS | share of runs of a in a session that b came next after, times n / (n + 5) |

CONTEXT_RELATED counts tasks, near-equal ones as one, and context values. n / (n + 5) shrinks what was seen rarely.
Strength along a path is the product of its edges, the best path of so many hops counts: the shortest one over
-log(strength) (Dijkstra, 1959) in a graph that holds every procedure once for each hop, which bounds them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from jetmem.domain.procedures.kernels import Floats

Kind: TypeAlias = Literal["similar_to", "context_related", "follows"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
#: Neighbours kept of each kind, the strongest.
DEGREE_MAX: Final = 16
HOPS_MAX: Final = 3
#: Moved by one run: three hops of full degree would be 100,000.
REACHED_MAX: Final = 64
#: Paths weaker than this move nothing that anyone would see.
STRENGTH_MIN: Final = 0.05
SIMILAR_FROM: Final = 0.5
RARE: Final = 5.0
#: Procedures whose paths are looked for at once: 1 ms each at worst, in which no other thread runs.
_AT_ONCE: Final = 8


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


@dataclass(frozen=True, slots=True)
class Graph:
    """Edges as arrays, by the number of their ends in `names`, in order of source, target and falling strength."""

    names: list[str]
    source: NDArray[np.int32]
    target: NDArray[np.int32]
    kind: NDArray[np.int8]
    strength: Floats

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        arrays = (self.source, self.target, self.kind, self.strength)
        return sum(each.nbytes for each in arrays) + sum(map(len, self.names))

    def strongest(self, kinds: Collection[Kind] = KINDS) -> Graph:
        """The strongest edge between each two, of these kinds."""
        kept = np.flatnonzero(np.isin(self.kind, [KINDS.index(each) for each in kinds]))
        ends = self.source[kept].astype(np.int64) * len(self.names) + self.target[kept]
        kept = kept[np.diff(ends, prepend=-1) != 0]
        return Graph(self.names, self.source[kept], self.target[kept], self.kind[kept], self.strength[kept])


def graph(edges: Iterable[Edge]) -> Graph:
    """A graph of edges, of which no two have the same ends and kind; strengths are above 0."""
    found = sorted(edges, key=lambda e: (e.source, e.target, -e.strength, e.kind))
    names = sorted({name for edge in found for name in (edge.source, edge.target)})
    number = {name: at for at, name in enumerate(names)}
    return Graph(
        names,
        np.array([number[edge.source] for edge in found], np.int32),
        np.array([number[edge.target] for edge in found], np.int32),
        np.array([KINDS.index(edge.kind) for edge in found], np.int8),
        np.array([edge.strength for edge in found], np.float64),
    )


class Path(msgspec.Struct, frozen=True):
    """The strongest way to a procedure: every procedure on it, both ends too, and the kind of its last edge."""

    names: list[str]
    strength: float
    kind: Kind


def paths(of: Graph, source: str, hops: int = HOPS_MAX, kinds: Collection[Kind] = KINDS, most: int = 100) -> list[Path]:
    """Strongest paths from a procedure over edges of these kinds, the strongest first, ties by name.

    Args:
        of: The graph.
        source: Where they begin; one that has no edges reaches nothing.
        hops: Edges of a path at most; of two as strong, the one of fewer counts.
        kinds: Kinds of edges.
        most: Paths at most.
    """
    start = bisect_left(of.names, source)
    if source not in of.names[start : start + 1]:
        return []
    steps, count = of.strongest(kinds), len(of.names)
    far, before = dijkstra(_layered(steps, hops), indices=start, return_predecessors=True)
    layers = far.reshape(hops + 1, count)[1:]
    layers[:, start] = np.inf
    nearest, layer = layers.min(0), layers.argmin(0)
    ends = steps.source.astype(np.int64) * count + steps.target
    found = []
    for end in np.argsort(nearest, kind="stable")[: min(most, int(np.isfinite(nearest).sum()))]:
        nodes = [(int(layer[end]) + 1) * count + int(end)]
        while nodes[-1] != start:
            nodes.append(int(before[nodes[-1]]))
        way = [node % count for node in reversed(nodes)]
        taken = np.searchsorted(ends, [one * count + other for one, other in pairwise(way)])
        strength = prod(steps.strength[taken].tolist())
        found.append(Path([of.names[at] for at in way], strength, KINDS[steps.kind[taken[-1]]]))
    return sorted(found, key=lambda each: (-each.strength, each.names[-1]))


def reach(of: Graph) -> Any:
    """Strengths of the best paths of at most `HOPS_MAX` hops, from each procedure (row) to each other (column).

    Returns:
        A `csr_array` (n, n), the `REACHED_MAX` strongest in a row, ties by name; none below `STRENGTH_MIN`.
    """
    steps, count = of.strongest(), len(of.names)
    layered = _layered(steps, HOPS_MAX)
    rows, columns, fars = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)], [np.zeros(0)]
    widest = near = -np.log(STRENGTH_MIN)
    for start in range(0, count, _AT_ONCE):
        some = np.arange(start, min(count, start + _AT_ONCE))
        far = _far(layered, some, near)
        few = np.isfinite(far).sum(1) < REACHED_MAX
        if near < widest and few.any():
            far[few] = _far(layered, some[few], widest)
        row, column = np.nonzero(np.isfinite(far))
        order = np.lexsort((column, far[row, column], row))
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        row, column = row[rank < REACHED_MAX], column[rank < REACHED_MAX]
        rows.append(some[row])
        columns.append(column)
        fars.append(far[row, column])
        # the next have about as much to look at: what is further than so many others never counts
        near = fars[-1][rank[rank < REACHED_MAX] == REACHED_MAX - 1].max(initial=0.0) or widest
    strengths = np.exp(-np.concatenate(fars))
    return csr_array((strengths, (np.concatenate(rows), np.concatenate(columns))), shape=(count, count))


def _far(layered: Any, sources: NDArray[np.intp], limit: float) -> Floats:
    """(sources, n): -log(strength) of the best path to each other procedure, infinite beyond the limit."""
    count = layered.shape[0] // (HOPS_MAX + 1)
    found = dijkstra(layered, indices=sources, limit=limit).reshape(len(sources), HOPS_MAX + 1, count)[:, 1:].min(1)
    found[np.arange(len(sources)), sources] = np.inf
    return np.asarray(found)


def _layered(of: Graph, hops: int) -> Any:
    """Every procedure once for each hop; node h n + i is procedure i after h hops, and all edges lead one hop on."""
    count, each = len(of.names), len(of.source)
    ends = np.tile(of.target, hops) + np.repeat(np.arange(1, hops + 1, dtype=np.int32) * count, each)
    begins = np.tile(np.bincount(of.source, minlength=count), hops + 1)
    begins[hops * count :] = 0
    begins = np.concatenate([[0], np.cumsum(begins)])
    weights = np.tile(-np.log(of.strength), hops)
    return csr_array((weights, ends, begins), shape=(count * (hops + 1),) * 2)
