"""Makes nodes: a segment's of what was said, those above of their children's; each with what follows from it, at once.

A node's row, its version in the outbox and what must be made of its parent are one write, so that the process may end
anywhere. Equal content is not published again, whatever moved: a rebuild is quiet.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from jetmem.domain import calendar, summaries
from jetmem.domain.calendar import NodeId
from jetmem.domain.extract import Said
from jetmem.domain.lanes import Segment
from jetmem.domain.summaries import Summary
from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.corrections import Corrections
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.logs import logger
from jetmem.runtime.store import WriteSet
from jetmem.summarize import better as betters
from jetmem.summarize import core
from jetmem.summarize.better import Better
from jetmem.summarize.ports import Analyzer
from jetmem.summarize.rows import (
    Lacking,
    NodeRow,
    OutboxRow,
    Rows,
    Untold,
    VectorsRow,
    Wanted,
    encode,
    node_key,
    node_of,
    session_of,
)
from jetmem.summarize.topics import Topics
from jetmem.summarize.waiting import Waiting
from jetmem_schemas.internal import Head

#: A version must be higher than the last; its own entry will make it so, or the next one.
_POSTPONED_S: Final = 0.25
#: A node that cannot be made is tried again after so long, and with every change.
_ASIDE_S: Final = 60.0
#: Faults of ours in making one node; what a store raises is none of these.
_FAULTS: Final = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError)
#: Days between those of one time in two zones, which are 26 hours apart at most.
_DAYS_APART: Final = (-1, 1, -2, 2)
#: Children whose vectors are in memory at once: some 9 kB each.
_VECTORS_AT_ONCE: Final = 256


class Made(NamedTuple):
    """A node as it is now: its row (None: it is no more), children, session, and new vectors of its bullets, if any.

    `below`: rows of its children; `corrected`: of a segment, ids of its events that another corrects.
    """

    row: NodeRow | None
    children: list[str]
    session: str = ""
    vectors: VectorsRow | None = None
    below: Sequence[NodeRow] = ()
    corrected: Collection[str] = ()


class Maker:
    """Writer thread only. `at` is where each partition is; the process changes it. `tells`: an endpoint is asked.

    Attributes:
        zone: Whose days a tenant's days are.
        aside: Nodes that could not be made; they are tried again now and then.
    """

    def __init__(
        self,
        rows: Rows,
        waiting: Waiting,
        at: Mapping[int, Head],
        zone: Callable[[str], ZoneInfo],
        analyze: Analyzer,
        clock: Clock,
        topics: Topics,
        *,
        tells: bool = False,
    ) -> None:
        self._rows = rows
        self._waiting = waiting
        self._at = at
        self.zone = zone
        self._analyze = analyze
        self._clock = clock
        self._tells = tells
        self.aside: set[bytes] = set()
        self._topics = topics
        self._corrections = Corrections(rows.store)

    def some(self, seconds: float) -> bool:
        """Make what is due, for so long; False when nothing is."""
        until = self._clock.monotonic() + seconds
        while (key := self._waiting.next()) is not None:
            try:
                self._make(key)
                self.aside.discard(key)
            except _FAULTS as error:  # ours; one node must not keep all the others from being made
                self._set_aside(key, error)
            if self._clock.monotonic() >= until:
                return True
        return False

    def _set_aside(self, key: bytes, error: Exception) -> None:
        """Try it again later. What the error says may hold what was said, so only where it was is logged."""
        self.aside.add(key)
        self._waiting.postpone(key, _ASIDE_S)
        tenant, node = node_of(key)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.name}, line {frame.lineno}"
        logger().error("a node cannot be made", tenant=tenant, node=str(node), error=type(error).__name__, where=where)

    def improve(self, key: bytes, came: Better) -> bool:
        """Make a node with what came for it; False: not now, the log must go on first.

        What came for other inputs than the node has by now is not used. A node that holds no words just now is made
        anew anyway.
        """
        old = self._rows.node(key)
        at = self._at[key[0]]
        if old is None or old.summary is None:
            return True
        if at.rseq <= old.version:
            return False
        batch = self._rows.store.batch()
        self._waiting.want(batch, key, at)
        self._rows.store.write(batch, sync=False)
        self._make(key, came)
        return True

    def _make(self, key: bytes, came: Better | None = None) -> None:
        began = self._clock.monotonic()
        tenant, node = node_of(key)
        at = self._at[key[0]]
        wanted = self._waiting.wanted[key]
        old = self._rows.node(key)
        theirs = betters.worth(self._rows.store.get("theirs", key), old)
        place = wanted.place or (old.place if old else b"")
        if old is not None and old.by == "endpoint":
            self._move_first(tenant, node, place)
        usable = _usable(old, asked=wanted.asked)
        if usable is None or usable.summary is None:
            usable = self._elsewhere(tenant, node)
        made = self._now(tenant, node, place, came, usable if theirs is None else None)
        if made.row is None and old is None:
            self._drop(key, began)
            return
        row = msgspec.structs.replace(made.row or NodeRow(0), version=at.rseq)
        said = core.published(node, row, at.seq, made.children, made.session)
        taken = betters.adopted(theirs, said, row, made.below, made.corrected) if theirs is not None else None
        if taken is not None:
            row = taken
            said = core.published(node, row, at.seq, made.children, made.session)
        digest = core.digest(said)
        settled = old is not None and (old.recorded == old.version or self._waiting.on_its_way(key))
        if old is not None and settled and not wanted.again and old.digest == digest:
            if made.row is None or (old.summary is not None and _same(old, row)):
                self._drop(key, began)
            else:  # of a life before and still right, or made of other things with the same end
                kept = msgspec.structs.replace(
                    row, version=old.version, digest=digest, rseq=old.rseq, recorded=old.recorded
                )
                self._write(key, kept, b"", wanted, began, made.vectors)
            return
        if old is not None and at.rseq <= old.version:
            self._waiting.postpone(key, _POSTPONED_S)
            return
        rseq, recorded = (old.rseq, old.recorded) if old else (0, -1)
        row = msgspec.structs.replace(row, digest=digest, rseq=rseq, recorded=recorded)
        self._write(key, row, core.encoded(said), wanted, began, made.vectors)
        metrics.summarized.labels(node.level).inc()

    def _move_first(self, tenant: str, node: NodeId, place: bytes) -> None:
        """A segment that is filed elsewhere by now takes its words along before they are gone here."""
        segment = self._rows.segment(place) if node.level == "segment" else None
        now = node_key(tenant, calendar.segment_node(segment, self.zone(tenant))) if segment is not None else b""
        if now in self._waiting.wanted and now != node_key(tenant, node):
            self._make(now)

    def _elsewhere(self, tenant: str, node: NodeId) -> NodeRow | None:
        """What an endpoint told of a segment that was filed under another day; its grips' ids are not ours."""
        if node.level != "segment" or not self._tells:
            return None
        day = node.first.toordinal()
        days = [day + by for by in _DAYS_APART if 0 < day + by <= date.max.toordinal()]
        nodes = (NodeId(date.fromordinal(each), node.depth, node.key) for each in days)
        rows = (self._rows.node(node_key(tenant, each)) for each in nodes)
        told = next((row for row in rows if row is not None and row.summary and row.by == "endpoint"), None)
        return msgspec.structs.replace(told, inputs=b"") if told is not None else None

    def differs(self, key: bytes, place: bytes = b"") -> bool:
        """Whether a node would say something else if it were made now; nothing is written."""
        tenant, node = node_of(key)
        old = self._rows.node(key)
        usable = _usable(old, asked=True)
        made = self._now(tenant, node, place or (old.place if old else b""), usable=usable)
        if old is None or old.summary is None or made.row is None:
            return (old is not None and old.summary is not None) != (made.row is not None)
        return core.digest(core.published(node, made.row, 0, made.children, made.session)) != old.digest

    def _drop(self, key: bytes, began: float) -> None:
        batch = self._rows.store.batch()
        batch.delete("theirs", key)
        self._waiting.made(batch, key, self._clock.monotonic() - began)
        self._rows.store.write(batch, sync=False)

    def _write(
        self, key: bytes, row: NodeRow, body: bytes, wanted: Wanted, began: float, vectors: VectorsRow | None
    ) -> None:
        """Keep a node, have its parent made, and publish it unless `body` is empty."""
        batch = self._rows.store.batch()
        tenant, node = node_of(key)
        batch.put("nodes", key, encode(row))
        batch.delete("theirs", key)
        self._note_wishes(batch, key, row, vectors)
        if body:
            since = self._waiting.send(key, row.version)
            batch.put("outbox", key, encode(OutboxRow(row.version, since, body)))
        self._waiting.made(batch, key, self._clock.monotonic() - began)
        self._topics.made(batch, key, row, wanted.since)
        above = calendar.parent_of(node)
        if above is not None:
            self._waiting.want(batch, node_key(tenant, above), wanted.since, urgent=wanted.urgent, asked=wanted.asked)
        self._rows.store.write(batch, sync=False)
        crashpoint("summarize:after-node")

    def _note_wishes(self, batch: WriteSet, key: bytes, row: NodeRow, vectors: VectorsRow | None) -> None:
        """Keep vectors with the node; note what would make it better."""
        if not row.meaning:
            batch.delete("vectors", key)
        elif vectors is not None:
            batch.put("vectors", key, encode(vectors))
        now_ms = self._clock.now_ms()
        wishes = row.summary is not None and row.by != "endpoint"
        segment = self._rows.segment(row.place) if wishes and not row.meaning else None
        if segment is not None:
            last = max(item.seq for item in segment.items)
            batch.put("lacking", key, encode(Lacking(last, len(segment.items), now_ms, row.open)))
        else:
            batch.delete("lacking", key)
        if self._tells and wishes and not row.open:
            batch.put("untold", key, encode(Untold(now_ms)))
        else:
            batch.delete("untold", key)

    def _now(
        self, tenant: str, node: NodeId, place: bytes, came: Better | None = None, usable: NodeRow | None = None
    ) -> Made:
        """The node as it is now. `usable`: what was made last, to be taken as it is if its inputs are the same."""
        if node.level == "segment":
            return self._segment(tenant, node, place, came, usable)
        return self._rollup(tenant, node, came, usable)

    def _rollup(self, tenant: str, node: NodeId, came: Better | None, usable: NodeRow | None) -> Made:
        children = self._rows.children(tenant, node)
        if not children:
            return Made(None, [])
        ids = [str(child) for child, _ in children]
        below = [row for _, row in children]
        inputs = betters.rollup_inputs(children)

        def content() -> bytes:
            return betters.rollup_content(row.summary for row in below)

        if came is not None and came.content != content():
            came = None
        if came is None and usable is not None and usable.summary is not None and usable.inputs == inputs:
            return Made(usable, ids, below=below)
        came = came or betters.told_before(usable, content)
        trimmed = core.trimmed(below)
        lacks = any(row.lacks for row in below)
        # the first time vectors come together; later those that are there do, so that one child takes not all back
        waits = lacks and (usable is None or usable.by == "words")
        meant = [] if waits else [node_key(tenant, child) for child, row in children if row.meaning]
        model, vectors = betters.joined(betters.needed(trimmed), self._vectors(meant))
        summary = summaries.roll_up(trimmed, vectors, self._analyze)
        if came is not None and came.told is not None:
            row = core.rollup_row(below, betters.with_told(summary, came.told))
            row = msgspec.structs.replace(row, inputs=inputs, by="endpoint", content=came.content)
            return Made(row, ids, below=below)
        row = msgspec.structs.replace(core.rollup_row(below, summary), inputs=inputs, lacks=lacks)
        made = Made(row, ids, below=below)
        return made if lacks and not vectors else self._meant(made, summary, Better(inputs, model, vectors))

    def _vectors(self, wanted: Sequence[bytes]) -> Iterator[VectorsRow | None]:
        left = iter(wanted)
        while some := list(islice(left, _VECTORS_AT_ONCE)):
            yield from self._rows.vectors(some)

    @staticmethod
    def _meant(made: Made, summary: Summary, came: Better) -> Made:
        """It was chosen by vectors."""
        kept = betters.kept(summary, came.model, came.vectors or {})
        by = "vectors" if came.vectors else "words"
        row = msgspec.structs.replace(made.row or NodeRow(0), by=by, meaning=betters.meaning(kept))
        return made._replace(row=row, vectors=kept)

    def _segment(self, tenant: str, node: NodeId, place: bytes, came: Better | None, usable: NodeRow | None) -> Made:
        segment = self._rows.segment(place)
        zone = self.zone(tenant)
        if segment is None or calendar.segment_node(segment, zone) != node:
            return Made(None, [])
        _, agent, session = session_of(place)
        content, corrected = self.segment_content(tenant, segment)
        inputs = betters.segment_inputs(content, zone.key)
        if came is not None and came.content != content:
            came = None
        outdone = came is None or (came.told is None and usable is not None and usable.by == "endpoint")
        if outdone and usable is not None and usable.summary is not None and usable.inputs == inputs:
            sources = core.segment_sources(segment, corrected)
            return Made(_moved(usable, place, segment, sources), [], session)
        if outdone:
            came = betters.told_before(usable, lambda: content) or came
        vectors = came.vectors if came is not None and came.vectors is not None else {}
        summary = summaries.summarize(self._said(tenant, segment), vectors, self._analyze, zone, corrected)
        if came is not None and came.told is not None:
            row = core.segment_row(node, place, segment, agent, betters.with_told(summary, came.told), corrected)
            row = msgspec.structs.replace(row, inputs=inputs, by="endpoint", content=content)
            return Made(row, [], session, corrected=corrected)
        row = core.segment_row(node, place, segment, agent, summary, corrected)
        lacks = came is None and not segment.open
        row = msgspec.structs.replace(row, inputs=inputs, content=content, lacks=lacks)
        made = Made(row, [], session, corrected=corrected)
        return made if came is None else self._meant(made, summary, came)

    def segment_content(self, tenant: str, segment: Segment) -> tuple[bytes, dict[str, int]]:
        """Digest of what its node tells now, and its corrected events with who corrects them. Any thread."""
        corrected = self._corrections.numbers(tenant, (item.id for item in segment.items))
        return betters.segment_content(segment, corrected), corrected

    def _said(self, tenant: str, segment: Segment) -> list[Said]:
        held = self._rows.events(tenant, [item.seq for item in segment.items])
        return [event.said for event in held if event is not None]


def _moved(row: NodeRow, place: bytes, segment: Segment, sources: list[tuple[int, int]]) -> NodeRow:
    """The words of a segment of the same events, which may be open or closed by now."""
    lacks = not row.meaning and (row.by == "vectors" or (row.by == "words" and not segment.open))
    events = len(segment.items) - segment.overlap
    return msgspec.structs.replace(row, place=place, events=events, open=segment.open, sources=sources, lacks=lacks)


def _same(old: NodeRow, row: NodeRow) -> bool:
    names = ("place", "inputs", "meaning", "by", "lacks")
    return all(getattr(old, name) == getattr(row, name) for name in names)


def _usable(old: NodeRow | None, *, asked: bool) -> NodeRow | None:
    """What was made last, if it may stand where its inputs are the same; who asks for a rebuild wants words anew."""
    return None if asked and old is not None and old.by == "words" else old
