"""Apply facts: rows first, then words; vectors as they come. Everything here runs on the one writer thread.

The two stores keep their own checkpoints. What one has and the other lacks after a crash is applied to that one
alone, so nothing is in either twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from jetmem.adapters.tantivy_text import TextIndex
from jetmem.domain import keys
from jetmem.index.core import Said, said_of, text_key
from jetmem.index.pieces import Pieces
from jetmem.index.ports import Splitter
from jetmem.index.rows import (
    FAMILIES,
    Doc,
    Rows,
    SessionRow,
    prefix,
)
from jetmem.index.tenants import Tenant, Tenants
from jetmem.index.words import Words
from jetmem.runtime import metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.store import WriteSet
from jetmem_schemas.internal import Entry, Forgotten, Head, VectorsReady

_encode = msgspec.msgpack.Encoder().encode
_forgotten = msgspec.msgpack.Decoder(Forgotten).decode
#: Windows reach this far back, so an erased event's words are in so many documents after its own.
_REACH: Final = 4
_CHUNK: Final = 5_000


class Indexer:
    """The writer of all of index's stores.

    Attributes:
        rows_at: Per partition, the last entry in RocksDB.
        text_at: Per partition, the last entry in tantivy, committed and searchable.
        purge_due: Words were erased whose files were not rewritten yet.
    """

    def __init__(
        self, rows: Rows, text: TextIndex, tenants: Tenants, splitter: Splitter, parts: Iterable[int], heap_bytes: int
    ) -> None:
        self.rows = rows
        self.text = text
        self.tenants = tenants
        self.parts = tuple(parts)
        self.words = Words(rows, text)
        self.pieces = Pieces(rows, splitter)
        self.rows_at = {part: rows.position(part) for part in self.parts}
        held = text.positions(self.parts)
        self.text_at = {part: held.get(part, Head()) for part in self.parts}
        self.purge_due = self.rows.store.get("meta", b"purge") is not None
        self._text_taken = dict(self.text_at)
        self._heap_bytes = heap_bytes

    def position(self, part: int) -> Head:
        """Where reading resumes: the lower of the two checkpoints."""
        return min(self.rows_at[part], self.text_at[part], key=lambda head: head.rseq)

    @property
    def uncommitted(self) -> bool:
        """Whether words wait for a commit."""
        return self._text_taken != self.text_at

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply entries in order; words become searchable with the next `commit`."""
        run: list[Entry] = []
        for entry in entries:
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
        fresh: dict[int, tuple[Tenant, Doc]] = {}
        batch = self.rows.store.batch()
        for entry in run:
            if entry.rseq > self.rows_at[part].rseq:
                said = said_of(entry)
                if said is not None:
                    tenant = self.tenants.get(entry.tenant)
                    fresh[entry.rseq] = (tenant, self._take(batch, tenant, entry, said))
        last = Head(run[-1].rseq, run[-1].seq)
        if last.rseq > self.rows_at[part].rseq:
            self._write(batch, part, last)
        self._add_words(part, run, fresh)

    def _add_words(self, part: int, run: Sequence[Entry], fresh: dict[int, tuple[Tenant, Doc]]) -> None:
        for entry in run:
            if entry.rseq <= self._text_taken[part].rseq or entry.kind != "event":
                continue
            held = fresh.get(entry.rseq)
            if held is None:
                doc = self.rows.doc(entry.tenant, entry.rseq)
                if doc is None:
                    continue
                held = (self.tenants.get(entry.tenant), doc)
            self.words.add(part, *held)
        last = Head(run[-1].rseq, run[-1].seq)
        if last.rseq > self._text_taken[part].rseq:
            self._text_taken[part] = last

    def _take(self, batch: WriteSet, tenant: Tenant, entry: Entry, said: Said) -> Doc:
        """Number one event within its tenant and write its rows."""
        session = tenant.sessions.get((entry.agent, entry.session))
        if session is None:
            session = SessionRow(tenant.row.sessions, -1)
            tenant.row.sessions += 1
            tenant.sessions[(entry.agent, entry.session)] = session
        session.newest += 1
        tenant.newest[session.sid] = session.newest
        who = tenant.authors.get(said.author)
        start = prefix(tenant.name)
        if who is None:
            who = tenant.row.authors
            tenant.row.authors += 1
            tenant.name_author(said.author, who)
            batch.put("authors", start + said.author.encode(), keys.u64(who))
        doc = Doc(
            entry.id, entry.rseq, entry.seq, entry.ts, entry.agent, entry.session, session.sid, session.newest,
            said.author, who, said.kind, said.role, said.tags, said.text,
        )  # fmt: skip
        tenant.row.docs += 1
        self.rows.put_doc(batch, tenant.name, doc)
        batch.put("sessions", keys.under(start, entry.agent, entry.session), _encode(session))
        self.pieces.expect(batch, tenant, doc)
        batch.put("tenants", start, _encode(tenant.row))
        return doc

    def _write(self, batch: WriteSet, part: int, at: Head) -> None:
        self.rows.set_position(batch, part, at)
        self.rows.store.write(batch, sync=False)
        self.rows_at[part] = at
        self.pieces.written()
        self.tenants.trim()
        crashpoint("index:after-store")

    def _forget(self, part: int, entry: Entry) -> None:
        """Erase documents: rows, vectors, words; the words of their neighbours' windows are indexed again."""
        at = Head(entry.rseq, entry.seq)
        if entry.rseq > self.rows_at[part].rseq:
            tenant = self.tenants.get(entry.tenant)
            batch = self.rows.store.batch()
            for rseq in _forgotten(entry.body).rseqs:
                doc = self.rows.doc(entry.tenant, rseq)
                if doc is not None:
                    self._erase(batch, part, tenant, doc)
            batch.put("tenants", prefix(tenant.name), _encode(tenant.row))
            batch.put("meta", b"purge", b"1")
            self._write(batch, part, at)
            self.purge_due = True
        for rseq in _forgotten(entry.body).rseqs:
            self.text.delete(text_key(part, rseq))
        if entry.rseq > self._text_taken[part].rseq:
            self._text_taken[part] = at

    def _erase(self, batch: WriteSet, part: int, tenant: Tenant, doc: Doc) -> None:
        self.rows.drop_doc(batch, tenant.name, doc)
        self.pieces.drop(batch, tenant, doc)
        tenant.row.docs -= 1
        tenant.tails.pop(doc.sid, None)
        after = [(doc.sid, doc.position + step) for step in range(1, _REACH + 1)]
        for rseq in self.rows.places(tenant.name, after):
            if rseq:
                batch.put("redo", keys.log(part, rseq), tenant.name.encode())

    def commit(self) -> None:
        """Make the words of everything applied durable and searchable, with their checkpoints."""
        redone = self._redo()
        if not self.uncommitted and not redone:
            return
        moved = {p: head for p, head in self._text_taken.items() if head != self.text_at[p]}
        with metrics.write_seconds.labels("index").time():
            crashpoint("index:before-text-commit")
            self.text.commit(moved)
            crashpoint("index:after-text-commit")
        metrics.indexed.labels("text").inc(sum(head.rseq - self.text_at[p].rseq for p, head in moved.items()))
        self.text_at = dict(self._text_taken)
        if redone:
            batch = self.rows.store.batch()
            for key in redone:
                batch.delete("redo", key)
            self.rows.store.write(batch, sync=False)

    def _redo(self) -> list[bytes]:
        """Index again the documents whose windows held erased words."""
        done: list[bytes] = []
        for key, name in self.rows.store.scan("redo", b""):
            part, rseq = key[0], keys.from_u64(key[1:])
            if rseq > self._text_taken[part].rseq:
                continue
            self.text.delete(text_key(part, rseq))
            doc = self.rows.doc(name.decode(), rseq)
            if doc is not None:
                self.words.add(part, self.tenants.get(name.decode()), doc, again=True)
            done.append(key)
        return done

    def store_vectors(self, ready: VectorsReady) -> int:
        """Store vectors that embed made; returns how many texts of ours they were for."""
        if ready.model != self.rows.model():
            self._change_model(ready.model)
        batch = self.rows.store.batch()
        tenant = self.tenants.get(ready.tenant)
        stored = self.pieces.arrived(batch, tenant, ready.vectors)
        batch.put("tenants", prefix(tenant.name), _encode(tenant.row))
        self.rows.store.write(batch, sync=False)
        self.pieces.written()
        metrics.indexed.labels("vector").inc(stored)
        return stored

    def _change_model(self, model: str) -> None:
        """Vectors of two models cannot be compared: ask again for all, or, at first, only note the name."""
        if self.rows.model():
            for family in ("vectors", "rows", "pending", "waiting", "refs"):
                self._wipe(family, b"")
            self.tenants.clear()
            self.pieces.expect_all()
        batch = self.rows.store.batch()
        batch.put("meta", b"model", model.encode())
        self.rows.store.write(batch, sync=True)

    def reset(self, part: int) -> None:
        """Forget everything of a partition."""
        for family in FAMILIES:
            if family != "meta":
                self._wipe(family, keys.partition(part))
        self.text.delete_range(text_key(part, 0), text_key(part + 1, 0))
        self.tenants.clear()
        self.pieces.recount()
        batch = self.rows.store.batch()
        self._write(batch, part, Head())
        self._text_taken[part] = Head()
        self.text.commit({part: Head()})
        self.text_at[part] = Head()

    def _wipe(self, family: str, start: bytes) -> None:
        batch = self.rows.store.batch()
        for key, _ in self.rows.store.scan(family, start):
            batch.delete(family, key)
            if len(batch) >= _CHUNK:
                self.rows.store.write(batch, sync=False)
                batch = self.rows.store.batch()
        self.rows.store.write(batch, sync=False)

    def purge(self) -> None:
        """Rewrite every file that may hold erased words: rows, words, graphs. Searches go on meanwhile."""
        self.commit()
        fresh = self.text.path.with_name("text.new")
        shutil.rmtree(fresh, ignore_errors=True)
        rewritten = TextIndex(fresh, self._heap_bytes)
        words = Words(self.rows, rewritten)
        for key, raw in self.rows.store.scan("docs", b""):
            doc = msgspec.msgpack.decode(raw, type=Doc)
            words.add(key[0], self.tenants.get(key[1:-9].decode()), doc)
        rewritten.commit(self.text_at)
        rewritten.close()
        self._swap(fresh)
        for tenant in self.tenants.held():
            tenant.shelf.graph = tenant.shelf.make_graph()
            shutil.rmtree(self.tenants.graph_folder(tenant.name), ignore_errors=True)
        self.rows.store.compact()
        batch = self.rows.store.batch()
        batch.delete("meta", b"purge")
        self.rows.store.write(batch, sync=True)
        self.purge_due = False

    def _swap(self, fresh: Path) -> None:
        """Put the rewritten index in place; if we die in between, it is missing and is made again by `scan`."""
        path = self.text.path
        old = path.with_name("text.old")
        self.text.close()
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        fresh.rename(path)
        self.text.reopen()
        shutil.rmtree(old, ignore_errors=True)
