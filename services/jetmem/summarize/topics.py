"""Topics as they follow from segments: who waits for a place, who is in which topic, what a topic says.

A topic is made of its segments' rows alone, whenever one of them came, went or changed; so a kill between any two
writes leaves rows that agree, and what must still be done is a row, too (`unplaced`, `remake`, a tally that is due).
A forget takes a topic's words and centroid in its own write: whatever may hold what it erased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from jetmem.domain import calendar, keys
from jetmem.domain import topics as rules
from jetmem.domain.topics import Floats, Member, Regrouped
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.store import WriteSet
from jetmem.summarize.ports import Analyzer
from jetmem.summarize.rows import NodeRow, Rows, node_of, prefix
from jetmem.summarize.topic_rows import (
    MemberRow,
    PlacedRow,
    Tally,
    TopicRow,
    TopicRows,
    decode_flag,
    decode_head,
    encode,
    member_key,
    put_tally,
    stored,
    topic_key,
    topic_of,
)
from jetmem.summarize.topic_writer import TopicWriter
from jetmem_schemas.internal import Head

_SEGMENT_DEPTH: Final = calendar.LEVELS.index("segment")
#: Segments that are grouped, evenly over all time; the others join the nearest topic. Beyond that it takes minutes.
GROUPED_MAX: Final = 20_000
#: Set in `meta` once every closed segment of an older store waits for its place.
_BEGUN: Final = b"topics"
_WIPED: Final = ("topics", "members", "placed", "topic_vectors", "remake")


class Unplaced(NamedTuple):
    """A segment that waits: its node's key, the digest of what that says, and the numbers of its events."""

    key: bytes
    digest: bytes
    rseqs: list[int]


class Found(NamedTuple):
    """Its vector, None if nothing of it has one."""

    key: bytes
    digest: bytes
    vector: Floats | None


class Snapshot(NamedTuple):
    """Segments of a tenant with vectors, in order of time, and the tally of that moment."""

    keys: list[bytes]
    members: list[Member]
    vectors: Floats
    tally: Tally


class Topics:
    """Changed by the writer thread only; each change goes into its batch, too.

    Attributes:
        unplaced: By tenant, segments that must be placed, with the last entry before their change.
        remake: Topics that must be made again, and whether something of them was erased.
        tallies: Of each tenant with segments.
    """

    def __init__(self, rows: Rows, analyze: Analyzer, paused: Callable[[str], bool]) -> None:
        """Of a tenant that is `paused` only what a forget causes is done."""
        self.rows = TopicRows(rows)
        self.unplaced: dict[str, dict[bytes, Head]] = {}
        self.remake: dict[bytes, bool] = {}
        #: By tenant, those that must be made again and are not blank.
        self._full: dict[str, set[bytes]] = {}
        self.tallies: dict[str, Tally] = {}
        self._nodes = rows
        self._paused = paused
        self._writer = TopicWriter(self.rows, analyze)
        self.load()
        if rows.store.get("meta", _BEGUN) is None:
            self._begin()

    def load(self) -> None:
        """Begin with what the store holds."""
        self.unplaced.clear()
        for key, raw in self.rows.store.scan("unplaced", b""):
            self.unplaced.setdefault(keys.tenant_of(key), {})[key] = decode_head(raw)
        self._writer.forget()
        self.remake = {key: decode_flag(raw) for key, raw in self.rows.store.scan("remake", b"")}
        self._full.clear()
        for key, urgent in self.remake.items():
            self._note(key, urgent)
        self.tallies = self.rows.tallies()

    def _begin(self) -> None:
        batch = self.rows.store.batch()
        tenants = {keys.tenant_of(key) for key, _ in self.rows.store.scan("nodes", b"")}
        for tenant in sorted(tenants):
            self._await_all(batch, tenant)
        batch.put("meta", _BEGUN, b"")
        self.rows.store.write(batch, sync=True)

    def _await_all(self, batch: WriteSet, tenant: str) -> None:
        for key, row in self._nodes.nodes(tenant, _SEGMENT_DEPTH):
            if row.summary is not None and not row.open:
                self._await(batch, key, Head())

    def _await(self, batch: WriteSet, key: bytes, since: Head) -> None:
        self.unplaced.setdefault(keys.tenant_of(key), {})[key] = since
        batch.put("unplaced", key, encode(since))

    def _settle(self, batch: WriteSet, key: bytes) -> None:
        held = self.unplaced.get(keys.tenant_of(key), {})
        if held.pop(key, None) is not None:
            batch.delete("unplaced", key)
        if not held:
            self.unplaced.pop(keys.tenant_of(key), None)

    def _want(self, batch: WriteSet, tenant: str, topic: str, *, urgent: bool = False) -> None:
        """Have a topic made again; nothing is made of those in none."""
        key = topic_key(tenant, topic)
        if topic and self.remake.get(key) not in (True, urgent):
            self.remake[key] = urgent
            self._note(key, urgent)
            batch.put("remake", key, encode(urgent))

    def _note(self, key: bytes, blank: bool) -> None:
        tenant = keys.tenant_of(key)
        held = self._full.setdefault(tenant, set())
        if blank:
            held.discard(key)
        else:
            held.add(key)
        if not held:
            del self._full[tenant]

    # --- in the writes of others

    def made(self, batch: WriteSet, key: bytes, row: NodeRow, since: Head) -> None:
        """A node was made. A segment enters once it is closed, and stays where it is while it is open again."""
        if node_of(key)[1].depth != _SEGMENT_DEPTH:
            return
        placed = self.rows.placed(key)
        if row.summary is None or row.open:
            self._settle(batch, key)
        else:
            self._await(batch, key, since)
        if placed is None:
            return
        self._want(batch, keys.tenant_of(key), placed.topic)
        if row.summary is None:
            self._leave(batch, key, placed)

    def emptied(self, batch: WriteSet, key: bytes) -> None:
        """A node may hold erased words: what its topic says, and all that was made of its vector, may too."""
        if node_of(key)[1].depth != _SEGMENT_DEPTH:
            return
        self._settle(batch, key)
        batch.delete("topic_vectors", key)
        placed = self.rows.placed(key)
        if placed is not None and placed.topic:
            self._blank(batch, keys.tenant_of(key), placed.topic)

    def forgotten(self, batch: WriteSet, tenant: str) -> None:
        """Something of a tenant was erased: topics that are behind may hold it, whose segments these are by now."""
        self._writer.forget(tenant)
        for key in sorted(self._full.get(tenant, ())):
            self._blank(batch, tenant, topic_of(key)[1])

    def _blank(self, batch: WriteSet, tenant: str, topic: str) -> None:
        """Take its words, once until it is made again."""
        if self.remake.get(topic_key(tenant, topic)):
            return
        row = self.rows.topic(tenant, topic)
        if row is not None:
            blank = msgspec.structs.replace(row, title="", keywords=[], centroid=b"", agents=[])
            batch.put("topics", topic_key(tenant, topic), encode(blank))
        self._want(batch, tenant, topic, urgent=True)

    # --- placing

    def waiting(self) -> list[str]:
        """Tenants whose segments are to be placed now. From any thread."""
        return [tenant for tenant in list(self.unplaced) if not self._paused(tenant)]

    def wanted(self, tenant: str, resting: frozenset[bytes], events_max: int) -> list[Unplaced]:
        """Segments that can be placed as soon as their vectors are had, those of some `events_max` events.

        From any thread.

        Args:
            tenant: Whose.
            resting: Not these.
            events_max: No more are taken once there are so many.
        """
        found: list[Unplaced] = []
        count = 0
        for key in list(self.unplaced.get(tenant, ())):
            row = self._nodes.node(key) if key not in resting else None
            segment = self._nodes.segment(row.place) if row is not None and row.summary is not None else None
            if row is None or segment is None:
                continue  # it is being made again, and comes again when it is made
            found.append(Unplaced(key, row.digest, [item.seq for item in segment.items]))
            count += len(segment.items)
            if count >= events_max:
                break
        return found

    def place(self, tenant: str, model: str, found: Sequence[Found]) -> int:
        """Put segments into the topics that they are near; how many were still as they were when they were read."""
        tally = self.tallies.get(tenant)
        if tally is not None and model and tally.model != model:
            self._begin_again(tenant, model)
        batch = self.rows.store.batch()
        current = [(each, row) for each in found if (row := self._current(each)) is not None]
        names, centres = self.rows.centres(tenant)
        vectors = [each.vector for each, _ in current if each.vector is not None]
        near = iter(rules.nearest(np.stack(vectors), centres) if vectors else [])
        for each, row in current:
            number = next(near) if each.vector is not None else -1
            self._place(batch, each, row, names[number] if number >= 0 else "", model)
            self._settle(batch, each.key)
        self._write(batch, tenant)
        return len(current)

    def _current(self, found: Found) -> NodeRow | None:
        """The segment's node, if it still is what was read."""
        held = self.unplaced.get(keys.tenant_of(found.key), {})
        row = self._nodes.node(found.key) if found.key in held else None
        return row if row is not None and row.summary is not None and row.digest == found.digest else None

    def _place(self, batch: WriteSet, found: Found, node: NodeRow, topic: str, model: str) -> None:
        key, tenant = found.key, keys.tenant_of(found.key)
        old = self.rows.placed(key)
        if old is not None:
            self._leave(batch, key, old, went=False)
            self._want(batch, tenant, old.topic)
        if found.vector is None or node.summary is None:
            return
        tally = self.tallies.get(tenant, Tally(model))
        self.tallies[tenant] = msgspec.structs.replace(
            tally,
            segments=tally.segments + 1,
            fresh=tally.fresh + (old is None),
            strays=tally.strays + (old is None and not topic),
        )
        placed = PlacedRow(topic, node.start)
        batch.put("placed", key, encode(placed))
        batch.put("topic_vectors", key, stored(found.vector))
        member = MemberRow(node.end, node.events, node.summary.salience, node.agents)
        batch.put("members", member_key(key, placed), encode(member))
        self._want(batch, tenant, topic)

    def _leave(self, batch: WriteSet, key: bytes, placed: PlacedRow, *, went: bool = True) -> None:
        """Of a segment nothing stays; unless it `went`, it comes back at once, and grouping has nothing new to see."""
        tenant = keys.tenant_of(key)
        batch.delete("placed", key)
        batch.delete("topic_vectors", key)
        batch.delete("members", member_key(key, placed))
        tally = self.tallies.get(tenant, Tally())
        left = msgspec.structs.replace(tally, segments=max(0, tally.segments - 1), fresh=tally.fresh + went)
        self.tallies[tenant] = left
        put_tally(batch, tenant, left)

    def _begin_again(self, tenant: str, model: str) -> None:
        """Vectors of another model cannot be compared: every segment waits for its place once more."""
        batch = self.rows.store.batch()
        for family in _WIPED:
            for key, _ in self.rows.store.scan(family, prefix(tenant)):
                batch.delete(family, key)
        self.remake = {key: urgent for key, urgent in self.remake.items() if not key.startswith(prefix(tenant))}
        self._full.pop(tenant, None)
        self._await_all(batch, tenant)
        self.tallies[tenant] = Tally(model)
        self._write(batch, tenant)

    def _write(self, batch: WriteSet, tenant: str) -> None:
        if tenant in self.tallies:
            put_tally(batch, tenant, self.tallies[tenant])
            if not self.tallies[tenant].segments:
                del self.tallies[tenant]
        self.rows.store.write(batch, sync=False)
        crashpoint("summarize:after-topics")

    # --- grouping

    def due(self) -> list[str]:
        """Tenants whose segments are to be grouped again. From any thread."""
        held = [(tenant, tally, len(self.unplaced.get(tenant, ()))) for tenant, tally in list(self.tallies.items())]
        due = [tenant for tenant, t, waiting in held if rules.due(t.segments, t.fresh, t.strays, waiting)]
        return [tenant for tenant in due if not self._paused(tenant)]

    def snapshot(self, tenant: str) -> Snapshot:
        """What is grouped. From any thread."""
        tally = self.tallies.get(tenant, Tally())
        placed = list(self.rows.every_placed(tenant))
        held = [
            (key, row, vector)
            for (key, row), vector in zip(placed, self.rows.vectors([key for key, _ in placed]), strict=True)
            if vector is not None
        ]
        members = [Member(node_of(key)[1].key, row.topic) for key, row, _ in held]
        vectors = np.stack([vector for *_, vector in held]) if held else np.zeros((0, 0), np.float32)
        return Snapshot([key for key, *_ in held], members, vectors, tally)

    def move(self, tenant: str, moves: Sequence[tuple[bytes, str, str]]) -> None:
        """Move segments from one topic to another, those that are still there."""
        batch = self.rows.store.batch()
        for key, was, topic in moves:
            placed = self.rows.placed(key)
            if placed is None or placed.topic != was:
                continue
            now = PlacedRow(topic, placed.start)
            member = self.rows.store.get("members", member_key(key, placed))
            batch.delete("members", member_key(key, placed))
            batch.put("members", member_key(key, now), member or b"")
            batch.put("placed", key, encode(now))
            self._want(batch, tenant, was)
            self._want(batch, tenant, topic)
        self._write(batch, tenant)

    def grouped(self, tenant: str, before: Tally, plan: Regrouped) -> None:
        """All moves are made: note what has ended, and count anew from the moment that was grouped."""
        batch = self.rows.store.batch()
        for topic, into in plan.merged.items():
            batch.put("topics", topic_key(tenant, topic), encode(TopicRow(merged_into=into)))
        for topic, row in self.rows.topics(tenant):
            if row.merged_into in plan.merged:
                again = msgspec.structs.replace(row, merged_into=plan.merged[row.merged_into])
                batch.put("topics", topic_key(tenant, topic), encode(again))
        if tenant in self.tallies:
            tally = self.tallies[tenant]
            self.tallies[tenant] = msgspec.structs.replace(
                tally, fresh=max(0, tally.fresh - before.fresh), strays=max(0, tally.strays - before.strays)
            )
        self._write(batch, tenant)

    # --- making

    def next(self) -> tuple[bytes, bool] | None:
        """A topic to be made, and whether it is urgent; urgent ones first. From any thread."""
        held = list(self.remake.items())
        urgent = next((each for each in held if each[1]), None)
        return urgent or next((each for each in held if not self._paused(keys.tenant_of(each[0]))), None)

    def make(self, key: bytes) -> None:
        """Make one topic of its segments; without any it is gone."""
        tenant, topic = topic_of(key)
        batch = self.rows.store.batch()
        members = list(self.rows.members(tenant, topic))
        if members:
            segments = self.tallies.get(tenant, Tally()).segments
            batch.put("topics", key, encode(self._writer.row(tenant, members, segments)))
        else:
            self._end(batch, tenant, topic)
        self.remake.pop(key, None)
        self._note(key, blank=True)  # it needs no blanking
        batch.delete("remake", key)
        self._write(batch, tenant)

    def _end(self, batch: WriteSet, tenant: str, topic: str) -> None:
        """It has no segments. Its row stays if it was merged, as long as the topic that it was merged into."""
        row = self.rows.topic(tenant, topic)
        if row is not None and row.merged_into and self.rows.topic(tenant, row.merged_into) is not None:
            return
        batch.delete("topics", topic_key(tenant, topic))
        for name, other in self.rows.topics(tenant):
            if other.merged_into == topic:
                batch.delete("topics", topic_key(tenant, name))

    # --- how far it is, from any thread

    def at(self, tenant: str, nodes: Head) -> Head:
        """Up to where every closed segment has its place; `nodes`: up to where every node is recorded."""
        waiting = list(self.unplaced.get(tenant, {}).values())
        return min([nodes, *waiting], key=lambda head: head.rseq)

    def count(self, tenant: str) -> int:
        """Segments that wait for their place, of a tenant or, with "", of all."""
        if tenant:
            return len(self.unplaced.get(tenant, ()))
        return sum(len(held) for held in list(self.unplaced.values()))
