"""Boards of tenants: loaded when somebody asks, the longest unasked put away when they are too many bytes.

Procedures are read while the asker waits, some 50 ms for 10,000. The vectors of 100,000 tasks take a second: they come
beside, and who cannot wait is answered without those that lack.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from itertools import islice
from typing import Final

import numpy as np

from jetmem.learn.board import Board, Vectors
from jetmem.learn.ports import News
from jetmem.learn.rows import Rows
from jetmem.learn.settings import LearnSettings
from jetmem.runtime.errors import Retryable
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

    def tell(self, news: News) -> None:
        with self._lock:
            if self._missed is not None:
                self._missed.append(news)
            elif self.board is not None:
                self.board.take(news)

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
        self._loader = Loader(settings.tasks_max)

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
            slot.tell(news)

    def clear(self) -> None:
        """Put all away."""
        with self._lock:
            self._held.clear()

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

    def __init__(self, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._closed = False
        self._pool = ThreadPoolExecutor(1, "boards")

    def opened(self, rows: Rows, tenant: str) -> Board:
        """A board with all procedures as they are stored."""
        board = Board(self._tasks_max)
        board.complete = False
        board.open(list(rows.procedures(tenant)))
        return board

    def load(self, rows: Rows, tenant: str, board: Board) -> Future[None]:
        """Begin to bring the vectors of the newest tasks."""
        return self._pool.submit(self._fill, rows, tenant, board)

    def close(self) -> None:
        """End what is begun, soon."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, rows: Rows, tenant: str, board: Board) -> None:
        newest = heapq.nlargest(self._tasks_max, rows.places(tenant))
        board.expect([task for _, task in reversed(newest)])
        for tasks, vectors in _chunks(rows, tenant):
            if self._closed:
                return
            board.fill(tasks, vectors)
        board.filled()


def _chunks(rows: Rows, tenant: str) -> Iterator[tuple[list[bytes], Vectors]]:
    """Tasks with their vectors (tasks, dimensions); those of one model are of one length."""
    found = ((task, raw) for task, raw in rows.all_vectors(tenant) if raw.startswith(VECTOR_MARK))
    mark = len(VECTOR_MARK)
    while some := list(islice(found, _CHUNK)):
        length = max(len(raw) for _, raw in some)
        some = [(task, raw) for task, raw in some if len(raw) == length]
        joined = np.frombuffer(b"".join(raw[mark:] for _, raw in some), dtype=np.float32)
        yield [task for task, _ in some], joined.reshape(len(some), -1)
