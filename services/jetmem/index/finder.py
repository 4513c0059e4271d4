"""Find events: candidates of each arm, their features, one ranking. Runs on the read pool, beside the writer."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain import fusion
from jetmem.index.node_finder import NodeFinder
from jetmem.index.pieces import vector_of
from jetmem.index.refining import Refiner, hits_needed
from jetmem.index.rows import EMPTY_MARK, Doc, Rows
from jetmem.index.shelf import Floats, Shelf
from jetmem.index.tenants import Tenant, Tenants
from jetmem.runtime import metrics
from jetmem.runtime.corrections import Corrections
from jetmem_schemas.internal import Filters, FindRequest, Found
from jetmem_schemas.subjects import partition_of

Place: TypeAlias = tuple[int, int]
#: Hits of one field; 200 give the recall of 300 (domain/fusion.py).
_TEXT_HITS: Final = 200
_VECTOR_HITS: Final = 100


@dataclass(slots=True, frozen=True)
class Question:
    """One question; `shelf` is None when vectors have no part in the answer."""

    request: FindRequest
    tenant: Tenant
    shelf: Shelf | None
    vector: NDArray[np.float32]


class Kept(NamedTuple):
    """A candidate: its place, its number in the log, whether the question names its author."""

    place: Place
    number: int
    named: bool


@dataclass(slots=True)
class Arms:
    """What each arm found, by place in a session."""

    turn: dict[Place, float]
    window3: dict[Place, float]
    window5: dict[Place, float]
    near: list[Place]

    def places(self) -> list[Place]:
        """The union, each once, in a fixed order."""
        return list(dict.fromkeys([*self.turn, *self.window3, *self.window5, *self.near]))


class Finder:
    """Answers one question from words and vectors."""

    def __init__(self, rows: Rows, text: TextIndexes, tenants: Tenants) -> None:
        self._rows = rows
        self._text = text
        self._tenants = tenants
        self._refiner = Refiner(Corrections(rows.store))
        self._nodes = NodeFinder(rows, text, tenants)

    def vectors_fit(self, request: FindRequest) -> bool:
        """Whether the question's vector can be compared with the stored ones."""
        held = (self._rows.model(), 4 * self._rows.dimensions())
        return bool(request.vector) and held == (request.model, len(request.vector))

    def vectors_of(self, tenant: str, rseqs: Sequence[int]) -> list[bytes]:
        """One vector of unit length for each entry, b"" for one that has none; the mean of several passages'."""
        passages = [self._rows.passages(tenant, rseq) for rseq in rseqs]
        raws = iter(self._rows.vectors(tenant, [digest for held in passages for digest in held]))
        found = [
            [raw for raw in islice(raws, len(held)) if raw and not raw.startswith(EMPTY_MARK)] for held in passages
        ]
        return [_mean([vector_of(raw) for raw in held]) if held else b"" for held in found]

    def find(self, request: FindRequest) -> list[Found]:
        """The best events, nodes or both for a question, best first, at most `limit`; of equal ones events first."""
        mode: fusion.Mode = request.mode if self.vectors_fit(request) else "text"
        events = self._events(request, mode) if request.target != "nodes" else []
        nodes = self._nodes.find(request, mode) if request.target != "events" else []
        return list(islice(heapq.merge(events, nodes, key=lambda each: -each.score), request.limit))

    def _events(self, request: FindRequest, mode: fusion.Mode) -> list[Found]:
        tenant = self._tenants.get(request.tenant)
        shelf = self._tenants.shelf(tenant) if mode != "text" else None
        question = Question(request, tenant, shelf, np.frombuffer(request.vector, dtype=np.float32))
        arms = self._arms(question, words=mode != "vector")
        places = arms.places()
        numbers = self._rows.places(request.tenant, places)
        kept = self._kept(question, [(p, n) for p, n in zip(places, numbers, strict=True) if n])
        if not kept:
            return []
        features = self._features(question, arms, kept)
        near = set(arms.near)
        best = fusion.rank(features, mode)[: hits_needed(request.rank, request.limit)]
        docs = self._rows.docs(request.tenant, [kept[i].number for i, _ in best])
        hits = [(d, _found(d, features, i, s, near)) for (i, s), d in zip(best, docs, strict=True) if d is not None]
        return self._refiner.refine(request, hits, partial(self._vectors_at, tenant))

    def _vectors_at(self, tenant: Tenant, docs: Sequence[Doc]) -> Floats:
        """As `Shelf.vectors_at`. Who asked by words alone has no shelf loaded for these few: the store has them."""
        shelf = tenant.shelf
        if shelf is not None:
            return shelf.vectors_at([(doc.sid, doc.position) for doc in docs])
        made = np.zeros((len(docs), self._rows.dimensions()), dtype=np.float32)
        for at, raw in enumerate(self.vectors_of(tenant.name, [doc.rseq for doc in docs])):
            if len(raw) == made[at].nbytes:
                made[at] = np.frombuffer(raw, dtype=np.float32)
        return made

    def _kept(self, question: Question, present: Sequence[tuple[Place, int]]) -> list[Kept]:
        """Candidates that pass the filters. Their documents are read only if a filter or a name asks for it."""
        filters = question.request.filters
        named = question.tenant.named_in(question.request.query)
        if filters == Filters() and not named:
            return [Kept(place, number, False) for place, number in present]
        docs = self._rows.docs(question.request.tenant, [number for _, number in present])
        return [
            Kept(place, number, doc.who in named)
            for (place, number), doc in zip(present, docs, strict=True)
            if doc is not None and _fits(doc, filters)
        ]

    def _arms(self, question: Question, *, words: bool) -> Arms:
        arms = Arms({}, {}, {}, [])
        request, tenant, shelf = question.request, question.tenant, question.shelf
        if words:
            with metrics.arm_seconds.labels("text").time():
                self._by_words(request, tenant, arms)
        if shelf is not None:
            with metrics.arm_seconds.labels("vector").time():
                arms.near = _near(question, shelf)
        return arms

    def _by_words(self, request: FindRequest, tenant: Tenant, arms: Arms) -> None:
        """Hits on events, and on windows, whose middle may be another author's: those are narrowed afterwards."""
        tokens = analyze(request.query)
        search = partial(self._text.search, partition_of(request.tenant), request.tenant, tokens)
        around = Filters(agent=request.filters.agent, session=request.filters.session)
        limit = max(_TEXT_HITS, request.limit)
        docs = tenant.row.docs
        for hit in search("w1", limit, tenant_docs=docs, filters=request.filters):
            arms.turn[(hit.session, hit.position)] = hit.score
        for field, reach, into in (("w3", 1, arms.window3), ("w5", 2, arms.window5)):
            hits = search(field, limit, tenant_docs=docs, filters=around)
            last = {hit.session: tenant.newest.get(hit.session, hit.position) for hit in hits}
            into.update(fusion.centre([(h.session, h.position, h.score) for h in hits], last, reach))

    def _features(self, question: Question, arms: Arms, kept: Sequence[Kept]) -> fusion.Features:
        places = [each.place for each in kept]
        nothing = np.full(len(places), np.nan)
        cosines = [nothing, nothing, nothing]
        if question.shelf is not None:
            shelf, vector = question.shelf, question.vector
            cosines = [shelf.cosines(vector, [(s, p + step) for s, p in places]) for step in (0, -1, 1)]
        return fusion.Features(
            order=np.array([each.number for each in kept], dtype=np.int64),
            session=np.array([sid for sid, _ in places], dtype=np.int64),
            turn=_column(arms.turn, places),
            window3=_column(arms.window3, places),
            window5=_column(arms.window5, places),
            named=np.array([each.named for each in kept], dtype=np.bool_),
            cosine=cosines[0],
            cosine_before=cosines[1],
            cosine_after=cosines[2],
        )


def _near(question: Question, shelf: Shelf) -> list[Place]:
    """Places of the nearest, best first, each once."""
    request, tenant, filters = question.request, question.tenant, question.request.filters
    named = tenant.authors.get(filters.author) if filters.author else None
    who = (named.number if named else -1) if filters.author else None
    mask = shelf.mask(filters, tenant.sids(filters), who)
    rows = shelf.search(question.vector, max(_VECTOR_HITS, request.limit), mask)
    sids, positions = shelf.columns["sid"][rows], shelf.columns["position"][rows]
    return list(dict.fromkeys(zip(sids.tolist(), positions.tolist(), strict=True)))


def _mean(vectors: Sequence[Floats]) -> bytes:
    if len(vectors) == 1:
        return vectors[0].tobytes()
    mean = np.mean(vectors, axis=0)
    length = float(np.linalg.norm(mean))
    return (mean / length).astype(np.float32).tobytes() if length else b""


def _column(scores: dict[Place, float], places: Sequence[Place]) -> NDArray[np.float64]:
    return np.array([scores.get(place, 0.0) for place in places], dtype=np.float64)


def _fits(doc: Doc, filters: Filters) -> bool:
    return (
        filters.agent in ("", doc.agent)
        and filters.session in ("", doc.session)
        and filters.author in ("", doc.author)
        and (not filters.kinds or doc.kind in filters.kinds)
        and (not filters.roles or doc.role in filters.roles)
        and set(filters.tags) <= set(doc.tags)
        and (filters.since is None or doc.ts >= filters.since)
        and (filters.until is None or doc.ts < filters.until)
    )


def _found(doc: Doc, features: fusion.Features, i: int, score: float, near: set[Place]) -> Found:
    place = (doc.sid, doc.position)
    words = features.turn[i] or features.window3[i] or features.window5[i]
    arms = [name for name, hit in (("text", bool(words)), ("vector", place in near)) if hit]
    scores = {
        "turn": float(features.turn[i]), "window3": float(features.window3[i]), "window5": float(features.window5[i]),
        "named": float(features.named[i]),
    }  # fmt: skip
    if not np.isnan(features.cosine[i]):
        scores["cosine"] = float(features.cosine[i])
    return Found(doc.id, score, arms, scores, doc.rseq)
