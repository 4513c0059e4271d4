"""Find nodes: by their words and vectors, ranked by the same recipe as events, so that their scores compare.

A node has no neighbours and no session but itself: its own BM25 stands for that of its windows (decision 0016).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain import fusion
from jetmem.index.nodes import begins_before, narrowed
from jetmem.index.rows import Doc, Rows, nodes_of
from jetmem.index.shelf import Floats, Shelf
from jetmem.index.tenants import Tenant, Tenants
from jetmem_schemas.internal import Filters, FindRequest, Found
from jetmem_schemas.subjects import partition_of

#: Candidates of each arm.
_HITS: Final = 200
#: Those among which nodes are looked for that begin before `until` and end later: at most one of each level above
#: segments, which tells of the most and is seldom far down.
_LATER_HITS: Final = 800


class NodeFinder:
    """Answers one question from the nodes of a tenant. Runs on the read pool, beside the writer."""

    def __init__(self, rows: Rows, text: TextIndexes, tenants: Tenants) -> None:
        self._rows = rows
        self._text = text
        self._tenants = tenants

    def find(self, request: FindRequest, mode: fusion.Mode) -> list[Found]:
        """The best nodes, best first, at most `limit`. `mode` is one that the question's vector fits."""
        tenant = self._tenants.get(nodes_of(request.tenant))
        shelf = self._tenants.shelf(tenant) if mode != "text" else None
        vector = np.frombuffer(request.vector, dtype=np.float32)
        words: dict[int, float] = {}
        near: list[int] = []
        for filters, most in _parts(request):
            if mode != "vector":
                words |= self._by_words(request, tenant, filters, most)
            if shelf is not None:
                near += _near(filters, shelf, vector, most)
        found = self._rows.docs(tenant.name, list(dict.fromkeys([*words, *near])))
        until = request.filters.until
        docs = [doc for doc in found if doc is not None and not doc.out and begins_before(doc, until)]
        places = [(doc.sid, doc.position) for doc in docs]
        cosines = shelf.cosines(vector, places) if shelf is not None else np.full(len(docs), np.nan)
        features = _features(docs, words, cosines)
        held = set(near)
        best = fusion.rank(features, mode)[: request.limit]
        return [_found(docs[i], features, i, score, near=docs[i].rseq in held) for i, score in best]

    def _by_words(self, request: FindRequest, tenant: Tenant, filters: Filters, most: int) -> dict[int, float]:
        """BM25 by number in the log."""
        hits = self._text.search(
            partition_of(request.tenant), tenant.name, analyze(request.query), "w1", most,
            tenant_docs=tenant.row.docs, filters=filters, nodes=True,
        )  # fmt: skip
        return {hit.key: hit.score for hit in hits}


def _parts(request: FindRequest) -> list[tuple[Filters, int]]:
    """Filters that take apart what a question selects, each with how many candidates it is asked for.

    Both arms know when a node ends and not when it begins, so what ends before `until` is found by a filter, and what
    ends later is looked at. However many nodes a tenant has, so many are read and no more.
    """
    filters, most = narrowed(request.filters), max(_HITS, request.limit)
    until = request.filters.until
    if until is None:
        return [(filters, most)]
    since = until if filters.since is None else max(filters.since, until)
    before, later = (msgspec.structs.replace(filters, **bound) for bound in ({"until": until}, {"since": since}))
    return [(before, most), (later, max(_LATER_HITS, most))]


def _near(filters: Filters, shelf: Shelf, vector: Floats, most: int) -> list[int]:
    """Numbers in the log of the nearest, one for each passage."""
    rows = shelf.search(vector, most, shelf.mask(filters, None, None))
    numbers: list[int] = shelf.columns["rseq"][rows].tolist()
    return numbers


def _features(docs: list[Doc], words: dict[int, float], cosines: fusion.Floats) -> fusion.Features:
    order = np.array([doc.rseq for doc in docs], dtype=np.int64)
    own = np.array([words.get(doc.rseq, 0.0) for doc in docs], dtype=np.float64)
    nothing = np.full(len(docs), np.nan)
    return fusion.Features(
        order=order,
        session=order,
        turn=own,
        window3=own,
        window5=own,
        named=np.zeros(len(docs), dtype=np.bool_),
        cosine=cosines,
        cosine_before=nothing,
        cosine_after=nothing,
    )


def _found(doc: Doc, features: fusion.Features, i: int, score: float, *, near: bool) -> Found:
    words, cosine = float(features.turn[i]), float(features.cosine[i])
    arms = [name for name, hit in (("text", words > 0), ("vector", near)) if hit]
    scores = {"words": words} if np.isnan(cosine) else {"words": words, "cosine": cosine}
    return Found(doc.id, score, arms, scores, doc.rseq, node=True)
