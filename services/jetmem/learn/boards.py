"""Boards of tenants: loaded when somebody asks, the longest unasked put away when they are too many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from jetmem.learn.board import Board
from jetmem.learn.ports import News
from jetmem.learn.rows import VECTOR_MARK, Rows
from jetmem.learn.settings import LearnSettings

_CHUNK: Final = 2_000


class _Slot:
    """A tenant's board, or what it missed while it is being loaded."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self._missed: list[News] | None = None
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def tell(self, news: News) -> None:
        with self._lock:
            if self._missed is not None:
                self._missed.append(news)
            elif self.board is not None:
                self.board.take(news)

    def opened(self, rows: Rows, tenant: str, tasks_max: int) -> Board:
        if self.board is not None:
            return self.board
        with self._loading:
            if self.board is not None:
                return self.board
            with self._lock:
                self._missed = []  # from here on: what is written now may not be among what is read
            try:
                fresh = loaded(rows, tenant, tasks_max)
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

    def __init__(self, rows: Rows, settings: LearnSettings) -> None:
        self._rows = rows
        self._settings = settings
        self._held: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, tenant: str) -> Board:
        """A tenant's board, loaded if need be; only who asks for this tenant waits."""
        with self._lock:
            slot = self._held.setdefault(tenant, _Slot())
            self._held.move_to_end(tenant)
        board = slot.opened(self._rows, tenant, self._settings.tasks_max)
        self._trim()
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

    def _trim(self) -> None:
        with self._lock:
            loaded = [(name, slot.board.size) for name, slot in self._held.items() if slot.board is not None]
            total = sum(size for _, size in loaded)
            for name, size in loaded[:-1]:
                if total <= self._settings.board_bytes_max:
                    return
                del self._held[name]
                total -= size


def loaded(rows: Rows, tenant: str, tasks_max: int) -> Board:
    """A tenant's board from the store: all procedures, the newest tasks."""
    board = Board(tasks_max)
    news = News()
    for key, row in rows.procedures(tenant):
        news.procedures[key] = row
        if len(news.procedures) == _CHUNK:
            board.take(news)
            news = News()
    board.take(news)
    board.fill(_tasks(rows, tenant, tasks_max))
    return board


def _tasks(rows: Rows, tenant: str, most: int) -> Iterator[tuple[bytes, bytes]]:
    newest = sorted(rows.places(tenant))[-most:]
    for start in range(0, len(newest), _CHUNK):
        tasks = [task for _, task in newest[start : start + _CHUNK]]
        for task, raw in zip(tasks, rows.vectors(tenant, tasks), strict=True):
            if raw and raw.startswith(VECTOR_MARK):
                yield task, raw[1:]
