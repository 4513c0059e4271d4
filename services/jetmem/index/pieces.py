"""Passages and their vectors: which lack one, who waits for which, where each is in the matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.index.ports import Splitter
from jetmem.index.rows import (
    HASH_BYTES,
    Doc,
    Row,
    Rows,
    nodes_of,
    piece_key,
    prefix,
    spoken,
    text_hash,
)
from jetmem.index.tenants import Tenant
from jetmem.runtime import metrics, stored_vectors
from jetmem.runtime.store import WriteSet
from jetmem.runtime.stored_vectors import EMPTY_MARK, dimensions_of, vector_of
from jetmem_schemas.internal import Head, Vector

_encode = msgspec.msgpack.Encoder().encode
_CHUNK: Final = 5_000
_PIECE_BYTES: Final = 9
#: Passages of a node that get vectors: the first holds title and summary, costs embed as much as five short events,
#: and the nodes above say most of it again.
_NODE_PASSAGES: Final = 1


class Pieces:
    """Keeps the set of what still lacks vectors. Changes on the writer thread only; what is in memory is for any.

    Attributes:
        pending: Per tenant, passages that lack their vector (only tenants that have any).
    """

    def __init__(self, rows: Rows, splitter: Splitter) -> None:
        self._rows = rows
        self._splitter = splitter
        self.pending: dict[str, int] = {}
        self._dimensions = rows.dimensions()
        self._first: dict[str, tuple[bytes, Head]] = {}
        self._changes: Counter[str] = Counter()
        self._added: dict[str, bytes] = {}
        self._unshelved: list[tuple[Tenant, int, Row, bytes]] = []
        self._gone: set[bytes] = set()
        self._wanted: set[bytes] = set()
        self.recount()

    def recount(self) -> None:
        """Count what is pending from the store."""
        self._dimensions = self._rows.dimensions()
        pending: dict[str, int] = {}
        first: dict[str, tuple[bytes, Head]] = {}
        for key, raw in self._rows.store.scan("pending", b""):
            name = keys.tenant_of(key)
            pending[name] = pending.get(name, 0) + 1
            if name not in first:
                place = key.removeprefix(prefix(name))
                first[name] = (place, _event_of(place, keys.from_u64(raw[HASH_BYTES:])))
        self.pending, self._first = pending, first

    def texts(self, doc: Doc) -> list[str]:
        """The passages of a document that get vectors; a node that grows, or is out, gets none."""
        if doc.node is None:
            return self._splitter.split(spoken(doc.author, doc.text))
        return [] if doc.node.open or doc.out else self._splitter.split(doc.text)[:_NODE_PASSAGES]

    def lacking(self, tenant: str) -> int:
        """How many passages of a tenant lack their vector, its nodes' included."""
        return self.pending.get(tenant, 0) + self.pending.get(nodes_of(tenant), 0)

    def start(self, tenant: str) -> bytes:
        """No passage before this place is pending: what was answered is not read over and over."""
        return self._first.get(tenant, (b"", Head()))[0]

    def first_pending(self, tenant: str) -> Head | None:
        """The first event that lacks a vector; None if all have theirs. From memory."""
        return self._first.get(tenant, (b"", None))[1]

    def expect(self, batch: WriteSet, docs: Sequence[tuple[Tenant, Doc]]) -> None:
        """Note that documents' passages need vectors; those whose text has one get it at once."""
        wanted = [
            (tenant, doc, piece_key(doc.rseq, number), text_hash(text))
            for tenant, doc in docs
            for number, text in enumerate(self.texts(doc))
        ]
        found = self._rows.store.get_many("vectors", [prefix(tenant.name) + digest for tenant, _, _, digest in wanted])
        for (tenant, doc, place, digest), held in zip(wanted, found, strict=True):
            start = prefix(tenant.name)
            self._wanted.add(start + digest)
            batch.put("pieces", start + place, digest)
            if held is None:
                batch.put("pending", start + place, digest + keys.u64(doc.seq))
                batch.put("refs", start + digest + place, b"")
                self._changes[tenant.name] += 1
                self._added[tenant.name] = min(place, self._added.get(tenant.name, place))
            else:
                self._place(batch, tenant, doc, place, digest, held)

    def arrived(self, batch: WriteSet, tenant: Tenant, vectors: Sequence[Vector]) -> int:
        """Store vectors and place them for every passage that waits; texts nobody waits for are dropped.

        A text has no vector as long as anyone waits for it, so who waits is who has the text.
        """
        start = prefix(tenant.name)
        stored = 0
        unheard = {vector.key: vector for vector in vectors if self._rows.vector(tenant.name, vector.key) is None}
        for digest, vector in unheard.items():
            places = [key[-_PIECE_BYTES:] for key, _ in self._rows.store.scan("refs", start + digest)]
            if not places:
                continue
            raw = self._checked(batch, vector)
            batch.put("vectors", start + digest, raw)
            for place in places:
                batch.delete("pending", start + place)
                self._changes[tenant.name] -= 1
                doc = self._rows.doc(tenant.name, keys.from_u64(place[:8]))
                if doc is not None:
                    self._place(batch, tenant, doc, place, digest, raw)
                stored += 1
        return stored

    def _checked(self, batch: WriteSet, vector: Vector) -> bytes:
        """A vector as it is stored; the first one of a model says how long all are."""
        raw = stored_vectors.stored(vector, self._dimensions)
        if not self._dimensions and (length := dimensions_of(raw)):
            self._dimensions = length
            self._rows.set_dimensions(batch, length)
        return raw

    def _place(self, batch: WriteSet, tenant: Tenant, doc: Doc, place: bytes, digest: bytes, raw: bytes) -> None:
        """Give a passage its row in the matrix, unless its text could not be embedded."""
        start = prefix(tenant.name)
        if raw.startswith(EMPTY_MARK):
            batch.put("refs", start + digest + place, b"")
            return
        at = tenant.row.rows
        tenant.row.rows += 1
        row = Row(doc.rseq, digest, doc.sid, doc.position, doc.who, doc.ts, doc.kind, doc.role, doc.tags)
        batch.put("rows", start + keys.u64(at), _encode(row))
        batch.put("refs", start + digest + place, keys.u64(at))
        self._unshelved.append((tenant, at, row, raw))

    def written(self) -> None:
        """The batch is written: what it placed may be searched, and then counts as no longer pending."""
        for tenant, at, row, raw in self._unshelved:
            tenant.put(at, row, vector_of(raw))
        for name, change in self._changes.items():
            self._count(name, change)
        self._changes.clear()
        self._added.clear()
        self._unshelved.clear()
        self._gone.clear()
        self._wanted.clear()
        metrics.pending_vectors.set(sum(self.pending.values()))

    def drop(self, batch: WriteSet, tenant: Tenant, doc: Doc) -> None:
        """Erase a document's passages; a vector goes with the last passage that has it.

        Those that this batch gives it to count.
        """
        start = prefix(tenant.name)
        held = list(self._rows.store.scan("pieces", start + keys.u64(doc.rseq)))
        self._gone.update(start + digest + key[-_PIECE_BYTES:] for key, digest in held)
        for key, digest in held:
            place = key[-_PIECE_BYTES:]
            ref = self._rows.store.get("refs", start + digest + place)
            if ref:
                batch.delete("rows", start + ref)
                tenant.remove(keys.from_u64(ref))
            if self._rows.store.get("pending", start + place) is not None:
                self._changes[tenant.name] -= 1
            batch.delete("pieces", key)
            batch.delete("refs", start + digest + place)
            batch.delete("pending", start + place)
            if start + digest not in self._wanted and all(
                other in self._gone for other, _ in self._rows.store.scan("refs", start + digest)
            ):
                batch.delete("vectors", start + digest)

    def expect_all(self) -> None:
        """Every passage of every document needs a vector: another model."""
        batch = self._rows.store.batch()
        for key, raw in self._rows.store.scan("docs", b""):
            doc = msgspec.msgpack.decode(raw, type=Doc)
            start = key[:-8]
            for number, text in enumerate(self.texts(doc)):
                digest, place = text_hash(text), piece_key(doc.rseq, number)
                batch.put("pieces", start + place, digest)
                batch.put("pending", start + place, digest + keys.u64(doc.seq))
                batch.put("refs", start + digest + place, b"")
            if len(batch) >= _CHUNK:
                self._rows.store.write(batch, sync=False)
                batch = self._rows.store.batch()
        self._rows.store.write(batch, sync=False)
        self.recount()

    def _count(self, tenant: str, change: int) -> None:
        """Note how many are pending and which is the first: none is before the last first, but for what was added."""
        left = self.pending.get(tenant, 0) + change
        if left <= 0:
            self.pending.pop(tenant, None)
            self._first.pop(tenant, None)
            return
        self.pending[tenant] = left
        start = self.start(tenant)
        for place, seq, _ in self._rows.pending(tenant, min(start, self._added.get(tenant, start))):
            self._first[tenant] = (place, _event_of(place, seq))
            break


def _event_of(place: bytes, seq: int) -> Head:
    return Head(keys.from_u64(place[:8]), seq)
