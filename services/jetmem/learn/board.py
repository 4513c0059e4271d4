"""What questions of one tenant are answered from: counts of its procedures, vectors of its tasks. In memory.

The writer changes it after each write, readers look at arrays that grow by being replaced; what is erased leaves a
place that the next one takes.
"""

from __future__ import annotations

import heapq
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import estimate
from jetmem.domain.procedures.kernels import Floats, Vectors
from jetmem.domain.procedures.statistics import HALF_LIFE_MS
from jetmem.learn.core import Tally
from jetmem.learn.kept_shares import KeptShares
from jetmem.learn.ports import News
from jetmem.learn.ranks import place_of, procedure_of
from jetmem.learn.rows import Brief, BriefCounts, ProcedureRow, Totals
from jetmem.learn.scan import Scan

_FIRST: Final = 256
#: Of a procedure: runs and successes, decayed and as of when, and plain; last use; whether it is crystalline; whether
#: the place is taken.
_COLUMNS: Final = ("runs", "runs_at", "won", "won_at", "all", "all_won", "last_ms", "crystal", "there")
#: Places in the heap for each procedure, before those that were left are cleared away.
_LEFT: Final = 3
#: Rough cost of a task, and of a procedure, in Python's objects; measured of 400,000 procedures: 324 MB.
_TASK_BYTES: Final = 400
_PROCEDURE_BYTES: Final = 730
#: Procedures whose context is looked at: the likeliest so far, and those that were tried near.
WEIGHED_MAX: Final = 128
#: What a cosine may differ by where the same numbers are added up in another order.
_ROUNDED: Final = 1e-4
#: What counts now counts so long, while nothing changes, within two in 100,000: a half-life is 30 days.
_STANDS_MS: Final = 60_000


class Standing(NamedTuple):
    """Procedures at one moment, arrays (procedures,): runs and successes as they count now, and plain; `last` use, ms.

    `rate` is shrunk to what procedures are like in general (`estimate.rates`): each question needs all of it.
    `likeliest` are the rows of the highest rates, `WEIGHED_MAX` at most.
    `names` and `keys` may have more rows than the arrays; "" is a place that is free.
    """

    names: list[str]
    keys: list[bytes]
    row: dict[bytes, int]
    won: Floats
    runs: Floats
    all_won: Floats
    all_runs: Floats
    last_ms: Floats
    crystalline: NDArray[np.bool_]
    there: NDArray[np.bool_]
    rate: Floats
    likeliest: NDArray[np.intp]
    now_ms: int

    def beside(self, found: Sequence[tuple[bytes, Brief]]) -> Standing:
        """With procedures that are not on the board."""
        size, counts = len(self.runs), [each.counts for _, each in found]
        more_won, more_runs = decayed(counts, self.now_ms)
        won, runs = np.r_[self.won, more_won], np.r_[self.runs, more_runs]
        there, rate = np.r_[self.there, np.ones(len(found), dtype=bool)], estimate.rates(won, runs)
        keys = [*self.keys[:size], *(key for key, _ in found)]
        return Standing(
            [*self.names[:size], *(each.name for _, each in found)],
            keys,
            self.row | {key: size + at for at, (key, _) in enumerate(found)},
            won,
            runs,
            np.r_[self.all_won, [float(of.successes) for of in counts]],
            np.r_[self.all_runs, [float(of.runs) for of in counts]],
            np.r_[self.last_ms, [float(of.last_ms) for of in counts]],
            np.r_[self.crystalline, np.array([each.crystal.state == "crystalline" for _, each in found], dtype=bool)],
            there,
            rate,
            most(rate, np.flatnonzero(there), keys),
            self.now_ms,
        )


class Near(NamedTuple):
    """Tasks like the one asked about, best first, with their cosines."""

    tasks: list[bytes]
    cosine: Floats


class Board:
    """One tenant's. One writer, one loader, many readers.

    Of more than `procedures_max` procedures those of the highest ranks are held (`ranks`): the same ones whichever way
    they came, for what falls off is below `_floor`, and what is above it below that is brought by `lacks` and `more`.

    Attributes:
        complete: Whether the vectors of all tasks are in that were stored when it was opened.
        shares: Shares of procedures by the agents and in the contexts asked about.
        totals: What all procedures come to, held or not.
    """

    def __init__(self, tasks_max: int, procedures_max: int = sys.maxsize) -> None:
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._keys: list[bytes] = []
        self._row: dict[bytes, int] = {}
        self._free: list[int] = []
        self._procedures_max = procedures_max
        #: Where each is by rank, the same as a heap (with places that were left since), and below what none is held.
        self._places: dict[bytes, bytes] = {}
        self._least: list[bytes] = []
        self._floor = b""
        self.totals = Totals()
        self._columns = {name: np.zeros(0) for name in _COLUMNS}
        self._tasks_max = tasks_max
        self._tasks: list[bytes] = []
        self._task_row: dict[bytes, int] = {}
        self._tasks_free: list[int] = []
        self._next = 0
        self._expected: dict[bytes, int] = {}
        self._scan = Scan()
        self._stood: Standing | None = None
        self.shares = KeptShares()
        self.complete = True

    def take(self, news: News) -> None:
        """Take what a write changed; taking it again, or late, changes nothing that is newer."""
        self.shares.changed(news.procedures)
        with self._lock:
            for key, counted in news.procedures.items():
                if counted is None:
                    self._drop(key)
                else:
                    self._put(key, counted)
            for key, raw in news.tasks.items():
                if raw is None:
                    self._drop_task(key)
                else:
                    self._put_task(key, np.frombuffer(raw, dtype=np.float32))
            self.totals = news.totals or self.totals

    def open(self, procedures: Iterable[tuple[bytes, Brief]], totals: Totals, floor: bytes = b"") -> None:
        """Take procedures as they are stored, before anything is told of a write; `floor` is as `more` has it."""
        with self._lock:
            self.totals, self._floor = totals, floor
            for key, counted in procedures:
                self._put(key, counted)

    def lacks(self) -> tuple[int, bytes]:
        """How many procedures there is room for while some are not held, and the place that the first has at most."""
        with self._lock:
            return (self._procedures_max - len(self._row), self._floor) if self._floor else (0, b"")

    def more(self, procedures: Iterable[tuple[bytes, Brief]], floor: bytes) -> None:
        """Take those that lacked; `floor` is the place of the first that is left out now, b"" if none is."""
        with self._lock:
            self._floor = floor
            for key, counted in procedures:
                self._put(key, counted)

    def __contains__(self, procedure: bytes) -> bool:
        return procedure in self._row

    @property
    def left_out(self) -> int:
        """Procedures that are not held."""
        return max(0, self.totals.procedures - self._procedures_max)

    def expect(self, tasks: Sequence[bytes]) -> None:
        """Make room for tasks, the oldest first; `fill` brings their vectors, a write may bring or drop one before."""
        with self._lock:
            room = self._tasks_max - len(self._tasks)
            fresh = [task for task in tasks if task not in self._task_row]
            fresh = fresh[len(fresh) - room :] if room < len(fresh) else fresh
            self._expected = {task: row for row, task in enumerate(fresh, len(self._tasks))}
            self._tasks += fresh

    def fill(self, tasks: Sequence[bytes], vectors: Vectors) -> None:
        """Take vectors (tasks, dimensions) as they are stored; what is not expected, any more, is passed over."""
        with self._lock:
            wanted = [at for at, task in enumerate(tasks) if task in self._expected]
            if not wanted or not self._scan.fits(vectors.shape[1]):
                return
            rows = [self._expected.pop(tasks[at]) for at in wanted]
            self._task_row.update(zip((tasks[at] for at in wanted), rows, strict=True))
            self._scan.put_many(rows, vectors[wanted], len(self._tasks))

    def filled(self) -> None:
        """All that is stored has been brought; the places of what has no vector are free."""
        with self._lock:
            self._tasks_free += self._expected.values()
            self._expected = {}
            self._scan.shorten()
            self.complete = True

    def standing(self, now_ms: int) -> Standing:
        """How procedures stand now; not to be changed."""
        with self._lock:
            stood = self._stood
            if stood is not None and 0 <= now_ms - stood.now_ms <= _STANDS_MS:
                return stood
            count = len(self._names)
            held = {name: column[:count].copy() for name, column in self._columns.items()}
            names, keys, row = list(self._names), list(self._keys), dict(self._row)
            won, runs = (as_of(held[name], held[f"{name}_at"], now_ms) for name in ("won", "runs"))
            plain = (held["all_won"], held["all"], held["last_ms"])
            crystalline, there = held["crystal"] > 0, held["there"] > 0
            rate = estimate.rates(won, runs)
            likeliest = most(rate, np.flatnonzero(there), keys)
            self._stood = Standing(names, keys, row, won, runs, *plain, crystalline, there, rate, likeliest, now_ms)
            return self._stood

    def near(self, vector: Vectors, count: int, least: float) -> Near:
        """The tasks nearest to a vector, at most `count`, of a cosine of at least `least`, above 0; as `View.nearest`.

        Places that are free, or wait for their vector, are zeros.
        """
        with self._lock:
            scan = self._scan.view(len(self._tasks))
        rows, cosine = scan.nearest(vector, count, least)
        if not rows:
            return Near([], np.zeros(0))
        with self._lock:
            now = np.abs(self._scan.vectors(rows) @ vector - cosine) < _ROUNDED  # else the place was given on meanwhile
            held = [
                (task, each)
                for row, each, same in zip(rows, cosine, now, strict=True)
                if same and (task := self._tasks[row])
            ]
        return Near([task for task, _ in held], np.array([each for _, each in held]))

    def vectors(self, tasks: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Of those tasks whose vectors are in."""
        with self._lock:
            held = {task: row for task in tasks if (row := self._task_row.get(task)) is not None}
            return dict(zip(held, self._scan.vectors([*held.values()]), strict=True))

    @property
    def tasks(self) -> int:
        """Tasks with vectors."""
        return len(self._task_row)

    @property
    def dimensions(self) -> int:
        """Of the vectors; 0 before the first."""
        return self._scan.dimensions

    @property
    def size(self) -> int:
        """Memory, about, in bytes."""
        held = sum(column.nbytes for column in self._columns.values()) + self._scan.nbytes + self.shares.nbytes
        return held + _PROCEDURE_BYTES * len(self._names) + _TASK_BYTES * len(self._tasks)

    def _put(self, key: bytes, of: ProcedureRow | Brief) -> None:
        self._stood = None
        name, counts = of.name, of.counts
        place = place_of(key, of)
        if place <= self._floor:
            self._drop(key)
            return
        row = self._row.get(key)
        if row is None:
            row = self._free.pop() if self._free else len(self._names)
            if row == len(self._names):
                self._names.append(name)
                self._keys.append(key)
            self._names[row], self._keys[row] = name, key
            self._row[key] = row
            self._grow(row + 1)
        runs, won = counts.decayed_runs, counts.decayed_successes
        values = (
            runs.value, runs.at_ms, won.value, won.at_ms, counts.runs, counts.successes, counts.last_ms,
            of.crystal.state == "crystalline", 1.0,
        )  # fmt: skip
        for column, value in zip(_COLUMNS, values, strict=True):
            self._columns[column][row] = value
        if self._places.get(key) != place:
            self._places[key] = place
            heapq.heappush(self._least, place)
        if len(self._row) > self._procedures_max:
            self._floor = self._lowest()
            self._drop(procedure_of(self._floor))
        elif len(self._least) > _LEFT * len(self._row) + _FIRST:
            self._least = sorted(self._places.values())

    def _lowest(self) -> bytes:
        """The place of the procedure that is used least."""
        while self._places.get(procedure_of(self._least[0])) != self._least[0]:
            heapq.heappop(self._least)
        return self._least[0]

    def _drop(self, key: bytes) -> None:
        self._stood = None
        row = self._row.pop(key, None)
        if row is None:
            return
        del self._places[key]
        self._names[row], self._keys[row] = "", b""
        for column in self._columns.values():
            column[row] = 0.0
        self._free.append(row)

    def _grow(self, rows: int) -> None:
        held = len(self._columns["runs"])
        if rows > held:
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros(max(_FIRST, held))])

    def _put_task(self, key: bytes, vector: Vectors) -> None:
        if key in self._task_row or not self._scan.fits(len(vector)):
            return
        row = self._expected.pop(key, None)
        if row is None:
            row = self._place()
        self._tasks[row] = key
        self._task_row[key] = row
        self._scan.put(row, vector, len(self._tasks))

    def _place(self) -> int:
        """Where the next task goes: a free place, a new one, or that of the oldest."""
        if self._tasks_free:
            return self._tasks_free.pop()
        row = len(self._tasks)
        if row < self._tasks_max:
            self._tasks.append(b"")
            return row
        row, self._next = self._next, (self._next + 1) % self._tasks_max
        for held in (self._task_row, self._expected):
            held.pop(self._tasks[row], None)
        return row

    def _drop_task(self, key: bytes) -> None:
        row = self._expected.pop(key, None)
        if row is None:
            row = self._task_row.pop(key, None)
        if row is not None:
            self._tasks[row] = b""
            self._scan.clear(row)
            self._tasks_free.append(row)


def decayed(counts: Sequence[Tally | BriefCounts], now_ms: int) -> tuple[Floats, Floats]:
    """Successes and runs of each as they count now."""
    sums = [(each.decayed_successes, each.decayed_runs) for each in counts]
    held = np.array([(won.value, won.at_ms, runs.value, runs.at_ms) for won, runs in sums]).reshape(-1, 4)
    return as_of(held[:, 0], held[:, 1], now_ms), as_of(held[:, 2], held[:, 3], now_ms)


def as_of(value: Floats, at_ms: Floats, now_ms: int) -> Floats:
    """What sums that stood at `at_ms` count at `now_ms` (`decay.value`)."""
    return np.asarray(value * np.exp2(-np.maximum(0.0, now_ms - at_ms) / HALF_LIFE_MS))


def most(of: Floats, rows: NDArray[np.intp], keys: Sequence[bytes]) -> NDArray[np.intp]:
    """The `WEIGHED_MAX` of these rows of which there is most; of equal ones those of the least keys.

    So it is the same whatever places they have, which a restart changes. Sorting all 10,000 takes five times as long.
    """
    if len(rows) <= WEIGHED_MAX:
        return rows
    there = of[rows]
    least = np.partition(there, len(there) - WEIGHED_MAX)[len(there) - WEIGHED_MAX]
    above, equal = rows[there > least], rows[there == least]
    room = WEIGHED_MAX - len(above)
    if len(equal) > room:  # many are defined and were never run
        equal = np.array(heapq.nsmallest(room, equal.tolist(), key=keys.__getitem__), dtype=np.intp)
    return np.concatenate([above, equal])
