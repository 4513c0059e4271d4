"""Boards of tenants: loaded when somebody asks, the longest unasked put away when they are too many bytes.

Procedures are read while the asker waits, some 50 ms for 10,000; of however many there are a board has so many. The
vectors of 100,000 tasks take a second: they come beside, and who cannot wait is answered without those that lack.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from itertools import islice
from typing import Final

import numpy as np

from jetmem.domain.procedures.kernels import Vectors
from jetmem.learn import ranks
from jetmem.learn.board import Board
from jetmem.learn.ports import News
from jetmem.learn.rows import Rows
from jetmem.learn.settings import LearnSettings
from jetmem.runtime import metrics
from jetmem.runtime.errors import Retryable
from jetmem.runtime.scraping import at_scrape
from jetmem.runtime.stored_vectors import VECTOR_MARK

_CHUNK: Final = 1_000


class _Slot:
    """A tenant's board, or what it missed while its procedures are being loaded."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self.tasks: Future[None] | None = None
        self.waited = False
        self._missed: list[News] | None = None
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def tell(self, news: News, rows: Rows, tenant: str) -> None:
        with self._lock:
            if self._missed is not None:
                self._missed.append(news)
            elif self.board is not None:
                self.board.take(news)
                _complete(rows, tenant, self.board)

    def opened(self, rows: Rows, tenant: str, loader: Loader) -> Board:
        if self.board is not None:
            return self.board
        with self._loading:
            if self.board is not None:
                return self.board
            with self._lock:
                self._missed = []  # from here on: what is written now may not be among what is read
            try:
                fresh = loader.opened(rows, tenant)
                self.tasks = loader.load(rows, tenant, fresh)
            except BaseException:
                self._missed = None
                raise
            with self._lock:
                for news in self._missed:
                    fresh.take(news)
                _complete(rows, tenant, fresh)
                self._missed, self.board = None, fresh
            return fresh


class Boards:
    """What questions are answered from; `ports.Hears`."""

    def __init__(self, rows: Rows, settings: LearnSettings, wait_s: float | None = None) -> None:
        """Over rows; who compares tasks first waits so long for their vectors, for ever if None."""
        self._rows = rows
        self._settings = settings
        self._wait_s = wait_s
        self._held: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._loader = Loader(settings.tasks_max, settings.procedures_max)
        at_scrape(self)

    def get(self, tenant: str) -> Board:
        """A tenant's board with all its procedures; only who asks for this tenant waits."""
        return self._opened(tenant)[1]

    def compared(self, tenant: str) -> Board:
        """The same with its tasks, unless they take too long: `complete` tells.

        Once somebody has waited in vain nobody does: who waits keeps others' questions from their thread.

        Raises:
            Retryable: Vectors could not be read.
        """
        slot, board = self._opened(tenant)
        if slot.tasks is not None and not board.complete:
            wait_for([slot.tasks], 0.0 if slot.waited else self._wait_s)
            slot.waited = True
            if slot.tasks.done() and not board.complete:
                self._drop(tenant, slot)
                raise Retryable("vectors of tasks could not be read") from slot.tasks.exception()
        return board

    def tell(self, tenant: str, news: News) -> None:
        """A write is done."""
        with self._lock:
            slot = self._held.get(tenant)
        if slot is not None:
            slot.tell(news, self._rows, tenant)

    def clear(self) -> None:
        """Put all away."""
        with self._lock:
            self._held.clear()

    def observe(self) -> None:
        """Say how many procedures are not on the boards that are held; from any thread."""
        with self._lock:
            boards = [slot.board for slot in self._held.values()]
        metrics.procedures_left_out.set(sum(board.left_out for board in boards if board is not None))

    def close(self) -> None:
        """Load no more: nobody reads a store that is being closed."""
        self._loader.close()

    def _opened(self, tenant: str) -> tuple[_Slot, Board]:
        with self._lock:
            slot = self._held.setdefault(tenant, _Slot())
            self._held.move_to_end(tenant)
        board = slot.opened(self._rows, tenant, self._loader)
        self._trim()
        return slot, board

    def _drop(self, tenant: str, slot: _Slot) -> None:
        with self._lock:
            if self._held.get(tenant) is slot:
                del self._held[tenant]

    def _trim(self) -> None:
        with self._lock:
            loaded = [(name, slot.board.size) for name, slot in self._held.items() if slot.board is not None]
            total = sum(size for _, size in loaded)
            for name, size in loaded[:-1]:
                if total <= self._settings.board_bytes_max:
                    return
                del self._held[name]
                total -= size


class Loader:
    """Fills boards from the store; vectors one tenant after the other, on a thread of its own."""

    def __init__(self, tasks_max: int, procedures_max: int) -> None:
        self._tasks_max = tasks_max
        self._procedures_max = procedures_max
        self._closed = False
        self._pool = ThreadPoolExecutor(1, "boards")

    def opened(self, rows: Rows, tenant: str) -> Board:
        """A board with procedures as they are stored; all, read in their order, or those of the highest ranks."""
        board = Board(self._tasks_max, self._procedures_max)
        board.complete = False
        totals = ranks.totals(rows, tenant)
        if totals.procedures <= self._procedures_max:
            board.open(list(rows.procedures(tenant)), totals)
        else:
            board.open((), totals, ranks.FIRST)
            _complete(rows, tenant, board)
        return board

    def load(self, rows: Rows, tenant: str, board: Board) -> Future[None]:
        """Begin to bring the vectors of the newest tasks."""
        return self._pool.submit(self._fill, rows, tenant, board)

    def close(self) -> None:
        """End what is begun, soon."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, rows: Rows, tenant: str, board: Board) -> None:
        newest = list(islice(rows.arrivals(tenant), self._tasks_max + 1))
        every = len(newest) <= self._tasks_max  # else what is read is bounded, though not in the order of keys
        del newest[self._tasks_max :]
        board.expect(newest[::-1])
        for tasks, vectors in _chunks(rows.all_vectors(tenant) if every else _vectors(rows, tenant, newest)):
            if self._closed:
                return
            board.fill(tasks, vectors)
        board.filled()


def _complete(rows: Rows, tenant: str, board: Board) -> None:
    """Bring the procedures that there is room for, while some are not on the board."""
    room, floor = board.lacks()
    while room > 0:
        found = (at for at in ranks.ranked(rows, tenant, floor) if ranks.procedure_of(at) not in board)
        places = list(islice(found, room + 1))
        fresh = [ranks.procedure_of(at) for at in places[:room]]
        board.more(ranks.read(rows, tenant, fresh), places[room] if len(places) > room else b"")
        room, floor = board.lacks()


def _vectors(rows: Rows, tenant: str, tasks: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """As `Rows.all_vectors`, of these tasks."""
    for start in range(0, len(tasks), _CHUNK):
        some = tasks[start : start + _CHUNK]
        yield from ((task, raw) for task, raw in zip(some, rows.vectors(tenant, some), strict=True) if raw)


def _chunks(held: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[list[bytes], Vectors]]:
    """Tasks with their vectors (tasks, dimensions); those of one model are of one length."""
    found = ((task, raw) for task, raw in held if raw.startswith(VECTOR_MARK))
    mark = len(VECTOR_MARK)
    while some := list(islice(found, _CHUNK)):
        length = max(len(raw) for _, raw in some)
        some = [(task, raw) for task, raw in some if len(raw) == length]
        joined = np.frombuffer(b"".join(raw[mark:] for _, raw in some), dtype=np.float32)
        yield [task for task, _ in some], joined.reshape(len(some), -1)
