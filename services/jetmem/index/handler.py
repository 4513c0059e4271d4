"""Apply facts: rows first, then words; vectors as they come. Everything here runs on the one writer thread.

The two stores keep their own checkpoints. What one has and the other lacks after a crash is applied to that one
alone, so nothing is in either twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Final

import msgspec

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.domain import keys
from jetmem.index.arrivals import Arrivals
from jetmem.index.core import Said, said_of
from jetmem.index.names import Names
from jetmem.index.nodes import Nodes
from jetmem.index.pieces import Pieces
from jetmem.index.ports import Splitter
from jetmem.index.redo import Redo
from jetmem.index.retention import Limits, Sweep
from jetmem.index.rewrite import Rewrite
from jetmem.index.rows import FAMILIES, Doc, Rows, nodes_of
from jetmem.index.tenants import Tenant, Tenants
from jetmem.index.words import REACH, Words
from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock, SystemClock
from jetmem.runtime.corrections import Corrections
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.ledger import Ledger
from jetmem.runtime.models import Models, Verdict
from jetmem.runtime.store import WriteSet
from jetmem_schemas.internal import Entry, Forgotten, Head, VectorsReady
from jetmem_schemas.subjects import owner, partition_of

_forgotten = msgspec.msgpack.Decoder(Forgotten).decode
#: Row in `meta` of what must be finished on the next start if we die in it.
_REMODEL: Final = b"remodel"


class Indexer:
    """The writer of all of index's stores.

    Attributes:
        rows_at: Per partition, the last entry in RocksDB.
        text_at: Per partition, the last entry in tantivy, committed and searchable.
        erased: Per tenant, the last forget whose words may still be in files.
        remodelling: Vectors are being dropped for another model's: nobody can say now which lack.
        uncommitted: Per partition, documents whose words wait for a commit.
    """

    def __init__(
        self,
        rows: Rows,
        text: TextIndexes,
        tenants: Tenants,
        splitter: Splitter,
        parts: Iterable[int],
        clock: Clock | None = None,
    ) -> None:
        self.rows = rows
        self.text = text
        self.tenants = tenants
        self.parts = tuple(parts)
        self.words = Words(rows, text.add)
        self.names = Names(rows)
        self.pieces = Pieces(rows, splitter)
        self.corrections = Corrections(rows.store)
        clock = clock or SystemClock()
        self.arrivals = Arrivals(rows.store)
        self.limits = Limits(clock)
        self.redo = Redo(rows.store)
        self.nodes = Nodes(rows, self.redo, tenants, self.names, self.pieces, self.arrivals, self.limits)
        self.sweep = Sweep(rows, self.redo, tenants, self.names, self.pieces, self.limits)
        self.models = Models(clock)
        self.rows_at = {part: rows.position(part) for part in self.parts}
        self.text_at = {part: text.head(part) for part in self.parts}
        self.ledger = Ledger(rows.store)
        self.erased = self.ledger.erased
        self.uncommitted: Counter[int] = Counter()
        self._committing: dict[int, Head] = {}
        self._text_taken = dict(self.text_at)
        self._rewrite: Rewrite | None = None
        self._to_rewrite: list[int] | None = None
        self._rewritten: dict[str, int] = {}
        self.remodelling = False
        self._finish()

    def _finish(self) -> None:
        """Finish what the process before us died in."""
        for part in self.ledger.unfinished():
            self.reset(part)
        for part in self.parts:
            self._cut_words(part)
        model = self.rows.store.get("meta", _REMODEL)
        if model is not None:
            self._change_model(model.decode())

    def _cut_words(self, part: int) -> None:
        """Words ahead of the rows (an older copy of them was put back) may have other positions than they get now."""
        at = self.rows_at[part]
        if self.text_at[part].rseq > at.rseq:
            self.text.cut(part, at)
            self._text_taken[part] = self.text_at[part] = at

    def position(self, part: int) -> Head:
        """Where reading resumes: the lower of the two checkpoints."""
        return min(self.rows_at[part], self.text_at[part], key=lambda head: head.rseq)

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
        fresh: list[tuple[Tenant, Doc]] = []
        batch = self.rows.store.batch()
        new = [entry for entry in run if entry.rseq > self.rows_at[part].rseq]
        self.arrivals.note(batch, part, new)
        for entry in new:
            self.corrections.take(batch, entry)
            said = said_of(entry)
            if said is not None:
                tenant = self.tenants.get(entry.tenant)
                fresh.append((tenant, self._take(batch, tenant, entry, said)))
        self.pieces.expect(batch, fresh)
        told = self.nodes.take(batch, part, new)
        last = Head(run[-1].rseq, run[-1].seq)
        if last.rseq > self.rows_at[part].rseq:
            self._write(batch, part, last)
        if told:
            self.tenants.put_away_worn()
        self._add_words(part, run, {doc.rseq: doc for doc in (*(doc for _, doc in fresh), *told)})

    def _add_words(self, part: int, run: Sequence[Entry], fresh: dict[int, Doc]) -> None:
        for entry in run:
            if entry.rseq <= self._text_taken[part].rseq or entry.kind not in ("event", "derived"):
                continue
            space = entry.tenant if entry.kind == "event" else nodes_of(entry.tenant)
            doc = fresh.get(entry.rseq) or self.rows.doc(space, entry.rseq)
            if doc is not None:
                self.words.add(part, space, doc)
                self._touch(part, space, doc.rseq)
        last = Head(run[-1].rseq, run[-1].seq)
        if last.rseq > self._text_taken[part].rseq:
            self._text_taken[part] = last

    def _touch(self, part: int, tenant: str, rseq: int) -> None:
        self.uncommitted[part] += 1
        if self._rewrite is not None and self._rewrite.part == part:
            self._rewrite.touch(tenant, rseq)

    def _take(self, batch: WriteSet, tenant: Tenant, entry: Entry, said: Said) -> Doc:
        """Number one event within its tenant and write its rows."""
        sid, position, who = self.names.number(tenant, entry.agent, entry.session, said.author)
        doc = Doc(
            entry.id, entry.rseq, entry.seq, entry.ts, entry.agent, entry.session, sid, position,
            said.author, who, said.kind, said.role, said.tags, said.text, said.importance,
        )  # fmt: skip
        self.rows.put_doc(batch, tenant.name, doc)
        return doc

    def _write(self, batch: WriteSet, part: int, at: Head) -> None:
        self.names.flush(batch)
        self.rows.set_position(batch, part, at)
        self.rows.store.write(batch, sync=False)
        self.pieces.written()  # before the position moves: what is pending must not look fresh
        self.rows_at[part] = at
        self.tenants.trim()
        crashpoint("index:after-store")

    def _forget(self, part: int, entry: Entry) -> None:
        """Erase documents: rows, vectors, words; the words of their neighbours' windows are indexed again."""
        gone = _forgotten(entry.body).rseqs
        if entry.rseq > self.rows_at[part].rseq:
            self._erase(part, entry, gone)
        for rseq in gone:
            self.text.delete(part, rseq)
            self._touch(part, entry.tenant, rseq)
        if entry.rseq > self._text_taken[part].rseq:
            self._text_taken[part] = Head(entry.rseq, entry.seq)

    def _erase(self, part: int, entry: Entry, gone: Sequence[int]) -> None:
        tenant = self.tenants.get(entry.tenant)
        batch = self.rows.store.batch()
        self.arrivals.note(batch, part, [entry])
        docs = [doc for doc in self.rows.docs(tenant.name, gone) if doc is not None]
        for doc in docs:
            self.rows.drop_doc(batch, tenant.name, doc)
            self.pieces.drop(batch, tenant, doc)
            self.words.forget(tenant.name, doc.sid)
        after = {(doc.sid, doc.position + step) for doc in docs for step in range(1, REACH + 1)}
        for rseq in self.rows.places(tenant.name, sorted(after)):
            if rseq:
                self.redo.note(batch, tenant.name, rseq)
        self.names.drop(tenant, docs)
        corrected = self.corrections.drop(batch, tenant.name, gone)
        if self.nodes.erase(batch, tenant.name, gone) or corrected or docs:
            self.ledger.erase(batch, tenant.name, entry.rseq)
        self._write(batch, part, Head(entry.rseq, entry.seq))
        self.tenants.put_away_worn()

    def commit(self, only: int | None = None) -> None:
        """As `begin_commit`, and wait until all of it is done; of one partition or of all."""
        for part in [part for part in self._committing if only in (None, part)]:
            self.end_commit(part)
        for part in self.begin_commit(only):
            self.end_commit(part)

    def begin_commit(self, only: int | None = None) -> dict[int, Future[None]]:
        """Begin to make the words of what was applied durable and searchable, with the checkpoints.

        The rows are made durable first, so that after a power failure words are never ahead of them.

        Returns:
            What is under way, by partition; to be given to `end_commit` when it is done.
        """
        parts = [part for part in (self.parts if only is None else (only,)) if part not in self._committing]
        redone = {part: self._add_again(part) for part in parts}
        moved = {p: self._text_taken[p] for p in parts if redone[p] or self._text_taken[p] != self.text_at[p]}
        if not moved:
            return {}
        with metrics.write_seconds.labels("index").time():
            self.rows.store.sync()
        crashpoint("index:before-text-commit")
        for part, head in moved.items():
            self._committing[part] = head
            self.redo.begin(part, redone[part])
            self.uncommitted.pop(part, None)
        return {part: self.text.begin(part, head) for part, head in moved.items()}

    def end_commit(self, part: int) -> None:
        """A commit is done, or is waited for: what it holds counts as searchable."""
        if part not in self._committing:  # a reset, or somebody in more of a hurry, has ended it
            return
        head = self._committing.pop(part)
        self.text.end(part)
        crashpoint("index:after-text-commit")
        metrics.indexed.labels("text").inc(max(0, head.rseq - self.text_at[part].rseq))
        self.text_at[part] = head
        self.redo.end(part)

    def _add_again(self, part: int) -> list[int]:
        """Index again what is noted: documents whose windows held erased words, nodes that left or came back."""
        due = self.redo.due(part, self._text_taken[part].rseq)
        for rseq, space in due:
            self.text.delete(part, rseq)
            doc = self.rows.doc(space, rseq)
            if doc is not None:
                self.words.add(part, space, doc, again=True)
            self._touch(part, space, rseq)
        return [rseq for rseq, _ in due]

    def store_vectors(self, ready: VectorsReady) -> int | None:
        """Store vectors that embed made; how many passages of ours they were for, None if they are not wanted now."""
        verdict = self.models.judge(self.rows.model(), ready.model)
        if verdict is Verdict.REFUSE:
            return None
        if verdict is Verdict.CHANGE:
            self._change_model(ready.model)
        batch = self.rows.store.batch()
        tenant = self.tenants.get(ready.tenant)
        stored = self.pieces.arrived(batch, tenant, ready.vectors)
        self.names.touch(tenant)
        self.names.flush(batch)
        self.rows.store.write(batch, sync=False)
        self.pieces.written()
        metrics.indexed.labels("vector").inc(stored)
        return stored

    def _change_model(self, model: str) -> None:
        """Vectors of two models cannot be compared: ask again for all, or, at first, only note the name."""
        self.remodelling = True
        try:
            self._begin_model(model)
        finally:
            self.remodelling = False

    def _begin_model(self, model: str) -> None:
        store = self.rows.store
        if self.rows.model():
            self.ledger.note(_REMODEL, model.encode())
            for family in ("vectors", "rows", "pieces", "pending", "refs"):
                self.ledger.wipe(family, b"")
            self.tenants.clear()
            self.pieces.expect_all()
        batch = store.batch()
        self.rows.restart_rows(batch)
        self.rows.set_model(batch, model)
        batch.delete("meta", _REMODEL)
        store.write(batch, sync=True)
        self.pieces.recount()

    def reset(self, part: int) -> None:
        """Forget everything of a partition; what is begun is finished, if need be by the next process."""
        if self._rewrite is not None and self._rewrite.part == part:
            self._rewrite.abandon()
            self._rewrite = None
        held = self.rows.store.scan("tenants", keys.partition(part))
        self.ledger.drop(part, (owner(key[1:-1].decode()) for key, _ in held), FAMILIES)
        self._committing.pop(part, None)
        self.redo.drop(part)
        self.text.drop(part)
        self.tenants.clear()
        self.words.clear()
        self.arrivals.clear(part)
        self.pieces.recount()
        self._text_taken[part] = self.text_at[part] = Head()
        self.uncommitted.pop(part, None)
        batch = self.rows.store.batch()
        self.ledger.dropped(batch, part)
        self._write(batch, part, Head())
        self.rows.store.sync()

    # --- purging: words by a rewritten index, slice by slice, then rows and graphs

    def purge_step(self) -> bool:
        """One slice of rewriting the word indexes of partitions that forgot; True when all are done and in place."""
        if self._to_rewrite is None:
            self._to_rewrite = sorted({part for part in map(partition_of, self.erased) if part in self.parts})
            self._rewritten = {t: rseq for t, rseq in self.erased.items() if partition_of(t) not in self.parts}
            for tenant in self._rewritten:  # another shard's by now: the word index went at once
                self.tenants.drop_graph(tenant)
                self.tenants.drop_graph(nodes_of(tenant))
        if self._rewrite is None:
            if not self._to_rewrite:
                self._to_rewrite = None
                return True
            part = self._to_rewrite.pop()
            erased = {tenant: rseq for tenant, rseq in self.erased.items() if partition_of(tenant) == part}
            self._rewrite = Rewrite(self.rows, self.text, part, erased, self._text_taken)
        if not self._rewrite.step():
            return False
        self.commit(self._rewrite.part)  # what it does again is noted for the rewritten index, too
        rewrite, self._rewrite = self._rewrite, None
        rewrite.finish(self.text_at[rewrite.part])
        for tenant in rewrite.erased:
            self.tenants.drop_graph(tenant)
            self.tenants.drop_graph(nodes_of(tenant))
        self._rewritten |= rewrite.erased
        return False

    def purged(self) -> None:
        """The rows are rewritten too: no file holds what was erased when the rewriting began."""
        self.ledger.purged(self._rewritten)
