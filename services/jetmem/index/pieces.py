"""Texts and their vectors: which lack one, who waits for which, where each is in the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from jetmem.domain import keys
from jetmem.index.ports import Splitter
from jetmem.index.rows import EMPTY_MARK, VECTOR_MARK, Doc, Row, Rows, prefix, spoken, text_hash
from jetmem.index.tenants import Tenant
from jetmem.runtime import metrics
from jetmem.runtime.store import WriteSet
from jetmem_schemas.internal import Vector

_encode = msgspec.msgpack.Encoder().encode
_CHUNK: Final = 5_000


class Pieces:
    """Keeps the set of what still lacks vectors. Changes on the writer thread only.

    Attributes:
        pending: Per tenant, texts that lack their vector (only tenants that have any).
    """

    def __init__(self, rows: Rows, splitter: Splitter) -> None:
        self._rows = rows
        self._splitter = splitter
        self.pending: dict[str, int] = {}
        self._unshelved: list[tuple[Tenant, int, Row, bytes]] = []
        self._gone: set[bytes] = set()
        self.recount()

    def recount(self) -> None:
        """Count what is pending from the store."""
        self.pending.clear()
        for key, _ in self._rows.store.scan("pending", b""):
            name = key[1 : key.index(b"\0", 1)].decode()
            self.pending[name] = self.pending.get(name, 0) + 1

    def texts(self, doc: Doc) -> list[str]:
        """The passages of a document that get vectors."""
        return self._splitter.split(spoken(doc.author, doc.text))

    def expect(self, batch: WriteSet, tenant: Tenant, doc: Doc) -> None:
        """Note that a document's passages need vectors; those whose text has one get it at once."""
        start = prefix(tenant.name)
        for number, text in enumerate(self.texts(doc)):
            digest = text_hash(text)
            held = self._rows.vector(tenant.name, digest)
            if held is None:
                place = keys.u64(doc.rseq) + bytes((number,))
                batch.put("pending", start + place, digest + keys.u64(doc.seq))
                batch.put("waiting", start + digest + place, b"")
                batch.put("refs", start + digest + place, b"")
                self._count(tenant.name, 1)
            else:
                self._place(batch, tenant, doc, number, digest, held)

    def arrived(self, batch: WriteSet, tenant: Tenant, vectors: Sequence[Vector]) -> int:
        """Store vectors and place them for every document that waits; texts nobody waits for are dropped."""
        start = prefix(tenant.name)
        stored = 0
        for vector in vectors:
            waiting = [key for key, _ in self._rows.store.scan("waiting", start + vector.key)]
            if not waiting:
                continue
            raw = VECTOR_MARK + vector.data if vector.data else EMPTY_MARK + vector.reason.encode()
            batch.put("vectors", start + vector.key, raw)
            for key in waiting:
                place = key[-9:]
                batch.delete("waiting", key)
                batch.delete("pending", start + place)
                self._count(tenant.name, -1)
                doc = self._rows.doc(tenant.name, keys.from_u64(place[:8]))
                if doc is not None:
                    self._place(batch, tenant, doc, place[8], vector.key, raw)
                stored += 1
        return stored

    def _place(self, batch: WriteSet, tenant: Tenant, doc: Doc, number: int, digest: bytes, raw: bytes) -> None:
        """Give a passage its row in the matrix, unless its text could not be embedded."""
        start = prefix(tenant.name)
        place = keys.u64(doc.rseq) + bytes((number,))
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
        """The batch is written: what it placed may be searched."""
        for tenant, at, row, raw in self._unshelved:
            tenant.shelf.put(at, row, np.frombuffer(raw[1:], dtype=np.float32))
        self._unshelved.clear()
        self._gone.clear()
        metrics.pending_vectors.set(sum(self.pending.values()))

    def drop(self, batch: WriteSet, tenant: Tenant, doc: Doc) -> None:
        """Erase a document's passages; a vector goes with the last text that has it."""
        start = prefix(tenant.name)
        pieces = [(text_hash(text), keys.u64(doc.rseq) + bytes((n,))) for n, text in enumerate(self.texts(doc))]
        self._gone.update(start + digest + place for digest, place in pieces)
        for digest, place in pieces:
            ref = self._rows.store.get("refs", start + digest + place)
            if ref:
                batch.delete("rows", start + ref)
                tenant.shelf.remove(keys.from_u64(ref))
            if self._rows.store.get("pending", start + place) is not None:
                self._count(tenant.name, -1)
            batch.delete("refs", start + digest + place)
            batch.delete("pending", start + place)
            batch.delete("waiting", start + digest + place)
            if all(ref in self._gone for ref, _ in self._rows.store.scan("refs", start + digest)):
                batch.delete("vectors", start + digest)

    def expect_all(self) -> None:
        """Every passage of every document needs a vector again: another model."""
        batch = self._rows.store.batch()
        self.pending.clear()
        for key, raw in self._rows.store.scan("docs", b""):
            doc = msgspec.msgpack.decode(raw, type=Doc)
            start = key[:-8]
            for number, text in enumerate(self.texts(doc)):
                digest, place = text_hash(text), keys.u64(doc.rseq) + bytes((number,))
                batch.put("pending", start + place, digest + keys.u64(doc.seq))
                batch.put("waiting", start + digest + place, b"")
                batch.put("refs", start + digest + place, b"")
                self._count(start[1:-1].decode(), 1)
            if len(batch) >= _CHUNK:
                self._rows.store.write(batch, sync=False)
                batch = self._rows.store.batch()
        self._rows.store.write(batch, sync=False)

    def _count(self, tenant: str, change: int) -> None:
        left = self.pending.get(tenant, 0) + change
        if left > 0:
            self.pending[tenant] = left
        else:
            self.pending.pop(tenant, None)
