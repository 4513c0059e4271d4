"""The vectors of one tenant in memory: a matrix with what searches filter by, and above a size a graph.

Rows are numbered as they come and never move. Readers see `count` rows; the writer fills a row before it counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.hnsw_graph import Graph
from jetmem.index.rows import Row
from jetmem_schemas.internal import Filters

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

#: Rows of an empty shelf; it doubles from there.
_ROWS_FIRST: Final = 256
#: A filter that leaves fewer rows than this is answered by an exact scan of them, whatever the tenant's size:
#: 20,000 rows take 0.7 ms, while a graph with 1 % kept takes 11 ms (PARTS.md).
NARROW_ROWS: Final = 20_000
#: The graph gives this many times what is asked for when a wide filter will take some away.
_WIDE_FACTOR: Final = 4
#: Removed rows in a graph beyond this share: it is built anew.
REBUILD_SHARE: Final = 0.25


@dataclass
class Shelf:
    """One tenant's vectors. One writer, many readers.

    Attributes:
        count: Rows that readers may look at.
        alive: False for rows that were erased.
        graph: Over rows below `graph.rows`; the rest is scanned.
    """

    dimensions: int
    make_graph: Callable[[], Graph]
    exact_max: int
    count: int = 0
    dead: int = 0
    vectors: Floats = field(init=False)
    alive: Mask = field(init=False)
    columns: dict[str, NDArray[np.int64]] = field(init=False)
    codes: dict[str, dict[str, int]] = field(default_factory=lambda: {"kind": {}, "role": {}})
    tags: dict[str, list[int]] = field(default_factory=dict)
    at: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    graph: Graph = field(init=False)
    dirty: bool = False

    def __post_init__(self) -> None:
        self.vectors = np.zeros((_ROWS_FIRST, self.dimensions), dtype=np.float32)
        self.alive = np.zeros(_ROWS_FIRST, dtype=np.bool_)
        names = ("rseq", "sid", "position", "who", "ts", "kind", "role")
        self.columns = {name: np.zeros(_ROWS_FIRST, dtype=np.int64) for name in names}
        self.graph = self.make_graph()

    def put(self, number: int, row: Row, vector: Floats) -> None:
        """Set one row and count it; rows in between stay dead."""
        while number >= len(self.alive):
            self._grow()
        self.vectors[number] = vector
        values = {
            "rseq": row.rseq, "sid": row.sid, "position": row.position, "who": row.who, "ts": row.ts,
            "kind": self._code("kind", row.kind), "role": self._code("role", row.role),
        }  # fmt: skip
        for name, value in values.items():
            self.columns[name][number] = value
        for tag in row.tags:
            self.tags.setdefault(tag, []).append(number)
        self.at.setdefault((row.sid, row.position), []).append(number)
        self.alive[number] = True
        self.dead += max(0, number - self.count)
        self.count = max(self.count, number + 1)
        self.dirty = True

    def remove(self, number: int) -> None:
        """Erase one row: no answer has it, its words' vector is zeroed."""
        if number >= self.count or not self.alive[number]:
            return
        self.alive[number] = False
        self.vectors[number] = 0.0
        self.dead += 1
        place = (int(self.columns["sid"][number]), int(self.columns["position"][number]))
        self.at[place] = [r for r in self.at.get(place, []) if r != number]
        self.graph.remove(number)
        self.dirty = True

    def wants_graph(self) -> bool:
        """Whether rows wait to be linked, or the graph holds too many that are gone."""
        if self.count - self.dead <= self.exact_max:
            return False
        return self.graph.rows < self.count or self.worn()

    def worn(self) -> bool:
        """Whether so many rows of the graph are gone that it should be built anew."""
        return self.graph.rows > 0 and self.graph.deleted > REBUILD_SHARE * self.graph.rows

    def extend_graph(self, rows: int) -> None:
        """Link up to `rows` more; called from the graph's own thread, a few at a time."""
        if self.worn():
            self.graph = self.make_graph()
        start = self.graph.rows
        end = min(start + rows, self.count)
        numbers = np.arange(start, end, dtype=np.int64)[self.alive[start:end]]
        self.graph.extend(self.vectors[numbers], numbers, end)

    def search(self, vector: Floats, count: int, mask: Mask | None) -> NDArray[np.int64]:
        """Rows nearest to a vector among those of a mask, best first, at most `count`."""
        total = self.count
        allowed = self.alive[:total] if mask is None else self.alive[:total] & mask[:total]
        graphed = self.graph.rows if total - self.dead > self.exact_max else 0
        kept = int(allowed.sum())
        if graphed and kept > NARROW_ROWS:
            wide = count if mask is None else count * _WIDE_FACTOR
            near = self.graph.nearest(vector, wide)
            near = near[near < total] if near is not None else np.empty(0, dtype=np.int64)
            near = near[allowed[near]]
            tail = np.flatnonzero(allowed[graphed:]) + graphed
            if len(near) + len(tail) >= count:
                return self._best(vector, np.concatenate([near, tail]), count)
        if kept == total:
            scores = self.vectors[:total] @ vector
            return _top(scores, np.arange(total), count)
        return self._best(vector, np.flatnonzero(allowed), count)

    def _best(self, vector: Floats, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
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
                codes = [self.codes[name].get(v, -1) for v in values]
                parts.append(np.isin(self.columns[name][:total], codes))
        for tag in filters.tags:
            tagged = np.zeros(total, dtype=np.bool_)
            rows = self.tags.get(tag, [])
            tagged[[r for r in rows if r < total]] = True
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
            for row in self.at.get(place, ()):
                rows.append(row)
                owner.append(number)
        result = np.full(number + 1, -np.inf)
        if rows:
            np.maximum.at(result, owner, (self.vectors[rows] @ vector).astype(np.float64))
        result[np.isneginf(result)] = np.nan
        return result

    def bytes(self) -> int:
        """Memory of the matrix and its columns."""
        return self.vectors.nbytes + sum(c.nbytes for c in self.columns.values())

    def _code(self, name: str, value: str) -> int:
        return self.codes[name].setdefault(value, len(self.codes[name]))

    def _grow(self) -> None:
        size = len(self.alive)
        for name, column in list(self.columns.items()):
            self.columns[name] = np.concatenate([column, np.zeros(size, dtype=np.int64)])
        self.vectors = np.concatenate([self.vectors, np.zeros((size, self.dimensions), dtype=np.float32)])
        self.alive = np.concatenate([self.alive, np.zeros(size, dtype=np.bool_)])


def _top(scores: NDArray[np.float32], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(scores) > count:
        keep = np.argpartition(-scores, count - 1)[:count]
        scores, rows = scores[keep], rows[keep]
    return rows[np.argsort(-scores, kind="stable")]
