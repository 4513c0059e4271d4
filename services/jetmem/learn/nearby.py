"""What was tried at tasks like the one asked about: hundreds of rows, of which sums are read of all and runs of few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import estimate
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.repeats import Worths
from jetmem.learn.board import Near, Standing, as_of
from jetmem.learn.core import Latest
from jetmem.learn.rows import Rows, latest_of, sums_of

#: Rows of one task, and of all, that are read: who was tried there in which context.
TRIED_MAX: Final = 256
TRIED_ALL_MAX: Final = 4_096


class Seen(NamedTuple):
    """A procedure's row at a task like the one asked about, in one context, as it is stored."""

    row: bytes
    task: bytes
    cosine: float

    @property
    def runs(self) -> Sequence[Latest]:
        """The latest of it."""
        return latest_of(self.row)


class Trials:
    """Rows of the procedures on a board at some tasks, the nearest task first."""

    def __init__(self, near: Near, places: Sequence[int], of: Sequence[int], rows: Sequence[bytes]) -> None:
        """Rows, each of the procedure at a place of the board and of the task of a number in `near`."""
        self.places: NDArray[np.intp] = np.array(places, dtype=np.intp)
        self.of: NDArray[np.intp] = np.array(of, dtype=np.intp)
        self._near, self._rows = near, rows

    def __len__(self) -> int:
        return len(self._rows)

    def sums(self, now_ms: int) -> tuple[Floats, Floats]:
        """Successes and runs of each row as they count now."""
        held = sums_of(self._rows)
        return as_of(held[:, 0], held[:, 1], now_ms), as_of(held[:, 2], held[:, 3], now_ms)

    def cosines(self) -> dict[bytes, float]:
        """Of each task at which anything was tried."""
        cosine = self._near.cosine.tolist()
        return {self._near.tasks[number]: cosine[number] for number in dict.fromkeys(self.of.tolist())}

    def by(self, place: int) -> list[Seen]:
        """Those of the procedure at one place of the board."""
        return [self._seen(at) for at in np.flatnonzero(self.places == place).tolist()]

    def at(self, tasks: Set[bytes]) -> Iterator[tuple[int, Seen]]:
        """Those at some tasks, with the procedures' places."""
        numbers = [number for number, task in enumerate(self._near.tasks) if task in tasks]
        for at in np.flatnonzero(np.isin(self.of, numbers)).tolist():
            yield int(self.places[at]), self._seen(at)

    def _seen(self, at: int) -> Seen:
        number = int(self.of[at])
        return Seen(self._rows[at], self._near.tasks[number], float(self._near.cosine[number]))


def read(rows: Rows, tenant: str, standing: Standing, near: Near) -> Trials:
    """What procedures did at these tasks."""
    places: list[int] = []
    of: list[int] = []
    raws: list[bytes] = []
    place_of = standing.row.get
    for number, found in enumerate(rows.tried(tenant, near.tasks, TRIED_MAX)):
        if len(places) >= TRIED_ALL_MAX:
            break  # of those further away nothing is read
        for procedure, raw in found[: TRIED_ALL_MAX - len(places)]:
            place = place_of(procedure)
            if place is not None:
                places.append(place)
                of.append(number)
                raws.append(raw)
    return Trials(near, places, of, raws)


class Counted(NamedTuple):
    """Runs of each procedure of a board at tasks like the one asked about, by how near they are, and at that one."""

    won: Floats
    runs: Floats
    same_won: Floats
    same_runs: Floats


def counted(trials: Trials, size: int, near: Near, worths: Worths, now_ms: int) -> Counted:
    """Count them, of `size` places; the very same task is the first."""
    won, runs = trials.sums(now_ms)
    same = trials.of == 0
    weight = np.where(same, 0.0, worths.near * estimate.near(near.cosine)[trials.of])
    amounts = (weight * won, weight * runs, same * won, same * runs)
    return Counted(*(summed(trials.places, amount, size) for amount in amounts))


def summed(places: NDArray[np.intp], amounts: Floats, size: int) -> Floats:
    """Sums of what is at each of so many places."""
    return np.bincount(places, weights=amounts, minlength=size).astype(np.float64, copy=False)
