"""What making nodes again would do: every one is made, compared, and thrown away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, tzinfo
from typing import Final

from jetmem.domain import calendar
from jetmem.runtime.clock import Clock
from jetmem.summarize.nodes import Maker
from jetmem.summarize.rows import Rows, node_key, node_of
from jetmem.summarize.sweeps import reaches, segment_node_key

_SEGMENT_DEPTH: Final = calendar.LEVELS.index("segment")


class Rehearsal:
    """One dry run of one tenant; on the writer thread, whose words it shares, in turns.

    Attributes:
        levels: Nodes by level, and those of them that would change, at most.
    """

    def __init__(
        self, rows: Rows, maker: Maker, clock: Clock, tenant: str, first: date | None, zone: Callable[[str], tzinfo]
    ) -> None:
        self.levels: dict[str, tuple[int, int]] = dict.fromkeys(calendar.LEVELS, (0, 0))
        self._rows = rows
        self._maker = maker
        self._clock = clock
        self._tenant = tenant
        self._first = first
        self._zone = zone(tenant)
        self._changed: set[bytes] = set()
        self._depth = _SEGMENT_DEPTH
        self._todo = self._segments()

    def some(self, seconds: float) -> bool:
        """Go on for so long; False at the end."""
        until = self._clock.monotonic() + seconds
        while self._depth >= 0:
            while self._todo:
                self._look(*self._todo.popitem())
                if self._clock.monotonic() >= until:
                    return True
            self._depth -= 1
            if self._depth >= 0:
                self._todo = self._level(self._depth)
        return False

    def _segments(self) -> dict[bytes, bytes]:
        """Keys of nodes with their segments', also of those that are there by mistake or not yet."""
        found = dict(self._reached((key, row.place) for key, row in self._rows.nodes(self._tenant, _SEGMENT_DEPTH)))
        every = self._rows.segments(self._tenant)
        found |= dict(self._reached((segment_node_key(self._tenant, each, self._zone), key) for key, each in every))
        return found

    def _level(self, depth: int) -> dict[bytes, bytes]:
        found = dict(self._reached((key, b"") for key, _ in self._rows.nodes(self._tenant, depth)))
        return found | {key: b"" for key in self._changed if node_of(key)[1].depth == depth}

    def _reached(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        return (each for each in found if reaches(node_of(each[0])[1], self._first))

    def _look(self, key: bytes, place: bytes) -> None:
        _, node = node_of(key)
        changes = key in self._changed or self._maker.differs(key, place)
        made, changed = self.levels[node.level]
        self.levels[node.level] = (made + 1, changed + changes)
        above = calendar.parent_of(node)
        if changes and above is not None:
            self._changed.add(node_key(self._tenant, above))
