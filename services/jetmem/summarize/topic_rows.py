"""The rows of topics in summarize's store. Words are in `topics` only, what was made of them in `topic_vectors`, too.

topics: TopicRow by (tenant, id) · members: MemberRow by (tenant, topic, start, segment's node) · placed: PlacedRow by
segment's node · topic_vectors: float16 by segment's node · unplaced: by segment's node, the last entry before the
change that it must be placed for · remake: by topic, whether something of it was erased · tallies: Tally by tenant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from jetmem.domain import keys
from jetmem.domain.topics import Centre, Floats
from jetmem.runtime.store import WriteSet
from jetmem.summarize.rows import NodeRow, Rows, prefix, session_of
from jetmem_schemas.internal import Head

_TIME_BYTES: Final = 8
#: Half precision moves a cosine by less than 0.001, and a segment's vector takes 768 bytes.
_STORED: Final = np.float16


class TopicRow(msgspec.Struct, frozen=True, array_like=True):
    """A topic as it was made last. Blank (no title, keywords, centroid, agents) from a forget until it is made again.

    `weight` is its importance at `last`, see `domain.topics`; a cosine of `reach` lets a segment join; `merged_into`:
    it has ended, this one has most of it. Times epoch ms.
    """

    title: str = ""
    keywords: list[str] = []
    centroid: bytes = b""
    reach: float = 1.0
    segments: int = 0
    events: int = 0
    first: int = 0
    last: int = 0
    agents: list[str] = []
    weight: float = 0.0
    merged_into: str = ""


class MemberRow(msgspec.Struct, frozen=True, array_like=True):
    """What of a segment its topic's numbers are made of."""

    end: int
    events: int
    salience: float
    agents: list[str]


class PlacedRow(msgspec.Struct, frozen=True, array_like=True):
    """A segment's topic, "" for none, and its start, epoch ms."""

    topic: str
    start: int


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What tells when to group again.

    `segments` are placed; of them, since the last grouping, `fresh` came or went and `strays` found no topic. `model`
    made the vectors.
    """

    model: str = ""
    segments: int = 0
    fresh: int = 0
    strays: int = 0


encode = msgspec.msgpack.Encoder().encode
_topic = msgspec.msgpack.Decoder(TopicRow).decode
_member = msgspec.msgpack.Decoder(MemberRow).decode
_placed = msgspec.msgpack.Decoder(PlacedRow).decode
_tally = msgspec.msgpack.Decoder(Tally).decode
_node = msgspec.msgpack.Decoder(NodeRow).decode
decode_head = msgspec.msgpack.Decoder(Head).decode
decode_flag = msgspec.msgpack.Decoder(bool).decode


def topic_key(tenant: str, topic: str) -> bytes:
    """Key of a topic."""
    return prefix(tenant) + topic.encode()


def topic_of(key: bytes) -> tuple[str, str]:
    """Tenant and id of a topic's key."""
    tenant = keys.tenant_of(key)
    return tenant, key[len(prefix(tenant)) :].decode()


def member_key(node: bytes, placed: PlacedRow) -> bytes:
    """Key of a segment among its topic's, in order of time."""
    tenant = keys.tenant_of(node)
    return _members(tenant, placed.topic) + keys.time(placed.start) + node[len(prefix(tenant)) :]


def _members(tenant: str, topic: str) -> bytes:
    return keys.under(prefix(tenant), topic)


def stored(vector: Floats) -> bytes:
    """A vector as it is kept."""
    return vector.astype(_STORED).tobytes()


def vector_of(raw: bytes) -> Floats:
    """A kept vector, of unit length again."""
    found = np.frombuffer(raw, _STORED).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found), np.float32)


class TopicRows:
    """Reads of these rows, from any thread."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.store = rows.store

    def topic(self, tenant: str, topic: str) -> TopicRow | None:
        """One topic."""
        raw = self.store.get("topics", topic_key(tenant, topic))
        return _topic(raw) if raw else None

    def topics(self, tenant: str) -> Iterator[tuple[str, TopicRow]]:
        """All of a tenant, in order of their ids; those that have ended too."""
        for key, raw in self.store.scan("topics", prefix(tenant)):
            yield topic_of(key)[1], _topic(raw)

    def centres(self, tenant: str) -> tuple[list[str], list[Centre]]:
        """Topics that a segment may join."""
        found = [(name, row) for name, row in self.topics(tenant) if row.centroid]
        return [name for name, _ in found], [Centre(vector_of(row.centroid), row.reach) for _, row in found]

    def members(
        self, tenant: str, topic: str, *, since: int | None = None, before: bytes = b"", back: bool = False
    ) -> Iterator[tuple[bytes, int, MemberRow]]:
        """A topic's segments in order of time, or the latest first: the node's key, the start, the row.

        Args:
            tenant: Whose.
            topic: Its id.
            since: From this start on; in order of time only.
            before: Only those before this `place`, the latest first only.
            back: The latest first.
        """
        start = _members(tenant, topic)
        first = start + before if before else (start + keys.time(since) if since is not None else None)
        for key, raw in self.store.scan("members", start, start=first, back=back):
            if before and key >= start + before:
                continue
            place = key[len(start) :]
            yield prefix(tenant) + place[_TIME_BYTES:], keys.from_time(place[:_TIME_BYTES]), _member(raw)

    def session(self, place: bytes) -> str:
        """The session of a segment, by the segment's key."""
        return session_of(place)[2]

    def place(self, node: bytes, start: int) -> bytes:
        """Where a segment stands in its topic, as `members` takes it."""
        return keys.time(start) + node[len(prefix(keys.tenant_of(node))) :]

    def placed(self, node: bytes) -> PlacedRow | None:
        """Where a segment is."""
        raw = self.store.get("placed", node)
        return _placed(raw) if raw else None

    def every_placed(self, tenant: str) -> Iterator[tuple[bytes, PlacedRow]]:
        """All segments of a tenant that were placed."""
        for key, raw in self.store.scan("placed", prefix(tenant)):
            yield key, _placed(raw)

    def vectors(self, nodes: Sequence[bytes]) -> list[Floats | None]:
        """Vectors of segments; None of those that have none now."""
        return [vector_of(raw) if raw else None for raw in self.store.get_many("topic_vectors", list(nodes))]

    def tallies(self) -> dict[str, Tally]:
        """Of all tenants."""
        return {keys.tenant_of(key): _tally(raw) for key, raw in self.store.scan("tallies", b"")}

    def nodes(self, nodes: Iterable[bytes]) -> list[NodeRow | None]:
        """Rows of nodes."""
        return [_node(raw) if raw else None for raw in self.store.get_many("nodes", list(nodes))]


def put_tally(batch: WriteSet, tenant: str, tally: Tally) -> None:
    """Keep a tally; none of a tenant without segments."""
    if tally.segments:
        batch.put("tallies", prefix(tenant), encode(tally))
    else:
        batch.delete("tallies", prefix(tenant))
