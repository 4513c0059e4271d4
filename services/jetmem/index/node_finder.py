"""Find nodes: by their words and vectors, ranked by the same recipe as events, so that their scores compare.

A node has no neighbours and no session but itself: its own BM25 stands for that of its windows (decision 0016).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain import fusion
from jetmem.index.nodes import begins_before, narrowed
from jetmem.index.rows import Doc, Rows, nodes_of
from jetmem.index.shelf import Floats, Shelf
from jetmem.index.tenants import Tenant, Tenants
from jetmem_schemas.internal import FindRequest, Found
from jetmem_schemas.subjects import partition_of

#: Candidates of each arm, at first.
_HITS: Final = 200
#: More, if `until` left too few of them.
_MORE: Final = 4


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
        most = max(_HITS, request.limit)
        while True:
            words = self._by_words(request, tenant, most) if mode != "vector" else {}
            near = _near(request, shelf, vector, most) if shelf is not None else []
            found = self._rows.docs(tenant.name, list(dict.fromkeys([*words, *near])))
            docs = [
                doc for doc in found if doc is not None and not doc.out and begins_before(doc, request.filters.until)
            ]
            if len(docs) >= request.limit or max(len(words), len(near)) < most:
                break
            most *= _MORE
        places = [(doc.sid, doc.position) for doc in docs]
        cosines = shelf.cosines(vector, places) if shelf is not None else np.full(len(docs), np.nan)
        features = _features(docs, words, cosines)
        held = set(near)
        best = fusion.rank(features, mode)[: request.limit]
        return [_found(docs[i], features, i, score, near=docs[i].rseq in held) for i, score in best]

    def _by_words(self, request: FindRequest, tenant: Tenant, most: int) -> dict[int, float]:
        """BM25 by number in the log."""
        hits = self._text.search(
            partition_of(request.tenant), tenant.name, analyze(request.query), "w1", most,
            tenant_docs=tenant.row.docs, filters=narrowed(request.filters), nodes=True,
        )  # fmt: skip
        return {hit.key: hit.score for hit in hits}


def _near(request: FindRequest, shelf: Shelf, vector: Floats, most: int) -> list[int]:
    """Numbers in the log of the nearest, one for each passage."""
    rows = shelf.search(vector, most, shelf.mask(narrowed(request.filters), None, None))
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
