"""index without a broker: entries as persist would announce them, and an Indexer over given stores."""

from pathlib import Path
from typing import Any

import msgspec

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.index.finder import Finder
from jetmem.index.handler import Indexer
from jetmem.index.rows import Rows
from jetmem.index.settings import IndexSettings
from jetmem.index.tenants import Tenants
from jetmem.testing.encoder import FakeEncoder, FakeSplitter
from jetmem_schemas import subjects, toc
from jetmem_schemas.internal import Entry, Forgotten, Vector, VectorsReady
from jetmem_schemas.tenants import Retention

AT = 1_700_000_000_000
HEAP = 15_000_000


def event(
    rseq: int,
    text: str,
    *,
    tenant="acme",
    agent="alice",
    session="s1",
    id_="",
    ts: int = 0,
    came: int = 0,
    **fields: Any,
) -> Entry:
    body = msgspec.json.encode({"text": text, **fields})
    at = ts or AT + rseq * 1000
    return Entry(rseq, rseq * 10, came or at, "event", tenant, agent, session, id_ or f"e{rseq}", at, body)


def node(rseq: int, id_: str, summary: str, *, tenant="acme", came: int = AT, **fields: Any) -> Entry:
    told = toc.Node(id=id_, version=rseq, level=toc.level_of(id_) or "day", title="", summary=summary, **fields)
    body = msgspec.json.encode(told)
    return Entry(rseq, rseq * 10, came, "derived", tenant, "_", "node", id_, AT, body)


def ended(rseq: int, id_: str, *, tenant="acme") -> Entry:
    body = msgspec.json.encode(toc.Node(id=id_, version=rseq, gone=True))
    return Entry(rseq, rseq * 10, AT, "derived", tenant, "_", "node", id_, AT, body)


def forgot(rseq: int, gone: list[Entry], *, tenant="acme", came: int = AT) -> Entry:
    body = msgspec.msgpack.encode(Forgotten([e.id for e in gone], [e.rseq for e in gone], True))
    return Entry(rseq, rseq * 10, came, "forgot", tenant, "_", "_", f"f{rseq}", AT, body)


def blank(entry: Entry) -> Entry:
    return Entry(entry.rseq, entry.seq, entry.at, "blank", entry.tenant, "", "", "", 0, b"")


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.ms = AT

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.now


class Stage:
    """Indexer and Finder over a store and a folder; opening it again is what a restart does."""

    def __init__(self, store: Any, folder: Path, *, splitter: Any = None, clock: Any = None, **settings: Any) -> None:
        self.store = store
        self.folder = folder
        self.settings = IndexSettings(**{"heap_bytes": HEAP, **settings})
        self.clock = clock or Clock()
        self.encoder = FakeEncoder(dimensions=16)
        self.rows = Rows(store)
        self.tenants = Tenants(self.rows, self.settings, folder / "graphs")
        parts = range(subjects.PARTITIONS)
        self.text = TextIndexes(folder / "text", parts, self.settings.heap_bytes)
        splitter = splitter or FakeSplitter(words=6, overlap=2)
        self.indexer = Indexer(self.rows, self.text, self.tenants, splitter, parts, self.clock)
        self.finder = Finder(self.rows, self.text, self.tenants)

    def apply(self, *entries: Entry) -> None:
        """Apply entries and commit."""
        for entry in entries:
            self.indexer.apply(subjects.partition_of(entry.tenant), [entry])
        self.indexer.commit()

    def retain(self, tenant: str, **days: int) -> None:
        """Set a retention, and do all that follows."""
        self.indexer.limits.put({tenant: Retention(**days)})
        self.sweep()
        self.indexer.commit()

    def sweep(self) -> int:
        """Go through all nodes; how many left or came back."""
        sweep = self.indexer.sweep
        sweep.begin(sweep.due(range(subjects.PARTITIONS)))
        turned = 0
        while (some := sweep.step()) is not None:
            turned += some
        return turned

    def embed(self, tenant: str, model: str = "fake") -> None:
        """Answer everything that is pending of a tenant, or of its nodes."""
        self.store_vectors(tenant, [digest for _, _, digest in self.rows.pending(tenant, b"")], model)

    def store_vectors(self, tenant: str, digests: list[bytes], model: str = "fake", data: bytes | None = None) -> Any:
        made = [Vector(d, self.vector(d.hex()) if data is None else data) for d in digests]
        return self.indexer.store_vectors(VectorsReady(tenant, model, made))

    def vector(self, text: str) -> bytes:
        return bytes(self.encoder.encode([text])[0].tobytes())

    def close(self) -> None:
        self.text.close()
