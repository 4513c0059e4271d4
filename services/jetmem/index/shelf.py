"""The vectors of one tenant in memory: a matrix with what searches filter by, and above a size a graph.

Rows come in the order of their numbers and never move; what is erased leaves a dead row until the shelf is loaded
again. Readers see `count` rows; the writer fills a row before it counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.hnsw_graph import Graph
from jetmem.index.rows import Row
from jetmem_schemas.internal import Filters

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

#: Rows of an empty shelf; it doubles from there.
_ROWS_FIRST: Final = 256
#: A filter that leaves fewer rows than this is answered by an exact scan of them, whatever the tenant's size:
#: 20,000 rows take 0.7 ms, while a graph with 1 % kept takes 11 ms (measured on 2 cores).
NARROW_ROWS: Final = 20_000
#: The graph is asked for what the filter will leave of its answer, and a third more; so many at most.
_WIDE_MARGIN: Final = 4 / 3
_WIDE_MAX: Final = 2_000
#: Above this share of kept rows, scoring all and dropping some is faster than copying the kept ones together.
_GATHER_SHARE: Final = 0.25
#: Removed rows in a graph beyond this share: it is built anew.
REBUILD_SHARE: Final = 0.25
_COLUMNS: Final = ("number", "rseq", "sid", "position", "who", "ts", "kind", "role")


class Shelf:
    """One tenant's vectors. One writer, many readers, one thread that links the graph.

    Attributes:
        count: Rows that readers may look at.
        dead: How many of them are erased.
        dimensions: Of the first vector that came; 0 before it.
        graph: Over rows with numbers below `graph.rows`; the rest is scanned. None before the first is linked.
        dirty: The graph changed since it was written.
    """

    def __init__(self, make_graph: Callable[[int], Graph], exact_max: int) -> None:
        self.count = 0
        self.dead = 0
        self.dimensions = 0
        self.dirty = False
        self.graph: Graph | None = None
        self.alive: Mask = np.zeros(0, dtype=np.bool_)
        self.vectors: Floats = np.zeros((0, 0), dtype=np.float32)
        self.columns: dict[str, Ints] = {name: np.zeros(0, dtype=np.int64) for name in _COLUMNS}
        self._make_graph = make_graph
        self._exact_max = exact_max
        self._codes: dict[str, dict[str, int]] = {"kind": {}, "role": {}}
        self._tags: dict[str, list[int]] = {}
        self._at: dict[tuple[int, int], tuple[int, ...]] = {}

    def put(self, number: int, row: Row, vector: Floats) -> None:
        """Add one row; numbers rise, one that is there already is passed over."""
        self.fill([number], [row], vector.reshape(1, -1))

    def fill(self, numbers: Sequence[int], rows: Sequence[Row], vectors: Floats) -> None:
        """Add many rows in the order of their numbers."""
        last = int(self.columns["number"][self.count - 1]) if self.count else -1
        skip = sum(1 for number in numbers if number <= last)
        numbers, rows, vectors = numbers[skip:], rows[skip:], vectors[skip:]
        start, end = self.count, self.count + len(numbers)
        self._grow(end, vectors.shape[1])
        self.vectors[start:end] = vectors
        kind, role = self._codes["kind"], self._codes["role"]
        values = {
            "number": numbers, "rseq": [r.rseq for r in rows], "sid": [r.sid for r in rows],
            "position": [r.position for r in rows], "who": [r.who for r in rows], "ts": [r.ts for r in rows],
            "kind": [kind.setdefault(r.kind, len(kind)) for r in rows],
            "role": [role.setdefault(r.role, len(role)) for r in rows],
        }  # fmt: skip
        for name, value in values.items():
            self.columns[name][start:end] = value
        for at, row in enumerate(rows, start):
            place = (row.sid, row.position)
            self._at[place] = (*self._at.get(place, ()), at)
            for tag in row.tags:
                self._tags.setdefault(tag, []).append(at)
        self.alive[start:end] = True
        self.count = end

    def remove(self, number: int) -> None:
        """Erase one row: no answer has it, its words' vector is zeroed."""
        at = int(np.searchsorted(self.columns["number"][: self.count], number))
        if at >= self.count or self.columns["number"][at] != number or not self.alive[at]:
            return
        self.alive[at] = False
        self.vectors[at] = 0.0
        self.dead += 1
        place = (int(self.columns["sid"][at]), int(self.columns["position"][at]))
        left = tuple(r for r in self._at.get(place, ()) if r != at)
        if left:
            self._at[place] = left
        else:
            self._at.pop(place, None)
        if self.graph is not None:
            self.graph.remove(number)
            self.dirty = True

    @property
    def numbers_end(self) -> int:
        """One above the highest number."""
        return int(self.columns["number"][self.count - 1]) + 1 if self.count else 0

    def live_numbers(self) -> Ints:
        """Numbers of the rows that were not erased."""
        total = self.count
        return self.columns["number"][:total][self.alive[:total]]

    # --- the graph, on its own thread

    def wants_graph(self) -> bool:
        """Whether rows wait to be linked, or the graph holds too many that are gone."""
        if self.count - self.dead <= self._exact_max:
            return False
        graph = self.graph
        return graph is None or graph.rows < self.numbers_end or _worn(graph)

    @property
    def unlinked(self) -> int:
        """Rows that every search scans until they are linked; 0 where there is to be no graph."""
        if not self.wants_graph():
            return 0
        first = 0 if self.graph is None else int(np.searchsorted(self.columns["number"][: self.count], self.graph.rows))
        return self.count - first

    def extend_graph(self, rows: int) -> None:
        """Link up to `rows` more."""
        graph = self.graph
        if graph is None or _worn(graph):
            graph = self._make_graph(self.dimensions)
            self.graph = graph
        total = self.count
        start = int(np.searchsorted(self.columns["number"][:total], graph.rows))
        end = min(start + rows, total)
        chosen = np.arange(start, end)[self.alive[start:end]]
        upto = int(self.columns["number"][end - 1]) + 1 if end else 0
        graph.extend(self.vectors[chosen], self.columns["number"][chosen], upto)
        for at in chosen[~self.alive[chosen]]:  # erased while they were linked
            graph.remove(int(self.columns["number"][at]))
        self.dirty = True

    def drop_graph(self) -> None:
        """Begin the graph anew: the old one may hold what was erased."""
        self.graph = None
        self.dirty = False

    # --- readers

    def search(self, vector: Floats, count: int, mask: Mask | None) -> Ints:
        """Rows nearest to a vector among those of a mask, best first, at most `count`."""
        total = self.count if mask is None else min(self.count, len(mask))
        if total == 0 or len(vector) != self.dimensions:
            return np.empty(0, dtype=np.int64)
        allowed = self.alive[:total].copy() if mask is None else self.alive[:total] & mask[:total]
        kept = int(allowed.sum())
        if self.graph is not None and total - self.dead > self._exact_max and kept > NARROW_ROWS:
            found = self._by_graph(self.graph, vector, count, allowed, kept)
            if found is not None:
                return found
        if kept > _GATHER_SHARE * total:
            scores = self.vectors[:total] @ vector
            scores[~allowed] = -np.inf
            return _top(scores, np.arange(total), min(count, kept))
        return self._best(vector, np.flatnonzero(allowed), count)

    def _by_graph(self, graph: Graph, vector: Floats, count: int, allowed: Mask, kept: int) -> Ints | None:
        """What graph and tail give together; None if the graph is busy or gives too few."""
        total = len(allowed)
        numbers = self.columns["number"][:total]
        covered = graph.rows
        wide = min(_WIDE_MAX, int(count * max(1.0, _WIDE_MARGIN * total / kept)))
        near = graph.nearest(vector, wide)
        if near is None:
            return None
        near = near[(near < covered) & (near <= numbers[-1])]
        rows = np.searchsorted(numbers, near)
        rows = rows[(numbers[rows] == near) & allowed[rows]]
        if len(rows) < count:
            return None
        first = int(np.searchsorted(numbers, covered))
        # In place: copying the rows of a long tail together, as `_best` does, would take many times the scan.
        tail = self.vectors[first:total] @ vector
        tail[~allowed[first:]] = -np.inf
        scores = np.concatenate([self.vectors[rows] @ vector, tail])
        together: Ints = np.concatenate([rows, np.arange(first, total)])
        return _top(scores, together, min(count, kept))

    def _best(self, vector: Floats, rows: Ints, count: int) -> Ints:
        return _top(self.vectors[rows] @ vector, rows, count)

    def mask(self, filters: Filters, sids: frozenset[int] | None, who: int | None) -> Mask | None:
        """Which rows a filter keeps; None if it keeps all.

        Args:
            filters: As asked; agent and session come as `sids`, author as `who` (-1: nobody of that name).
            sids: Numbers of the sessions that agent and session select.
            who: Number of the author.
        """
        total = self.count
        parts: list[Mask] = []
        if sids is not None:
            parts.append(np.isin(self.columns["sid"][:total], list(sids)))
        if who is not None:
            parts.append(self.columns["who"][:total] == who)
        for name, values in (("kind", filters.kinds), ("role", filters.roles)):
            if values:
                codes = [self._codes[name].get(v, -1) for v in values]
                parts.append(np.isin(self.columns[name][:total], codes))
        for tag in filters.tags:
            tagged = np.zeros(total, dtype=np.bool_)
            rows = np.array(self._tags.get(tag, ()), dtype=np.int64)
            tagged[rows[rows < total]] = True
            parts.append(tagged)
        if filters.since is not None:
            parts.append(self.columns["ts"][:total] >= filters.since)
        if filters.until is not None:
            parts.append(self.columns["ts"][:total] < filters.until)
        return np.logical_and.reduce(parts) if parts else None

    def cosines(self, vector: Floats, places: Iterable[tuple[int, int]]) -> NDArray[np.float64]:
        """Cosine of each place in a session, the best of its passages; NaN where there is no vector."""
        rows: list[int] = []
        owner: list[int] = []
        number = -1
        for number, place in enumerate(places):
            for row in self._at.get(place, ()):
                rows.append(row)
                owner.append(number)
        result = np.full(number + 1, -np.inf)
        if rows and len(vector) == self.dimensions:
            np.maximum.at(result, owner, (self.vectors[rows] @ vector).astype(np.float64))
        result[np.isneginf(result)] = np.nan
        return result

    def vectors_at(self, places: Sequence[tuple[int, int]]) -> Floats:
        """A vector of unit length for each place in a session, the mean of its passages'; zeros where there is none."""
        made = np.zeros((len(places), self.dimensions), dtype=np.float32)
        held = [self._at.get(place, ()) for place in places]
        single = [(at, rows[0]) for at, rows in enumerate(held) if len(rows) == 1]
        if single:
            made[[at for at, _ in single]] = self.vectors[[row for _, row in single]]
        for at, rows in enumerate(held):
            if len(rows) > 1:
                mean = self.vectors[list(rows)].mean(axis=0)
                made[at] = mean / (float(np.linalg.norm(mean)) or 1.0)
        return made

    def bytes(self) -> int:
        """Memory of the matrix and its columns."""
        return self.vectors.nbytes + sum(c.nbytes for c in self.columns.values())

    def _grow(self, rows: int, dimensions: int) -> None:
        """Make room; readers keep the arrays that they took."""
        if not self.dimensions:
            self.dimensions = dimensions
            self.vectors = np.zeros((0, dimensions), dtype=np.float32)
        if rows <= len(self.alive):
            return
        more = max(rows, 2 * len(self.alive), _ROWS_FIRST) - len(self.alive)
        for name, column in list(self.columns.items()):
            self.columns[name] = np.concatenate([column, np.zeros(more, dtype=np.int64)])
        self.vectors = np.concatenate([self.vectors, np.zeros((more, self.dimensions), dtype=np.float32)])
        self.alive = np.concatenate([self.alive, np.zeros(more, dtype=np.bool_)])


def _worn(graph: Graph) -> bool:
    """Whether so many rows of the graph are gone that it should be built anew."""
    return graph.linked > 0 and graph.deleted > REBUILD_SHARE * graph.linked


def _top(scores: NDArray[np.float32], rows: Ints, count: int) -> Ints:
    if len(scores) > count:
        keep = np.argpartition(-scores, count - 1)[:count] if count else np.empty(0, dtype=np.int64)
        scores, rows = scores[keep], rows[keep]
    return rows[np.argsort(-scores, kind="stable")]
