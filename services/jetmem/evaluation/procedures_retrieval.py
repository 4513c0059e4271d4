"""Does a paraphrase find the task that was solved? Every task with a paraphrase asks among all the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.tantivy_text import analyze
from jetmem.domain.procedures import retrieval
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.retrieval import Wording
from jetmem.evaluation.procedures_data import Data
from jetmem.evaluation.procedures_scores import Figure, figure

#: Tasks nearest by vector that are put in order, as learn does.
_ORDERED: Final = 32


class Found(msgspec.Struct, frozen=True):
    """Share of questions whose first, or one of whose first five, is a paraphrase."""

    hit_1: Figure
    hit_5: Figure


class Retrieval(msgspec.Struct, frozen=True):
    """One data set; `questions` tasks have a paraphrase."""

    data: str
    questions: int
    ways: dict[str, Found]


def questions(data: Data) -> NDArray[np.intp]:
    """Tasks that have a paraphrase."""
    return np.flatnonzero(np.bincount(data.group)[data.group] > 1)


def measure(data: Data) -> Retrieval | None:
    """Rank; None where nothing is a paraphrase of anything."""
    asked = questions(data)
    if not len(asked):
        return None
    words = Wording(data.situations.texts, analyze)
    by_vector = (data.situations.vectors @ data.situations.vectors.T).astype(np.float64)
    by_words = (words.known @ words.known.T).toarray()
    together = by_vector + by_words
    ways = {
        "vectors": by_vector[asked],
        "words": by_words[asked],
        "fused": together[asked],
        "jetmem (less crowding)": np.array([_uncrowded(by_vector[row], together, row) for row in asked]),
    }
    ranked = {name: np.argsort(-scores, axis=1, kind="stable").tolist() for name, scores in ways.items()}
    return Retrieval(data.name, len(asked), {name: found(data, asked, each) for name, each in ranked.items()})


def _uncrowded(cosine: Floats, together: Floats, row: int) -> Floats:
    scores = np.full(len(cosine), -np.inf)
    near = np.argsort(-cosine, kind="stable")[:_ORDERED]
    scores[near] = retrieval.less_crowded(together[row, near], together[np.ix_(near, near)])
    return scores


def found(data: Data, asked: NDArray[np.intp], ranked: Sequence[Sequence[int]]) -> Found:
    """Score the tasks that each question found, best first; the question itself does not count."""
    hits = np.zeros((len(asked), 2))
    for at, (row, best) in enumerate(zip(asked, ranked, strict=True)):
        same = [data.group[each] == data.group[row] for each in best if each != row][:5]
        hits[at] = any(same[:1]), any(same)
    ones, group = np.ones(len(asked)), np.unique(data.group[asked], return_inverse=True)[1]
    return Found(figure(hits[:, 0], ones, group), figure(hits[:, 1], ones, group))
