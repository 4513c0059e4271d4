"""Apply facts: events into segments, nodes that came back, what was erased. Everything here runs on the writer thread.

One write holds a batch's rows, what must be made of it, and the checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final

import msgspec

from jetmem.domain import calendar, keys, lanes
from jetmem.domain.lanes import Item, Rules
from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.corrections import Corrections
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.ledger import Ledger
from jetmem.runtime.store import WriteSet
from jetmem.summarize import core
from jetmem.summarize.nodes import Maker
from jetmem.summarize.places import holding
from jetmem.summarize.ports import Analyzer
from jetmem.summarize.rows import (
    FAMILIES,
    NodeRow,
    Rows,
    encode,
    id_key,
    node_key,
    prefix,
    session_key,
    session_of_segment,
)
from jetmem.summarize.sessions import Sessions
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.sweeps import Sweeps
from jetmem.summarize.tenants import Setting, Tenants
from jetmem.summarize.timetable import Timetable
from jetmem.summarize.topics import Topics
from jetmem.summarize.waiting import Waiting
from jetmem_schemas.internal import Entry, Forgotten, Head

_DAY_MS: Final = 24 * 3_600_000
#: Sessions closed in one write.
_CLOSED_AT_ONCE: Final = 256
#: Set in `meta` of a store that knows what every event corrects.
_CORRECTED: Final = b"corrected"
_SEGMENT_DEPTH: Final = calendar.LEVELS.index("segment")

_forgotten = msgspec.msgpack.Decoder(Forgotten).decode


class Summarizer:
    """The writer of summarize's store.

    Attributes:
        at: Per partition, the last entry applied.
        erased: Per tenant, the last forget whose words may still be in files.
        maker: Makes the nodes that wait.
        sweeps: Have many nodes of a tenant made again.
        tenants: What tenants set.
        waiting: What waits.
        topics: Groups of segments.
    """

    def __init__(
        self,
        rows: Rows,
        settings: SummarizeSettings,
        parts: Iterable[int],
        analyze: Analyzer,
        clock: Clock,
        *,
        timezone: str = "UTC",
    ) -> None:
        self.rows = rows
        self.parts = tuple(parts)
        self.at = {part: rows.position(part) for part in self.parts}
        self.ledger = Ledger(rows.store)
        self.erased = self.ledger.erased
        rules = Rules(lateness_ms=int(settings.lateness_days * _DAY_MS))
        self.corrections = Corrections(rows.store)
        self.sessions = Sessions(rows, rules, settings.sessions_max)
        self.tenants = tenants = Tenants(rows.store, self.parts, timezone)
        timetable = Timetable(settings.rollup_schedule, settings.rollup_jitter_s, tenants.zone)
        self.waiting = Waiting(rows, settings, clock, timetable, tenants.paused)
        self.sweeps = Sweeps(rows, self.waiting, self.at, tenants.zone, clock)
        self.topics = Topics(rows, analyze, tenants.paused)
        tells = bool(settings.endpoint_url)
        self.maker = Maker(rows, self.waiting, self.at, tenants.zone, analyze, clock, self.topics, tells=tells)
        self._nodes: dict[bytes, NodeRow | None] = {}
        for part in self.ledger.unfinished():
            self.reset(part)
        if rows.store.get("meta", _CORRECTED) is None:
            self._begin_again()
        tenants.begin(self.sweeps, (name for part in self.parts for name in rows.tenants(part)))

    def _begin_again(self) -> None:
        """A store of before corrections were kept knows of none: read the log anew."""
        for part, at in self.at.items():
            if at.rseq:
                self.reset(part)
        self.ledger.note(_CORRECTED)

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply entries in order; what was applied before is passed over."""
        run: list[Entry] = []
        for entry in entries:
            if entry.rseq <= self.at[part].rseq:
                continue
            if entry.kind == "forgot":
                self._apply_run(part, run)
                self._forget(part, entry)
                run = []
            else:
                run.append(entry)
        self._apply_run(part, run)

    def _apply_run(self, part: int, run: Sequence[Entry]) -> None:
        if not run:
            return
        batch = self.rows.store.batch()
        sessions: dict[bytes, list[Item]] = defaultdict(list)
        arrived: dict[bytes, int] = {}
        corrected: dict[str, list[str]] = defaultdict(list)
        since = self.at[part]
        for entry in run:
            if entry.kind == "event":
                row, item = core.event_of(entry)
                batch.put("events", prefix(entry.tenant) + keys.u64(entry.rseq), encode(row))
                batch.put("ids", id_key(entry.tenant, entry.id), keys.u64(entry.rseq))
                named = self.corrections.take(batch, entry)
                if named:
                    corrected[entry.tenant].append(named)
                key = session_key(entry.tenant, entry.agent, entry.session)
                sessions[key].append(item)
                arrived[key] = max(entry.at, arrived.get(key, 0))
            elif entry.kind == "derived":
                self._returned(batch, entry)
        for tenant, ids in corrected.items():  # those of this batch are made anyway
            self._correct(batch, tenant, dict.fromkeys(ids), since)
        for key, items in sessions.items():
            self._want(batch, key, self.sessions.add(batch, key, items, arrived[key]), since)
        last = run[-1]
        self._write(batch, part, Head(last.rseq, last.seq))

    def _correct(self, batch: WriteSet, tenant: str, ids: Iterable[str], since: Head) -> None:
        """Have nodes made again that may tell of these events as if they were right."""
        for id_ in ids:
            for place, segment in holding(self.rows, tenant, id_):
                self._want(batch, session_of_segment(place), {place: segment.anchor}, since)

    def _want(
        self, batch: WriteSet, session: bytes, segments: Mapping[bytes, Item], since: Head, *, urgent: bool = False
    ) -> None:
        tenant = keys.tenant_of(session)
        zone = self.maker.zone(tenant)
        for place, anchor in segments.items():
            day = calendar.day_of(anchor.ts, zone)
            node = calendar.NodeId(day, _SEGMENT_DEPTH, lanes.segment_ulid(anchor))
            self.waiting.want(batch, node_key(tenant, node), since, place=place, urgent=urgent)

    def _write(self, batch: WriteSet, part: int, at: Head) -> None:
        self.rows.set_position(batch, part, at)
        self.rows.store.write(batch, sync=False)
        self.at[part] = at
        self._nodes.clear()
        self.sessions.trim()
        crashpoint("summarize:after-store")

    # --- nodes that were recorded

    def _node(self, key: bytes) -> NodeRow | None:
        """A node as this batch leaves it."""
        return self._nodes[key] if key in self._nodes else self.rows.node(key)

    def _put_node(self, batch: WriteSet, key: bytes, row: NodeRow | None) -> None:
        self._nodes[key] = row
        if row is None:
            batch.delete("nodes", key)
        else:
            batch.put("nodes", key, encode(row))

    def _returned(self, batch: WriteSet, entry: Entry) -> None:
        """A node is recorded: ours, of this life or of one before."""
        try:
            told = core.recorded(entry.body)
            key = node_key(entry.tenant, calendar.parse(told.id))
        except (msgspec.DecodeError, calendar.BadNodeId):
            return  # derived, and no node
        row = self._node(key)
        if row is None:
            if told.gone:
                return
            row = NodeRow(told.version)
        if told.version <= row.recorded:
            return
        on_its_way = self._on_its_way(key)
        ours = told.version == row.version and (on_its_way == told.version)
        start = prefix(entry.tenant)
        if row.rseq:
            batch.delete("published", start + keys.u64(row.rseq))
        if on_its_way is not None and told.version >= on_its_way:
            self.waiting.back(batch, key)
        batch.delete("theirs", key)
        if told.gone and row.summary is None:
            self._put_node(batch, key, None)
            return
        batch.put("published", start + keys.u64(entry.rseq), key)
        fresh = msgspec.structs.replace(row, rseq=entry.rseq, recorded=told.version)
        if not ours and told.version >= row.version:
            digest = core.digest_of(entry.body)
            if digest != row.digest or row.summary is None:
                # of another life, or ours was not taken: what is right now must be recorded after it
                self.waiting.want(batch, key, self.at[key[0]], again=row.summary is not None)
                if digest:
                    batch.put("theirs", key, entry.body)
            kept = row.digest if row.summary is not None else digest
            fresh = msgspec.structs.replace(fresh, version=told.version, digest=kept)
        self._put_node(batch, key, fresh)

    def _on_its_way(self, key: bytes) -> int | None:
        if key in self.waiting.sent:
            return self.waiting.sent[key][0]
        return self.waiting.unsent.get(key)

    def refused(self) -> int:
        """Give up what MEMORY took and persist did not record though it came so far; how many."""
        lost = [key for key, (_, seq) in self.waiting.sent.items() if self.at[key[0]].seq >= seq]
        if lost:
            batch = self.rows.store.batch()
            for key in lost:
                self.waiting.back(batch, key)
            self.rows.store.write(batch, sync=False)
        return len(lost)

    # --- time

    def close(self, due: Sequence[bytes], now_ms: int) -> None:
        """Close these sessions' last segments, if nothing has come to them since."""
        for start in range(0, len(due), _CLOSED_AT_ONCE):
            batch = self.rows.store.batch()
            for key in due[start : start + _CLOSED_AT_ONCE]:
                since = self.at[key[0]]
                before = Head(max(0, since.rseq - 1), max(0, since.seq - 1))
                self._want(batch, key, self.sessions.close(batch, key, now_ms), before)
            self.rows.store.write(batch, sync=False)
            self.sessions.trim()

    def due(self, now_ms: int) -> list[bytes]:
        """Sessions whose segments are to be closed. From any thread."""
        return [k for k, raw in self.rows.store.scan("closing", b"") if msgspec.msgpack.decode(raw, type=int) <= now_ms]

    # --- what tenants set

    def told(self, news: Sequence[Setting]) -> None:
        """What tenants set has changed; whose days are others now has its nodes filed anew, by and by."""
        self.tenants.take(news, self.sweeps, self.waiting)

    def remake(self, tenant: str, first: date | None) -> None:
        """Have a tenant's nodes made again, from a day on or all, by and by."""
        batch = self.rows.store.batch()
        self.sweeps.begin(batch, tenant, first)
        self.rows.store.write(batch, sync=True)

    def some(self, seconds: float) -> bool:
        """Make nodes that are due for so long, what is to be made of many first; False when nothing is due."""
        return self.sweeps.some(seconds) or self.maker.some(seconds)

    # --- erasing

    def _forget(self, part: int, entry: Entry) -> None:
        """Erase events; make again what was made of them, and publish again what persist erased or will not take."""
        gone = _forgotten(entry.body).rseqs
        tenant = entry.tenant
        batch = self.rows.store.batch()
        since = self.at[part]
        sessions: dict[bytes, list[Item]] = defaultdict(list)
        for rseq, row in zip(gone, self.rows.events(tenant, gone), strict=True):
            if row is not None:
                batch.delete("events", prefix(tenant) + keys.u64(rseq))
                batch.delete("ids", id_key(tenant, row.said.id))
                sessions[session_key(tenant, row.agent, row.session)].append(Item(row.said.ts, rseq, row.said.id, 1))
        for key, items in sessions.items():
            self._want(batch, key, self.sessions.erase(batch, key, items), since, urgent=True)
        # a node without what an erased event corrected names that among its sources, so it is blanked as well
        self.corrections.drop(batch, tenant, gone)
        blanked = self._blanked(batch, tenant, gone)
        for key in blanked:
            self.waiting.want(batch, key, since, again=True, urgent=True)
        full = self.waiting.full(tenant)  # each is emptied once, however many entries a forget has
        for key in full:
            self._empty(batch, key)
            if self.waiting.on_its_way(key):
                behind = self.waiting.back(batch, key)
                self.waiting.want(batch, key, behind or since, again=True, urgent=True)
            elif key in self.waiting.wanted:
                self.waiting.want(batch, key, since, urgent=True)
        self.topics.forgotten(batch, tenant)
        if sessions or blanked:
            self.ledger.erase(batch, tenant, entry.rseq)
        self._write(batch, part, Head(entry.rseq, entry.seq))
        self.waiting.emptied(tenant, full)

    def _blanked(self, batch: WriteSet, tenant: str, gone: Sequence[int]) -> list[bytes]:
        """Nodes whose newest entries are among the erased ones."""
        found = self.rows.published(tenant, gone)
        for key in found:
            row = self.rows.node(key)
            if row is not None:
                batch.delete("published", prefix(tenant) + keys.u64(row.rseq))
                self._put_node(batch, key, msgspec.structs.replace(row, rseq=0, recorded=-1))
                self._empty(batch, key)
        return found

    def _empty(self, batch: WriteSet, key: bytes) -> None:
        """Take the words out of a node that may hold erased ones, before anything above can be made of them.

        What is neither recorded with erased sources nor behind was made of none of them.
        """
        batch.delete("theirs", key)
        batch.delete("vectors", key)
        self.topics.emptied(batch, key)
        row = self._node(key)
        if row is not None and row.summary is not None:
            self._put_node(batch, key, msgspec.structs.replace(row, summary=None, grips=[]))

    def purgeable(self) -> dict[str, int]:
        """Tenants of whom no row holds what they forgot; the files may."""
        return {tenant: rseq for tenant, rseq in self.erased.items() if not self.waiting.urgent(tenant)}

    def purged(self, tenants: Mapping[str, int]) -> None:
        """The files were rewritten after `purgeable` told of these."""
        self.ledger.purged(tenants)

    def reset(self, part: int) -> None:
        """Forget everything of a partition; what is begun is finished, if need be by the next process."""
        held = {keys.tenant_of(key) for key, _ in self.rows.store.scan("sessions", keys.partition(part))}
        self.ledger.drop(part, held, FAMILIES)
        self.sessions.clear()
        self.waiting.load()
        self.topics.load()
        batch = self.rows.store.batch()
        self.ledger.dropped(batch, part)
        self._write(batch, part, Head())
        self.rows.store.sync()
        metrics.toc_waiting.set(self.waiting.count())
