"""The vectors of a tenant's tasks, compared with a question: all of them, where they are many first by a part.

A scan costs the reading of its memory: 100,000 vectors of 384 numbers are 150 MB, 13 ms. Their first principal
directions, without the mean (Eckart and Young, 1936), tell most of a cosine and are a third of it: they choose the
candidates, whose cosines are then exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures.kernels import Vectors

_FIRST: Final = 256
#: Places from which on a part is looked at first; below, everything is compared in 2 ms.
PARTS_FROM: Final = 16_384
#: Directions of the part, and candidates by them. Of the 64 nearest of 100,000 (20,000 IRC lines, four noised
#: copies of each) 99.7 % are found by questions of a few words; 99.7 % by 96 directions and 4,096 candidates, which
#: take longer to fetch, 97.2 % by 96 and 1,024.
PART: Final = 128
CANDIDATES: Final = 2_048
#: One in so many products tells about where the candidates begin.
_TOLD_BY: Final = 16
#: Vectors that the directions are learnt from.
_SAMPLE: Final = 4_096
#: Candidates that are fetched together, 400 kB.
_FETCHED: Final = 256
#: Learning them of 64,000 vectors takes 0.2 s.
_AGAIN: Final = 4


class View(NamedTuple):
    """What is compared at one moment: `vectors` (places, dimensions), and `part` of them, if there are many.

    The part is (directions, places): one direction after the other it is read in two thirds of the time.
    """

    vectors: Vectors
    basis: Vectors | None
    part: Vectors | None

    def nearest(self, vector: Vectors, count: int, least: float) -> tuple[list[int], list[float]]:
        """Places of the vectors nearest to one, and their cosines, best first, at most `count` of at least `least`."""
        total = len(self.vectors)
        if not total or self.vectors.shape[1] != len(vector):
            return [], []
        if self.basis is None or self.part is None or total <= CANDIDATES:
            rows = np.arange(total)
            cosine = self.vectors @ vector
        else:
            told = (vector @ self.basis) @ self.part
            rows = _highest(told, CANDIDATES)
            cosine = _products(self.vectors, rows, vector)
        if len(rows) > count:
            best = np.argpartition(cosine, len(rows) - count)[len(rows) - count :]
            rows, cosine = rows[best], cosine[best]
        rows, cosine = rows[cosine >= least], cosine[cosine >= least]
        order = np.lexsort((rows, -cosine))
        return rows[order].tolist(), cosine[order].tolist()


class Scan:
    """Grows by arrays that replace each other, so a view stays as it is but for places that are given on."""

    def __init__(self) -> None:
        self._vectors: Vectors = np.zeros((0, 0), dtype=np.float32)
        self._basis: Vectors | None = None
        self._part: Vectors | None = None
        self._learnt_of = 0

    @property
    def dimensions(self) -> int:
        """Of the vectors; 0 before the first."""
        return int(self._vectors.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory, bytes."""
        return self._vectors.nbytes + (self._part.nbytes if self._part is not None else 0)

    def fits(self, dimensions: int) -> bool:
        """Whether vectors of so many dimensions can be compared with those that are there."""
        return dimensions == (self.dimensions or dimensions)

    def view(self, places: int) -> View:
        """The first so many places."""
        return View(self._vectors[:places], self._basis, self._part[:, :places] if self._part is not None else None)

    def put(self, place: int, vector: Vectors, places: int) -> None:
        """Set one vector; there are `places` places."""
        self._grow(places, len(vector))
        self._vectors[place] = vector
        if self._part is not None and self._basis is not None:
            self._part[:, place] = vector @ self._basis

    def put_many(self, rows: Sequence[int], vectors: Vectors, places: int) -> None:
        """Set many; where no directions are known they are compared in full until `shorten`."""
        self._grow(places, vectors.shape[1], shorten=False)
        self._vectors[rows] = vectors
        if self._part is not None and self._basis is not None:
            self._part[:, rows] = (vectors @ self._basis).T

    def vectors(self, places: Sequence[int]) -> Vectors:
        """Those at some places, as they are now."""
        return self._vectors[list(places)]

    def clear(self, place: int) -> None:
        """A place is free."""
        if place < len(self._vectors):
            self._vectors[place] = 0.0
            if self._part is not None:
                self._part[:, place] = 0.0

    def shorten(self) -> None:
        """Learn directions, where the vectors are many; they hold until there are `_AGAIN` times as many."""
        places = len(self._vectors)
        if places < PARTS_FROM:
            return
        self._learnt_of = places
        some = self._vectors[:: max(1, places // _SAMPLE)].astype(np.float64)
        _, directions = np.linalg.eigh(some.T @ some)
        basis = np.ascontiguousarray(directions[:, -min(PART, directions.shape[1]) :], dtype=np.float32)
        self._part = basis.T @ self._vectors.T
        self._basis = basis

    def _grow(self, places: int, dimensions: int, *, shorten: bool = True) -> None:
        held = len(self._vectors)
        if places <= held:
            return
        more = np.zeros((max(_FIRST, places, held + held // 2), dimensions), dtype=np.float32)
        more[:held] = self._vectors.reshape(held, dimensions)  # what follows takes no memory yet
        self._vectors = more
        if self._part is not None and len(more) < _AGAIN * self._learnt_of:
            part = np.zeros((len(self._part), len(more)), dtype=np.float32)
            part[:, :held] = self._part
            self._part = part
            return
        self._basis = self._part = None
        if shorten:
            self.shorten()


def _products(vectors: Vectors, rows: NDArray[np.intp], vector: Vectors) -> Vectors:
    """Of a vector with some others, which are fetched in slices that stay near the processor: 0.6 ms, at once 0.9."""
    found = np.empty(len(rows), dtype=np.float32)
    fetched = np.empty((_FETCHED, len(vector)), dtype=np.float32)
    for start in range(0, len(rows), _FETCHED):
        some = rows[start : start + _FETCHED]
        held = np.take(vectors, some, axis=0, out=fetched[: len(some)], mode="clip")  # "raise" would copy once more
        np.matmul(held, vector, out=found[start : start + len(some)])
    return found


def _highest(of: NDArray[np.floating[Any]], count: int) -> NDArray[np.intp]:
    """Places of about the highest `count` numbers, in order, so that memory is read in order.

    Where they begin is guessed from a few; if those mislead, and they are too few or twice as many, it is looked up.
    """
    some = of[::_TOLD_BY]
    rows = np.flatnonzero(of >= _least(some, max(1, count // _TOLD_BY)))
    if count * 7 // 8 <= len(rows) <= 2 * count:
        return rows
    rows = np.flatnonzero(of >= _least(of, count))
    return rows if len(rows) <= 2 * count else np.sort(np.argpartition(of, len(of) - count)[len(of) - count :])


def _least(of: NDArray[np.floating[Any]], count: int) -> float:
    """The least of the highest `count`; in half of what argpartition takes."""
    return float(np.partition(of, len(of) - count)[len(of) - count])
