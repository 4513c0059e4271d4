"""What is done to a ranking after the fusion: what corrects what is marked, and the ranking options apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np

from jetmem.domain import ranking
from jetmem.domain.ranking import CANDIDATES, Placed
from jetmem.index.rows import Doc, text_hash
from jetmem.index.shelf import Floats
from jetmem.runtime.corrections import Corrections
from jetmem_schemas.internal import FindRequest, Found
from jetmem_schemas.ranking import Rank

Hits: TypeAlias = list[tuple[Doc, Found]]
#: A vector of unit length for each document, in their order; zeros for one that has none.
VectorsOf: TypeAlias = Callable[[Sequence[Doc]], Floats]
#: Kinds of texts kept, some 150 bytes each: telling one takes 40 µs, and a hundred would take longer than the search.
_KINDS_MAX: Final = 20_000


def hits_needed(rank: Rank, limit: int) -> int:
    """Ranked hits that `Refiner.refine` needs for `limit` of its own: what is folded frees places."""
    if not ranking.active(rank):
        return limit
    return limit + CANDIDATES if rank.fold else max(limit, CANDIDATES)


class Refiner:
    """Marks, re-ranks and folds. Read pool."""

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections
        self._lasting: dict[tuple[str, bytes], bool] = {}

    def refine(self, request: FindRequest, hits: Hits, vectors: VectorsOf) -> list[Found]:
        """The first `limit` hits, marked and in the order that the request's options give.

        Args:
            request: As asked.
            hits: The fusion's, best first; the first `CANDIDATES` of them are looked at whatever the limit, so the
                pages of one question agree.
            vectors: Asked for those of the hits that are looked at, if an option compares them.
        """
        by = self._corrections.of(request.tenant, (doc.id for doc, _ in hits))
        marked = [_marked(found, each) for (_, found), each in zip(hits, by, strict=True)]
        if not ranking.active(request.rank) or not hits:
            return marked[: request.limit]
        docs = [doc for doc, _ in hits[:CANDIDATES]]
        placed = ranking.rank(self._candidates(request, docs, marked, vectors), request.rank)
        best = [_placed(marked, each) for each in placed]
        floor = min(each.score for each in best)
        # Further down nothing is looked at; no score there may be above one that was lowered.
        rest = [_scored(found, min(found.score, floor)) for found in marked[CANDIDATES:]]
        return [*best, *rest][: request.limit]

    def _candidates(
        self, request: FindRequest, docs: Sequence[Doc], marked: Sequence[Found], vectors: VectorsOf
    ) -> ranking.Candidates:
        rank = request.rank
        alike = ranking.likeness(vectors(docs)) if ranking.needs_likeness(rank) else None
        kinds = (
            [self._lasts(request.tenant, doc.text) for doc in docs]
            if ranking.needs_kinds(rank)
            else [False] * len(docs)
        )
        return ranking.Candidates(
            score=np.array([found.score for found in marked[: len(docs)]], dtype=np.float64),
            ts=np.array([doc.ts for doc in docs], dtype=np.int64),
            order=np.array([doc.rseq for doc in docs], dtype=np.int64),
            importance=np.array([doc.importance for doc in docs], dtype=np.float64),  # None becomes NaN
            lasting=np.array(kinds, dtype=np.bool_),
            corrected=np.array([bool(found.superseded_by) for found in marked[: len(docs)]], dtype=np.bool_),
            likeness=alike,
        )

    def _lasts(self, tenant: str, text: str) -> bool:
        key = (tenant, text_hash(text))
        known = self._lasting.get(key)
        if known is None:
            if len(self._lasting) >= _KINDS_MAX:
                self._lasting.clear()
            known = self._lasting[key] = ranking.lasting(text)
        return known


def _marked(found: Found, by: str) -> Found:
    return msgspec.structs.replace(found, superseded_by=by) if by else found


def _scored(found: Found, score: float) -> Found:
    return msgspec.structs.replace(found, score=score)


def _placed(marked: Sequence[Found], placed: Placed) -> Found:
    found = marked[placed.at]
    folded = [marked[i].id for i in placed.folded]
    return msgspec.structs.replace(found, score=placed.score, scores=found.scores | placed.why, folded=folded)
