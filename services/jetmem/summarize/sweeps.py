"""Have many nodes of a tenant made again: because its days are others now, or because a command asked for it.

A row says what is under way, and goes in the same write as the last nodes are wanted; a restart begins it anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, tzinfo
from itertools import islice
from typing import Final

import msgspec

from jetmem.domain import calendar
from jetmem.domain.calendar import NodeId
from jetmem.domain.lanes import Segment
from jetmem.runtime.clock import Clock
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.store import WriteSet
from jetmem.summarize.rows import Rows, encode, node_key, node_of, prefix
from jetmem.summarize.waiting import Waiting
from jetmem_schemas.internal import Head
from jetmem_schemas.subjects import partition_of

#: Nodes wanted in one write: some 10 ms.
_AT_ONCE: Final = 500
_SWEEPING: Final = b"sweep:"
#: Below the deepest level of nodes: segments themselves.
BELOW: Final = len(calendar.LEVELS)


def segment_node_key(tenant: str, segment: Segment, zone: tzinfo) -> bytes:
    """The key of a segment's node."""
    return node_key(tenant, calendar.segment_node(segment, zone))


def reaches(node: NodeId, first: date | None) -> bool:
    """Whether a node may tell of this day or a later one."""
    return first is None or calendar.days_of(node)[1] >= first


def page(rows: Rows, zone: tzinfo, tenant: str, depth: int, after: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Some nodes of a level that are there, of `BELOW` those that should be: of their segments.

    Returns:
        Key in the store, to go on after; the node's; and of a segment's node that of its segment.
    """
    if depth != BELOW:
        return [(key, key, row.place) for key, row in islice(rows.nodes(tenant, depth, after), _AT_ONCE)]
    found = islice(rows.segments(tenant, after), _AT_ONCE)
    return [(key, segment_node_key(tenant, segment, zone), key) for key, segment in found]


class Sweeps:
    """Writer thread only, but for `running` and `asked`. `at` is where each partition is.

    Attributes:
        asked: By tenant, how many nodes the last sweep since the start has asked for.
    """

    def __init__(
        self, rows: Rows, waiting: Waiting, at: Mapping[int, Head], zone: Callable[[str], tzinfo], clock: Clock
    ) -> None:
        self._rows = rows
        self._waiting = waiting
        self._at = at
        self._zone = zone
        self._clock = clock
        self.asked: Counter[str] = Counter()
        #: By tenant: from which day on, and how far it is: the level (below all: segments) and the last key.
        self._first: dict[str, date | None] = {}
        self._done: dict[str, tuple[int, bytes]] = {}
        self.load()

    def load(self) -> None:
        """Begin again what the store says is under way; of a tenant that is another shard's by now there is nothing."""
        self._first.clear()
        self._done.clear()
        for key, raw in self._rows.store.scan("meta", _SWEEPING):
            tenant, ordinal = key.removeprefix(_SWEEPING).decode(), msgspec.msgpack.decode(raw, type=int)
            if partition_of(tenant) in self._at:
                self._first[tenant] = date.fromordinal(ordinal) if ordinal else None

    def begin(self, batch: WriteSet, tenant: str, first: date | None = None) -> None:
        """Have the nodes from a day on made again, all if it is None, by and by; the batch is to be written next."""
        if tenant in self._first:
            old = self._first[tenant]
            first = None if old is None or first is None else min(old, first)
        batch.put("meta", _SWEEPING + tenant.encode(), encode(first.toordinal() if first else 0))
        self._first[tenant] = first
        self._done.pop(tenant, None)
        self.asked[tenant] = 0

    def running(self, tenant: str) -> bool:
        """Whether there are nodes that are not even wanted yet. From any thread."""
        return tenant in self._first

    def some(self, seconds: float) -> bool:
        """Go on for so long; False when nothing is under way."""
        until = self._clock.monotonic() + seconds
        while self._first:
            self._step(next(iter(self._first)))
            if self._clock.monotonic() >= until:
                return True
        return False

    def _step(self, tenant: str) -> None:
        """A few nodes of one level, from the bottom up, so that each is made once."""
        depth, after = self._done.get(tenant, (BELOW, b""))
        batch = self._rows.store.batch()
        since = self._at[prefix(tenant)[0]]
        found = page(self._rows, self._zone(tenant), tenant, depth, after)
        for _, key, place in found:
            if self._reached(tenant, key):
                self.asked[tenant] += not self._waiting.is_asked(key)
                self._waiting.want(batch, key, since, place=place, asked=True)
        if found or depth:
            self._done[tenant] = (depth, found[-1][0]) if found else (depth - 1, b"")
        else:
            self._waiting.ask(batch, [key for key in self._waiting.keys_of(tenant) if self._reached(tenant, key)])
            del self._first[tenant]
            del self._done[tenant]
            batch.delete("meta", _SWEEPING + tenant.encode())
        self._rows.store.write(batch, sync=False)
        crashpoint("summarize:after-sweep")

    def _reached(self, tenant: str, key: bytes) -> bool:
        return reaches(node_of(key)[1], self._first[tenant])
