"""Brings vectors to the segments at rest that were made without them, as index comes to have them.

Nothing waits for it: a segment is made by words, and again when its vectors are there. What is lacking are rows,
written with the node; this loop keeps nothing, so it may end anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Final, NamedTuple

from jetmem.domain import keys
from jetmem.domain.lanes import Item
from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.store import Work
from jetmem.summarize.better import Better
from jetmem.summarize.index_vectors import fetched
from jetmem.summarize.nodes import Maker
from jetmem.summarize.ports import EntryVectors
from jetmem.summarize.rows import Lacking, Rows, decode_lacking

#: Rows looked at in one read.
_SLICE: Final = 512
#: Segments are brought together until they have so many events: a few MB of vectors, or one segment's.
_EVENTS_AT_ONCE: Final = 1_000
#: From lap to lap: at least so long, so that a segment that was just closed soon has its vectors …
_REST_S: Final = 1.0
#: … and so many times as long as the lap took, so that a million that wait for embed take no processor's time.
_TIMES: Final = 10.0
_REST_MAX_S: Final = 60.0


class _Wanted(NamedTuple):
    """A segment's node, its content now, and its events."""

    key: bytes
    content: bytes
    items: list[Item]


class Vectors:
    """`ask` index; what it does not tell now is asked in the next lap. Open segments must have rested for `rest_s`.

    Of tenants that are `paused` nothing is made.
    """

    def __init__(
        self,
        rows: Rows,
        maker: Maker,
        in_reader: Work,
        in_writer: Work,
        ask: EntryVectors,
        clock: Clock,
        rest_s: float,
        paused: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._rest_ms = rest_s * 1000
        self._paused = paused
        self._rows = rows
        self._maker = maker
        self._in_reader = in_reader
        self._in_writer = in_writer
        self._ask = ask

    async def run(self) -> None:
        """Lap after lap, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            made = await self.lap()
            took_s = loop.time() - began
            await asyncio.sleep(_REST_S if made else min(_REST_MAX_S, max(_REST_S, _TIMES * took_s)))

    async def lap(self) -> int:
        """Look at all that lack vectors, once; how many were made with theirs."""
        made = seen = 0
        after = b""
        while rows := await self._in_reader(partial(self._slice, after)):
            after = rows[-1][0] + b"\0"
            seen += len(rows)
            for tenant, of_tenant in groupby(rows, key=lambda row: keys.tenant_of(row[0])):
                try:
                    made += await self._bring(tenant, list(of_tenant))
                except RequestFailed:
                    continue  # index is away, or slow: the words stand
        metrics.toc_without_vectors.set(seen - made)
        return made

    def _slice(self, after: bytes) -> list[tuple[bytes, Lacking]]:
        found = self._rows.store.scan("lacking", b"", start=after)
        return [(key, decode_lacking(raw)) for key, raw in islice(found, _SLICE)]

    async def _bring(self, tenant: str, rows: Sequence[tuple[bytes, Lacking]]) -> int:
        rested = self._clock.now_ms() - self._rest_ms
        rows = [(key, lacking) for key, lacking in rows if not lacking.open or lacking.since_ms <= rested]
        if not rows or self._paused(tenant):
            return 0
        at = (await self._ask(tenant, [])).at
        made = 0
        lot: list[bytes] = []
        events = 0
        for key, lacking in rows:
            if lacking.last > at.rseq:
                continue
            lot.append(key)
            events += lacking.events
            if events >= _EVENTS_AT_ONCE:
                made += await self._lot(tenant, lot)
                lot, events = [], 0
        return made + await self._lot(tenant, lot)

    async def _lot(self, tenant: str, lot: Sequence[bytes]) -> int:
        """Fetch the vectors of a few segments, and have these made; how many were."""
        wanted: list[_Wanted] = await self._in_reader(partial(self._contents, tenant, lot))
        found = await fetched(self._ask, tenant, [item.seq for each in wanted for item in each.items])
        if found is None:
            return 0
        made = 0
        for each in wanted:
            if found.whole([item.seq for item in each.items]):
                vectors = {item.id: found.held[item.seq] for item in each.items if item.seq in found.held}
                came = Better(each.content, found.model, vectors)
                made += await self._in_writer(partial(self._maker.improve, each.key, came))
        return made

    def _contents(self, tenant: str, lot: Sequence[bytes]) -> list[_Wanted]:
        wanted = []
        for key in lot:
            row = self._rows.node(key) if self._rows.is_settled(key) else None
            segment = self._rows.segment(row.place) if row is not None and row.summary is not None else None
            if segment is not None:
                wanted.append(_Wanted(key, self._maker.segment_content(tenant, segment)[0], segment.items))
        return wanted
