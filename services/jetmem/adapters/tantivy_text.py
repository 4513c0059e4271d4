"""Words, through tantivy: one index for the tenants of a partition, in which no tenant's words meet another's.

Every token carries its tenant (`acme:deploy`), so a search touches only that tenant's postings, without a filter,
and document frequencies are the tenant's own. The number of documents is not (tantivy's is the index's), which
`lexical.rarity_boost` sets right; the average length stays the partition's (gap: decision 0006).

A commit holds the checkpoint as a document beside the data: both or neither.

Nodes of the table of contents are in an index of their own, in a folder inside: BM25 counts every document of an index,
deleted ones included, so nodes, which come again and again, would change how events are ranked (decision 0016). It is
committed first and has no checkpoint: what it holds beyond the checkpoint comes again and takes its own place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import tantivy
from tantivy import FieldType, Filter, Occur, Query, TextAnalyzerBuilder, Tokenizer

from jetmem.domain import lexical
from jetmem.runtime.errors import Broken
from jetmem_schemas.internal import Filters, Head

FIELDS: Final = ("w1", "w3", "w5")
_NODES: Final = "nodes"
#: Longer runs of letters are keys and hashes; they are found by their first letters nowhere else either.
_TOKEN_CHARS_MAX: Final = 64
#: Terms of one question; more only cost time.
_TERMS_MAX: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TextDoc(NamedTuple):
    """One event, or a `node`, as the word index sees it. `key` is its number in the partition's log."""

    key: int
    session: int
    position: int
    author: int
    ts: int
    w1: str
    w3: str
    w5: str
    terms: dict[str, Sequence[str]]
    node: bool = False


class TextHit(NamedTuple):
    """One document found in one field: its key, session and position, its author's number, BM25."""

    key: int
    session: int
    position: int
    author: int
    score: float


class TextIndex:
    """The words of one partition. `add`, `delete`, `commit`, `rest` from one thread; `search` from any."""

    def __init__(self, path: Path, heap_bytes: int) -> None:
        """Open what is at `path`, or begin.

        Raises:
            Broken: It is damaged.
        """
        self.path = path
        self._heap_bytes = heap_bytes
        self._events = _Index(path, heap_bytes)
        self._nodes = _Index(path / _NODES, heap_bytes) if (path / _NODES).exists() else None

    def rest(self) -> None:
        """Let merges end and the writers go; what is not committed is lost."""
        for index in self._both():
            index.rest()

    def _both(self) -> list[_Index]:
        return [self._events] if self._nodes is None else [self._nodes, self._events]

    def add(self, doc: TextDoc) -> None:
        """Add one document; searchable after `commit`."""
        if not doc.node:
            self._events.add(_document(doc))
            return
        if self._nodes is None:
            self._nodes = _Index(self.path / _NODES, self._heap_bytes)
        self._nodes.delete(doc.key)
        self._nodes.add(_document(doc))

    def delete(self, key: int) -> None:
        """Remove one document, present or not; its words stay in the files until the index is rewritten."""
        for index in self._both():
            index.delete(key)

    def delete_after(self, key: int) -> None:
        """Remove the documents with greater keys."""
        for index in self._both():
            index.delete_after(key)

    def commit(self, at: Head) -> None:
        """Make everything since the last commit durable and searchable, together with this checkpoint."""
        if self._nodes is not None and self._nodes.changed:
            self._nodes.commit()
        self._events.mark(at)
        self._events.commit()

    def head(self) -> Head:
        """The checkpoint of the last commit."""
        return self._events.head()

    def search(
        self,
        tenant: str,
        tokens: Sequence[str],
        field: str,
        limit: int,
        *,
        tenant_docs: int,
        filters: Filters,
        nodes: bool = False,
    ) -> list[TextHit]:
        """The best documents of one tenant in one field.

        Args:
            tenant: Whose.
            tokens: From `analyze`, of the question.
            field: One of `FIELDS`; of nodes the first.
            limit: How many at most.
            tenant_docs: Documents of the tenant, for the rarity of words.
            filters: Narrowed to these.
            nodes: Among nodes instead of events.
        """
        index = self._nodes if nodes else self._events
        return index.search(tenant, tokens, field, limit, tenant_docs, filters) if index is not None else []

    def words_held(self, tenant: str, token: str) -> int:
        """Documents in the files with a word of a tenant, deleted ones included."""
        return sum(index.words_held(tenant, token) for index in self._both())

    @property
    def documents(self) -> int:
        """Events searchable now, and the checkpoint; deleted ones not counted."""
        return self._events.documents


class _Index:
    """One tantivy index. The writer, with its threads and its buffer, is there from the first change after `rest`."""

    def __init__(self, path: Path, heap_bytes: int) -> None:
        self.path = path
        self.changed = False
        self._heap_bytes = heap_bytes
        self._held_writer: Any = None
        path.mkdir(parents=True, exist_ok=True)
        try:
            self._index = tantivy.Index(_SCHEMA, path=str(path))
        except ValueError as error:
            raise Broken(f"text index {path} cannot be opened: {error}") from error
        self._index.config_reader("manual")
        self._index.reload()
        self._searcher = self._index.searcher()

    @property
    def _writer(self) -> Any:
        """The writer.

        Raises:
            Broken: Another process writes this index.
        """
        if self._held_writer is None:
            try:
                self._held_writer = self._index.writer(self._heap_bytes, 1)
            except ValueError as error:
                raise Broken(f"text index {self.path} cannot be opened: {error}") from error
        self.changed = True
        return self._held_writer

    def rest(self) -> None:
        if self._held_writer is not None:
            self._held_writer.wait_merging_threads()
            self._held_writer = None

    def add(self, document: Any) -> None:
        self._writer.add_document(document)

    def delete(self, key: int) -> None:
        self._writer.delete_documents_by_term("key", key)

    def delete_after(self, key: int) -> None:
        span = Query.range_query(_SCHEMA, "key", FieldType.Integer, key, None, include_lower=False)
        self._writer.delete_documents_by_query(span)

    def mark(self, at: Head) -> None:
        """Put the checkpoint in place of the last one."""
        self._writer.delete_documents_by_term("checkpoint", 1)
        mark = tantivy.Document()
        mark.add_integer("checkpoint", 1)
        mark.add_unsigned("at_rseq", at.rseq)
        mark.add_unsigned("at_seq", at.seq)
        self._writer.add_document(mark)

    def commit(self) -> None:
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()
        self.changed = False

    def head(self) -> Head:
        query = Query.term_query(_SCHEMA, "checkpoint", 1)
        for _, address in self._searcher.search(query, 1, count=False).hits:
            held = self._searcher.doc(address)
            return Head(_number(held, "at_rseq"), _number(held, "at_seq"))
        return Head()

    def search(
        self, tenant: str, tokens: Sequence[str], field: str, limit: int, tenant_docs: int, filters: Filters
    ) -> list[TextHit]:
        searcher = self._searcher
        clauses = []
        for token in list(dict.fromkeys(tokens))[:_TERMS_MAX]:
            term = f"{tenant}:{token}"
            count = searcher.doc_freq(field, term)
            if count:
                boost = lexical.rarity_boost(count, tenant_docs, searcher.num_docs)
                query = Query.term_query(_SCHEMA, field, term, index_option="freq")
                clauses.append((Occur.Should, Query.boost_query(query, boost)))
        if not clauses:
            return []
        query = Query.boolean_query(clauses)
        narrowed = _narrow(filters)
        if narrowed:
            query = Query.boolean_query([(Occur.Must, query), *((Occur.Must, n) for n in narrowed)])
        return _hits(searcher, query, limit)

    def words_held(self, tenant: str, token: str) -> int:
        return sum(int(self._searcher.doc_freq(field, f"{tenant}:{token}")) for field in FIELDS)

    @property
    def documents(self) -> int:
        return int(self._searcher.num_docs)


def _document(doc: TextDoc) -> Any:
    made = tantivy.Document()
    # add_…, not the constructor: an int given there becomes I64 and panics the writer thread on unsigned fields
    made.add_integer("key", doc.key)
    made.add_unsigned("sid", doc.session)
    made.add_unsigned("pos", doc.position)
    made.add_unsigned("who", doc.author)
    made.add_integer("ts", doc.ts)
    made.add_text("w1", doc.w1)
    made.add_text("w3", doc.w3)
    made.add_text("w5", doc.w5)
    for field, values in doc.terms.items():
        for value in values:
            made.add_text(field, value)
    return made


def _hits(searcher: Any, query: Any, limit: int) -> list[TextHit]:
    hits = searcher.search(query, limit, count=False).hits
    places = [address for _, address in hits]
    columns = [searcher.fast_field_values(name, places) for name in ("key", "sid", "pos", "who")]
    return [
        TextHit(key, sid, pos, who, float(score)) for (score, _), key, sid, pos, who in zip(hits, *columns, strict=True)
    ]


def _narrow(filters: Filters) -> list[Any]:
    """Filters as clauses that select but add nothing to BM25."""
    exact = [("agent", filters.agent), ("session", filters.session), ("author", filters.author)]
    queries = [_is(field, [value]) for field, value in exact if value]
    queries += [_is(f, v) for f, v in (("kind", filters.kinds), ("role", filters.roles)) if v]
    queries += [_is("tag", [tag]) for tag in filters.tags]
    if filters.since is not None or filters.until is not None:
        first, end = filters.since, filters.until
        upper = {} if end is None else {"include_upper": False}  # refused on a side without a bound
        queries.append(Query.range_query(_SCHEMA, "ts", FieldType.Integer, first, end, **upper))
    return [Query.const_score_query(query, 0.0) for query in queries]


def _is(field: str, values: Sequence[str]) -> Any:
    return Query.term_set_query(_SCHEMA, field, list(values))


def analyze(text: str) -> list[str]:
    """Stems of the words of a text, in order, without stop words."""
    tokens: list[str] = _ANALYZER.analyze(text)
    return tokens


def window(tenant: str, tokens: Sequence[str]) -> str:
    """Tokens as the index stores them: each with its tenant, so that no tenant's words meet another's."""
    return f"{tenant}:" + f" {tenant}:".join(tokens) if tokens else ""


def date_of(ts_ms: int) -> str:
    """Date words of an event's time, for the index."""
    return lexical.date_words(_EPOCH + timedelta(milliseconds=ts_ms))


def _number(document: Any, field: str) -> int:
    return int(document.get_first(field))


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    # signed: `delete_documents_by_term` makes an I64 term of an int, which no document of an unsigned field has
    builder.add_integer_field("key", indexed=True, fast=True)
    builder.add_unsigned_field("sid", fast=True)
    builder.add_unsigned_field("pos", fast=True)
    builder.add_unsigned_field("who", fast=True)
    builder.add_integer_field("ts", indexed=True, fast=True)
    for name in FIELDS:
        builder.add_text_field(name, tokenizer_name="whitespace", index_option="freq")
    for name in ("agent", "session", "author", "kind", "role", "tag"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    builder.add_integer_field("checkpoint", indexed=True)
    builder.add_unsigned_field("at_rseq", stored=True)
    builder.add_unsigned_field("at_seq", stored=True)
    return builder.build()


_SCHEMA: Final = _schema()
_ANALYZER: Final = (
    TextAnalyzerBuilder(Tokenizer.simple())
    .filter(Filter.lowercase())
    .filter(Filter.custom_stopword(list(lexical.STOP_WORDS)))
    .filter(Filter.stemmer("english"))
    .filter(Filter.remove_long(_TOKEN_CHARS_MAX))
    .build()
)
