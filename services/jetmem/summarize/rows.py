"""The rows of summarize's own store: what was said, segments, sessions, nodes, and what waits.

All keys begin with partition and tenant. A session's key is its agent and name below that; a segment's, its session,
its lane and its anchor, so that each lane lies in order; a node's, its level and day, so that children lie together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, Final

import msgspec

from jetmem.domain import calendar, keys
from jetmem.domain.calendar import NodeId
from jetmem.domain.extract import Said
from jetmem.domain.lanes import Item, Segment
from jetmem.domain.summaries import Summary
from jetmem.runtime.corrections import id_hash
from jetmem.runtime.meta_rows import MetaRows
from jetmem_schemas import toc
from jetmem_schemas.internal import Head
from jetmem_schemas.subjects import partition_of

FORMAT: Final = 1
#: events: EventRow by (tenant, rseq) · ids: rseq by a hash of the event's id · corrects, corrected: see
#: `runtime.corrections` · segments: Segment by (session, lane, anchor) · sessions: SessionRow ·
#: closing: when a session's open segment is closed · nodes: NodeRow by (tenant, level, day, ULID) · dirty: Wanted by
#: node: to be made · outbox: OutboxRow by node: to be published, or not yet back · published: node by (tenant, rseq of
#: its newest entry) · vectors: VectorsRow by node · lacking: Lacking by segment's node: to be made again with vectors ·
#: untold: Untold by node: to be told by the endpoint · theirs: a recorded node that another life of this store made, as
#: it is, by node, until it is made here · those of `topic_rows` · meta: checkpoints, what tenants set,
#: firings, what is half done.
FAMILIES: Final = (
    "events", "ids", "corrects", "corrected", "segments", "sessions", "closing",
    "nodes", "dirty", "outbox", "published", "vectors", "lacking", "untold", "theirs",
    "topics", "members", "placed", "topic_vectors", "unplaced", "remake", "tallies", "meta",
)  # fmt: skip
_LANE: Final = (b"\0", b"\1")
_ORDINAL_BYTES: Final = 8
_ANCHOR_BYTES: Final = 16

encode = msgspec.msgpack.Encoder().encode


class EventRow(msgspec.Struct, frozen=True, array_like=True):
    """What was said, as far as it is looked at, and in which session."""

    agent: str
    session: str
    said: Said


class SessionRow(msgspec.Struct, frozen=True, array_like=True):
    """Of a session what its segments do not tell: the latest event time, and each lane's latest arrival."""

    newest: int
    main: int
    late: int


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """A node that must be made.

    `place`: of a segment's node, the key of its segment, b"" if none is known. `since`: the last entry before the
    change. `again`: publish it whatever it says. `urgent`: without delay; something was erased. `asked`: without delay
    too, by command.
    """

    place: bytes
    since: Head
    again: bool = False
    urgent: bool = False
    asked: bool = False


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """A node as it was made last; enough to make its parent.

    `summary` is None of a node that is gone, or that was recorded and is not ours. `grips`: ids by excerpt, first and
    last event. `digest` is of the content; `version` of the last publication; `rseq` of its newest entry, 0 if none;
    `recorded`: the version of that entry. `inputs` is a digest of what it was made of, `content`, of a
    segment or of what an endpoint told, of what there was to tell (`better`); `by` how its words were chosen,
    `meaning` a digest of its row of vectors, b"" if it was made without; `lacks`: it or a segment below it
    is closed, or was recorded with vectors, and still is to get them; above segments it may have those that are there.
    """

    version: int
    digest: bytes = b""
    place: bytes = b""
    summary: Summary | None = None
    grips: list[tuple[str, str, str, str]] = []
    start: int = 0
    end: int = 0
    events: int = 0
    agents: list[str] = []
    open: bool = False
    sources: list[tuple[int, int]] = []
    rseq: int = 0
    recorded: int = -1
    inputs: bytes = b""
    by: toc.MadeBy = "words"
    meaning: bytes = b""
    lacks: bool = False
    content: bytes = b""


class VectorsRow(msgspec.Struct, frozen=True, array_like=True):
    """Of a node's bullets, the vectors of their first events: ids, and for each a vector of half floats."""

    model: str
    ids: list[str]
    halves: bytes


class Lacking(msgspec.Struct, frozen=True, array_like=True):
    """A segment that was made without vectors.

    `last`: its last entry; index may be asked when it has come so far. `events`: how many. `since_ms`: when it was
    made, epoch ms. `open`: more is expected, so that it must rest before it is worth another version.
    """

    last: int
    events: int
    since_ms: int
    open: bool


class Untold(msgspec.Struct, frozen=True, array_like=True):
    """A node that the endpoint has not told: since when it is as it is, epoch ms."""

    since_ms: int


class OutboxRow(msgspec.Struct, frozen=True, array_like=True):
    """One version of a node on its way; `since` as of `Wanted`."""

    version: int
    since: Head
    body: bytes


_event = msgspec.msgpack.Decoder(EventRow).decode
_segment = msgspec.msgpack.Decoder(Segment).decode
_session = msgspec.msgpack.Decoder(SessionRow).decode
_node = msgspec.msgpack.Decoder(NodeRow).decode
#: Of a node's row whether it is recorded: to decode its summary for that would take ten times as long.
_recorded: Callable[[bytes], Any] = msgspec.msgpack.Decoder(
    msgspec.defstruct(
        "_Recorded",
        [(name, int if name in ("version", "recorded") else msgspec.Raw) for name in NodeRow.__struct_fields__],
        array_like=True,
    )
).decode
_outbox = msgspec.msgpack.Decoder(OutboxRow).decode
_vectors = msgspec.msgpack.Decoder(VectorsRow).decode
decode_lacking = msgspec.msgpack.Decoder(Lacking).decode
decode_untold = msgspec.msgpack.Decoder(Untold).decode
decode_wanted = msgspec.msgpack.Decoder(Wanted).decode


@lru_cache(4_096)
def prefix(tenant: str) -> bytes:
    """Where a tenant's keys begin."""
    return keys.tenant(partition_of(tenant), tenant)


@lru_cache(65_536)
def session_key(tenant: str, agent: str, session: str) -> bytes:
    """Key of a session, and prefix of its segments."""
    return keys.under(prefix(tenant), agent, session)


def id_key(tenant: str, id_: str) -> bytes:
    """Key of an event's number by its id."""
    return prefix(tenant) + id_hash(id_)


def session_of(key: bytes) -> tuple[str, str, str]:
    """Tenant, agent and session of a key of a session or segment."""
    tenant, agent, session = key[1:].split(b"\0", 3)[:3]
    return tenant.decode(), agent.decode(), session.decode()


def segment_key(session: bytes, late: bool, anchor: Item) -> bytes:
    """Key of a segment."""
    return lane_key(session, late) + keys.time(anchor.ts) + keys.u64(anchor.seq)


def lane_key(session: bytes, late: bool) -> bytes:
    """Where the keys of a lane's segments begin."""
    return session + _LANE[late]


def session_of_segment(key: bytes) -> bytes:
    """The session's key of a segment's."""
    return key[: -1 - _ANCHOR_BYTES]


def node_key(tenant: str, node: NodeId) -> bytes:
    """Key of a node."""
    return _level(tenant, node.depth) + keys.u64(node.first.toordinal()) + node.key.encode()


def node_of(key: bytes) -> tuple[str, NodeId]:
    """Tenant and node of a key."""
    end = key.index(b"\0", 1)
    rest = key[end + 1 :]
    first = date.fromordinal(keys.from_u64(rest[1 : 1 + _ORDINAL_BYTES]))
    return key[1:end].decode(), NodeId(first, rest[0], rest[1 + _ORDINAL_BYTES :].decode())


def _level(tenant: str, depth: int) -> bytes:
    return prefix(tenant) + bytes((depth,))


class Rows(MetaRows):
    """Reads of the store, from any thread; single-row writes into a batch of the writer's."""

    def events(self, tenant: str, rseqs: Sequence[int]) -> list[EventRow | None]:
        """What was said under these numbers."""
        start = prefix(tenant)
        return [_event(raw) if raw else None for raw in self._many("events", [start + keys.u64(r) for r in rseqs])]

    def number(self, tenant: str, id_: str) -> int:
        """The number of an event; 0 if there is none of this id."""
        raw = self.store.get("ids", id_key(tenant, id_))
        return keys.from_u64(raw) if raw else 0

    def _many(self, family: str, wanted: list[bytes]) -> list[bytes | None]:
        return self.store.get_many(family, wanted)

    def session(self, key: bytes) -> SessionRow | None:
        """A session's row."""
        raw = self.store.get("sessions", key)
        return _session(raw) if raw else None

    def segment(self, key: bytes) -> Segment | None:
        """One segment."""
        raw = self.store.get("segments", key) if key else None
        return _segment(raw) if raw else None

    def lane_back(self, session: bytes, late: bool, *, before: bytes | None = None) -> Iterator[Segment]:
        """A lane's segments, the newest first; from the one with this key, or the next before it."""
        for _, raw in self.store.scan("segments", lane_key(session, late), start=before, back=True):
            yield _segment(raw)

    def lane_on(self, session: bytes, late: bool, start: bytes) -> Iterator[Segment]:
        """A lane's segments from the one with this key on."""
        for _, raw in self.store.scan("segments", lane_key(session, late), start=start):
            yield _segment(raw)

    def segments(self, tenant: str, after: bytes = b"") -> Iterator[tuple[bytes, Segment]]:
        """Segments of a tenant behind a key, with their keys."""
        for key, raw in self.store.scan("segments", prefix(tenant), start=after + b"\0" if after else None):
            yield key, _segment(raw)

    def node(self, key: bytes) -> NodeRow | None:
        """A node."""
        raw = self.store.get("nodes", key)
        return _node(raw) if raw else None

    def is_recorded(self, key: bytes) -> bool:
        """Whether a version of a node has come back in the record."""
        raw = self.store.get("nodes", key)
        return raw is not None and _recorded(raw).recorded >= 0

    def is_settled(self, key: bytes) -> bool:
        """Whether the last version of a node is recorded, so that a better one may follow it."""
        raw = self.store.get("nodes", key)
        row = _recorded(raw) if raw is not None else None
        return row is not None and row.recorded == row.version

    def nodes(self, tenant: str, depth: int, after: bytes = b"") -> Iterator[tuple[bytes, NodeRow]]:
        """Nodes of one level of a tenant behind a key, in order; those that are gone too."""
        for key, raw in self.store.scan("nodes", _level(tenant, depth), start=after + b"\0" if after else None):
            yield key, _node(raw)

    def children(self, tenant: str, node: NodeId) -> list[tuple[NodeId, NodeRow]]:
        """A node's children that are not gone, in order."""
        rows = ((child, _node(raw)) for child, raw in self._below("nodes", tenant, node))
        return [(child, row) for child, row in rows if row.summary is not None]

    def untold_below(self, tenant: str, node: NodeId) -> bool:
        """Whether a child of this node is still to be told."""
        return any(True for _ in self._below("untold", tenant, node))

    def _below(self, family: str, tenant: str, node: NodeId) -> Iterator[tuple[NodeId, bytes]]:
        """Rows of a node's children, in order."""
        depth = node.depth + 1
        first, last = calendar.days_of(node)
        start = _level(tenant, depth)
        # a week begins within its month, a month within its year though its first week may begin before
        for key, raw in self.store.scan(family, start, start=start + keys.u64(min(first, node.first).toordinal())):
            child = node_of(key)[1]
            if child.first > last:
                return
            if calendar.parent_of(child) == node:
                yield child, raw

    def vectors(self, wanted: Sequence[bytes]) -> list[VectorsRow | None]:
        """The vectors of these nodes' bullets."""
        return [_vectors(raw) if raw else None for raw in self._many("vectors", list(wanted))]

    def outbox(self, key: bytes) -> OutboxRow | None:
        """What of a node is on its way."""
        raw = self.store.get("outbox", key)
        return _outbox(raw) if raw else None

    def tenants(self, part: int) -> list[str]:
        """Tenants of a partition of whom something is held."""
        return sorted({keys.tenant_of(key) for key, _ in self.store.scan("sessions", keys.partition(part))})

    def waiting(self, start: bytes = b"") -> Iterator[tuple[bytes, OutboxRow]]:
        """All that is on its way."""
        for key, raw in self.store.scan("outbox", start):
            yield key, _outbox(raw)

    def published(self, tenant: str, rseqs: Iterable[int]) -> list[bytes]:
        """Nodes whose newest entries have these numbers."""
        start = prefix(tenant)
        found = self._many("published", [start + keys.u64(rseq) for rseq in rseqs])
        return [key for key in found if key is not None]
