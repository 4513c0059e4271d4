"""The rows of index's own store: documents, places in sessions, vectors and what still lacks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.runtime.meta_rows import ModelRows
from jetmem.runtime.store import WriteSet
from jetmem_schemas import subjects

FORMAT: Final = 1
#: A tenant's nodes are rows of `subjects.space(tenant, "toc")`, as if that were a tenant.
#: docs: Doc by (tenant, rseq) · nodes: rseq by (tenant, id of a node) · chain: rseq by (tenant, session number,
#: position) · sessions, authors: numbers of a tenant's sessions and authors · tenants: counters · pieces: text hash by
#: passage (rseq, its place in the text) · pending: passages without a vector, in order · vectors: by (tenant, text
#: hash) · refs: passages of a text hash, with their place in the matrix · rows: places in the matrix · redo: documents
#: whose words must be indexed again, or taken away · corrects, corrected: see `corrections` · arrivals: see `arrivals`
#: · meta: checkpoints, model, what is half done.
FAMILIES: Final = (
    "docs", "nodes", "chain", "sessions", "authors", "tenants", "pieces", "pending",
    "vectors", "refs", "rows", "redo", "corrects", "corrected", "arrivals", "meta",
)  # fmt: skip
HASH_BYTES: Final = 16

_encode = msgspec.msgpack.Encoder().encode


class OfNode(msgspec.Struct, frozen=True, array_like=True):
    """What a node has and no event.

    Attributes:
        start: When it begins, epoch ms.
        open: More is expected.
        arrived: By when all that it was made of had come, epoch ms to the hour; 0: not known.
        pinned: It stays in the index.
        out: It is not in the index, by its tenant's retention (`retention`).
    """

    start: int
    open: bool
    arrived: int = 0
    pinned: bool = False
    out: bool = False


class Doc(msgspec.Struct, frozen=True, array_like=True):
    """One event, or the newest version of a `node`, as index keeps it.

    `sid` and `who` number session and author within the tenant. A node is a session of its own, numbered as its entry
    is; `ts` is its end, `tags` are its agents and session (`nodes.narrowed`).
    """

    id: str
    rseq: int
    seq: int
    ts: int
    agent: str
    session: str
    sid: int
    position: int
    author: str
    who: int
    kind: str
    role: str
    tags: list[str]
    text: str
    importance: float | None = None
    node: OfNode | None = None

    @property
    def out(self) -> bool:
        """Whether neither words nor vectors have it."""
        return self.node is not None and self.node.out

    def turned(self) -> Doc:
        """The same out of the index if it is in, and in if it is out; an event never leaves."""
        node = self.node
        return (
            self
            if node is None
            else msgspec.structs.replace(self, node=msgspec.structs.replace(node, out=not node.out))
        )


class SessionRow(msgspec.Struct, array_like=True):
    """A session: its number, the position given last, how many documents it has, and where the newest of them is."""

    sid: int
    given: int = -1
    docs: int = 0
    newest: int = -1


class AuthorRow(msgspec.Struct, array_like=True):
    """An author: the name (which no key may hold: RocksDB's manifest keeps keys), its number, its documents."""

    name: str
    number: int
    docs: int = 0


class TenantRow(msgspec.Struct, array_like=True):
    """Counters of a tenant: documents in the index, the next session, author and matrix row, nodes that are out."""

    docs: int = 0
    sessions: int = 0
    authors: int = 0
    rows: int = 0
    out: int = 0

    def count_node(self, *, out: bool, by: int) -> None:
        """Count a node in or out of what it is."""
        if out:
            self.out += by
        else:
            self.docs += by


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One vector's place in the tenant's matrix, with what searches filter by."""

    rseq: int
    hash: bytes
    sid: int
    position: int
    who: int
    ts: int
    kind: str
    role: str
    tags: list[str]


_doc = msgspec.msgpack.Decoder(Doc).decode
_session = msgspec.msgpack.Decoder(SessionRow).decode
_author = msgspec.msgpack.Decoder(AuthorRow).decode
_tenant = msgspec.msgpack.Decoder(TenantRow).decode
_row = msgspec.msgpack.Decoder(Row).decode


@lru_cache(4_096)
def prefix(tenant: str) -> bytes:
    """Where the keys of a tenant, or of its nodes, begin."""
    return keys.tenant(subjects.partition_of(subjects.owner(tenant)), tenant)


def nodes_of(tenant: str) -> str:
    """The space that holds a tenant's nodes."""
    return subjects.space(tenant, "toc")


def text_hash(text: str) -> bytes:
    """Equal texts have one vector."""
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def spoken(author: str, text: str) -> str:
    """What is embedded of an event: who said it is part of the meaning (decision 0005)."""
    return f"{author}: {text}" if author else text


def author_key(tenant: str, author: str) -> bytes:
    """Key of an author."""
    return prefix(tenant) + text_hash(author)


def piece_key(rseq: int, number: int) -> bytes:
    """Place of a passage: its document's number in the log, its own in the text."""
    return keys.u64(rseq) + bytes((number,))


def place_key(tenant: str, sid: int, position: int) -> bytes:
    """Key of a place in a session."""
    return prefix(tenant) + keys.u64(sid) + keys.u64(position)


class Rows(ModelRows):
    """Reads and single-row writes of the store. Reads from any thread, writes into the writer's batch."""

    def restart_rows(self, batch: WriteSet) -> None:
        """Number the matrices of all tenants from 0: none has a row."""
        for key, raw in self.store.scan("tenants", b""):
            batch.put("tenants", key, _encode(msgspec.structs.replace(_tenant(raw), rows=0)))

    def doc(self, tenant: str, rseq: int) -> Doc | None:
        """One document."""
        raw = self.store.get("docs", prefix(tenant) + keys.u64(rseq))
        return _doc(raw) if raw else None

    def docs(self, tenant: str, rseqs: Sequence[int]) -> list[Doc | None]:
        """Many documents, in the order asked."""
        start = prefix(tenant)
        found = self.store.get_many("docs", [start + keys.u64(r) for r in rseqs])
        return [_doc(raw) if raw else None for raw in found]

    def docs_from(self, tenant: str, key: bytes) -> Iterator[tuple[bytes, Doc]]:
        """Keys and documents, in the order of the log, from a key on; b"" for the beginning."""
        for at, raw in self.store.scan("docs", prefix(tenant), start=key or None):
            yield at, _doc(raw)

    def put_doc(self, batch: WriteSet, tenant: str, doc: Doc) -> None:
        """Write a document and its place."""
        start = prefix(tenant)
        rseq = keys.u64(doc.rseq)
        batch.put("docs", start + rseq, _encode(doc))
        batch.put("chain", start + keys.u64(doc.sid) + keys.u64(doc.position), rseq)

    def drop_doc(self, batch: WriteSet, tenant: str, doc: Doc) -> None:
        """Remove a document and its place."""
        start = prefix(tenant)
        batch.delete("docs", start + keys.u64(doc.rseq))
        batch.delete("chain", place_key(tenant, doc.sid, doc.position))

    def node(self, space: str, id_: str) -> Doc | None:
        """A node's document."""
        raw = self.store.get("nodes", prefix(space) + id_.encode())
        return self.doc(space, keys.from_u64(raw)) if raw else None

    def put_node(self, batch: WriteSet, space: str, doc: Doc) -> None:
        """Write a node's document, in place of any other."""
        self.put_doc(batch, space, doc)
        batch.put("nodes", prefix(space) + doc.id.encode(), keys.u64(doc.rseq))

    def drop_node(self, batch: WriteSet, space: str, id_: str) -> None:
        """A node has no document any more."""
        batch.delete("nodes", prefix(space) + id_.encode())

    def places(self, tenant: str, wanted: Sequence[tuple[int, int]]) -> list[int]:
        """Numbers in the log of (session, position) places; 0 where nothing is."""
        found = self.store.get_many("chain", [place_key(tenant, sid, pos) for sid, pos in wanted])
        return [keys.from_u64(raw) if raw else 0 for raw in found]

    def tenant(self, tenant: str) -> TenantRow:
        """Counters of a tenant."""
        raw = self.store.get("tenants", prefix(tenant))
        return _tenant(raw) if raw else TenantRow()

    def tenants(self) -> Iterator[tuple[str, TenantRow]]:
        """Counters of all tenants, and of the spaces of their nodes."""
        for key, raw in self.store.scan("tenants", b""):
            yield key[1:-1].decode(), _tenant(raw)

    def sessions(self, tenant: str) -> Iterator[tuple[str, str, SessionRow]]:
        """(agent, session, row) of every session of a tenant."""
        start = prefix(tenant)
        for key, raw in self.store.scan("sessions", start):
            agent, session, _ = key.removeprefix(start).decode().split("\0")
            yield agent, session, _session(raw)

    def authors(self, tenant: str) -> Iterator[AuthorRow]:
        """Every author of a tenant."""
        for _, raw in self.store.scan("authors", prefix(tenant)):
            yield _author(raw)

    def vector(self, tenant: str, text: bytes) -> bytes | None:
        """The stored vector of a text with its mark, or None."""
        return self.store.get("vectors", prefix(tenant) + text)

    def vectors(self, tenant: str, texts: Sequence[bytes]) -> list[bytes | None]:
        """The stored vectors of many texts, in the order asked."""
        start = prefix(tenant)
        return self.store.get_many("vectors", [start + text for text in texts])

    def passages(self, tenant: str, rseq: int) -> list[bytes]:
        """Text hashes of an entry's passages."""
        return [digest for _, digest in self.store.scan("pieces", prefix(tenant) + keys.u64(rseq))]

    def pending(self, tenant: str, start: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        """(place, MEMORY sequence, text hash) of the passages that lack vectors, in order from a place."""
        begin = prefix(tenant)
        for key, raw in self.store.scan("pending", begin, start=begin + start):
            yield key.removeprefix(begin), keys.from_u64(raw[HASH_BYTES:]), raw[:HASH_BYTES]

    def rows(self, tenant: str) -> Iterator[tuple[int, Row]]:
        """Every vector's place, in order."""
        start = prefix(tenant)
        for key, raw in self.store.scan("rows", start):
            yield keys.from_u64(key.removeprefix(start)), _row(raw)
