"""Makes nodes: a segment's of what was said, those above of their children's; each with what follows from it, at once.

A node's row, its version in the outbox and what must be made of its parent are one write, so that the process may end
anywhere. Equal content is not published again, whatever moved: a rebuild is quiet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from jetmem.domain import calendar, summaries
from jetmem.domain.calendar import NodeId
from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.crashpoints import crashpoint
from jetmem.summarize import core
from jetmem.summarize.ports import Analyzer
from jetmem.summarize.rows import NodeRow, OutboxRow, Rows, Wanted, encode, node_key, node_of, session_of
from jetmem.summarize.topics import Topics
from jetmem.summarize.waiting import Waiting
from jetmem_schemas.internal import Head

#: A version must be higher than the last; its own entry will make it so, or the next one.
_POSTPONED_S: Final = 0.25


class Made(NamedTuple):
    """A node as it is now: its row (None: it is no more), children and session."""

    row: NodeRow | None
    children: list[str]
    session: str = ""


class Maker:
    """Writer thread only. `at` is where each partition is; the process changes it."""

    def __init__(
        self,
        rows: Rows,
        waiting: Waiting,
        at: Mapping[int, Head],
        zones: Mapping[str, ZoneInfo],
        analyze: Analyzer,
        clock: Clock,
        topics: Topics,
    ) -> None:
        self._rows = rows
        self._waiting = waiting
        self._at = at
        self._zones = zones
        self._analyze = analyze
        self._clock = clock
        self._topics = topics

    def zone(self, tenant: str) -> ZoneInfo:
        """Whose days a tenant's days are."""
        return self._zones.get(tenant) or self._zones[""]

    def some(self, seconds: float) -> bool:
        """Make what is due, for so long; False when nothing is."""
        until = self._clock.monotonic() + seconds
        while (key := self._waiting.next()) is not None:
            self._make(key)
            if self._clock.monotonic() >= until:
                return True
        return False

    def _make(self, key: bytes) -> None:
        began = self._clock.monotonic()
        tenant, node = node_of(key)
        at = self._at[key[0]]
        wanted = self._waiting.wanted[key]
        old = self._rows.node(key)
        made = self._now(tenant, node, wanted.place or (old.place if old else b""))
        if made.row is None and old is None:
            self._drop(key, began)
            return
        row = msgspec.structs.replace(made.row or NodeRow(0), version=at.rseq)
        said = core.published(node, row, at.seq, made.children, made.session)
        digest = core.digest(said)
        settled = old is not None and (old.recorded == old.version or self._waiting.on_its_way(key))
        if old is not None and settled and not wanted.again and old.digest == digest:
            if made.row is None or old.summary is not None:
                self._drop(key, began)
            else:  # of a life before, and still right
                kept = msgspec.structs.replace(
                    row, version=old.version, digest=digest, rseq=old.rseq, recorded=old.recorded
                )
                self._write(key, kept, b"", wanted, began)
            return
        if old is not None and at.rseq <= old.version:
            self._waiting.postpone(key, _POSTPONED_S)
            return
        rseq, recorded = (old.rseq, old.recorded) if old else (0, -1)
        row = msgspec.structs.replace(row, digest=digest, rseq=rseq, recorded=recorded)
        self._write(key, row, core.encoded(said), wanted, began)
        metrics.summarized.labels(node.level).inc()

    def _drop(self, key: bytes, began: float) -> None:
        batch = self._rows.store.batch()
        self._waiting.made(batch, key, self._clock.monotonic() - began)
        self._rows.store.write(batch, sync=False)

    def _write(self, key: bytes, row: NodeRow, body: bytes, wanted: Wanted, began: float) -> None:
        """Keep a node, have its parent made, and publish it unless `body` is empty."""
        batch = self._rows.store.batch()
        tenant, node = node_of(key)
        batch.put("nodes", key, encode(row))
        if body:
            since = self._waiting.send(key, row.version)
            batch.put("outbox", key, encode(OutboxRow(row.version, since, body)))
        self._waiting.made(batch, key, self._clock.monotonic() - began)
        self._topics.made(batch, key, row, wanted.since)
        above = calendar.parent_of(node)
        if above is not None:
            self._waiting.want(batch, node_key(tenant, above), wanted.since, urgent=wanted.urgent)
        self._rows.store.write(batch, sync=False)
        crashpoint("summarize:after-node")

    def _now(self, tenant: str, node: NodeId, place: bytes) -> Made:
        if node.level == "segment":
            return self._segment(tenant, node, place)
        children = self._rows.children(tenant, node)
        if not children:
            return Made(None, [])
        return Made(core.rollup_row([row for _, row in children], self._analyze), [str(child) for child, _ in children])

    def _segment(self, tenant: str, node: NodeId, place: bytes) -> Made:
        segment = self._rows.segment(place)
        zone = self.zone(tenant)
        if segment is None or calendar.segment_node(segment, zone) != node:
            return Made(None, [])
        held = self._rows.events(tenant, [item.seq for item in segment.items])
        said = [event.said for event in held if event is not None]
        _, agent, session = session_of(place)
        summary = summaries.summarize(said, {}, self._analyze, zone)
        return Made(core.segment_row(node, place, segment, agent, summary), [], session)
