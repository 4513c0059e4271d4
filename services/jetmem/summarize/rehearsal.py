"""What making nodes again would do: every one is made, compared, and thrown away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, tzinfo

from jetmem.domain import calendar
from jetmem.runtime.clock import Clock
from jetmem.summarize.nodes import Maker
from jetmem.summarize.rows import Rows, node_key, node_of
from jetmem.summarize.sweeps import BELOW, page, reaches


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
        self._seen: set[bytes] = set()
        self._todo: list[tuple[bytes, bytes]] = []
        self._depth, self._after = BELOW, b""

    def some(self, seconds: float) -> bool:
        """Go on for so long; False at the end."""
        until = self._clock.monotonic() + seconds
        while self._todo or self._more():
            while self._todo:
                self._look(*self._todo.pop())
                if self._clock.monotonic() >= until:
                    return True
        return False

    def _more(self) -> bool:
        """Have something to look at, from the bottom up; False when nothing is left."""
        while not self._todo and self._depth >= 0:
            found = page(self._rows, self._zone, self._tenant, self._depth, self._after)
            self._todo = [(key, place) for _, key, place in found if reaches(node_of(key)[1], self._first)]
            if found:
                self._after = found[-1][0]
            else:  # those that are not there yet, above what is new
                self._todo = [(key, b"") for key in self._changed if node_of(key)[1].depth == self._depth]
                self._depth, self._after = self._depth - 1, b""
        return bool(self._todo)

    def _look(self, key: bytes, place: bytes) -> None:
        if key in self._seen:
            return
        self._seen.add(key)
        _, node = node_of(key)
        changes = key in self._changed or self._maker.differs(key, place)
        made, changed = self.levels[node.level]
        self.levels[node.level] = (made + 1, changed + changes)
        above = calendar.parent_of(node)
        if changes and above is not None:
            self._changed.add(node_key(self._tenant, above))
