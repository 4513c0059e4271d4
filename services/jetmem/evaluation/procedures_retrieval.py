"""Does a paraphrase find the task that was solved? Every task with a paraphrase asks among all the others."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from jetmem.adapters.tantivy_text import analyze
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.retrieval import Finder
from jetmem.evaluation.procedures_data import Data
from jetmem.evaluation.procedures_scores import Figure, figure

GOALS: Final = (0.85, 0.98)


class Found(msgspec.Struct, frozen=True):
    """Share of questions whose first, or one of whose first five, is a paraphrase."""

    hit_1: Figure
    hit_5: Figure


class Retrieval(msgspec.Struct, frozen=True):
    """One data set; `questions` tasks have a paraphrase."""

    data: str
    questions: int
    ways: dict[str, Found]


def measure(data: Data) -> Retrieval | None:
    """Rank; None where nothing is a paraphrase of anything."""
    sizes = np.bincount(data.group)
    asked = np.flatnonzero(sizes[data.group] > 1)
    if not len(asked):
        return None
    finder = Finder(data.situations, analyze)
    arms = finder.arms(data.situations.take(asked))
    together = finder.raw(arms)
    ways = {**arms, "fused": together, "jetmem (less crowding)": finder.scores(data.situations.take(asked))}
    return Retrieval(data.name, len(asked), {name: _found(data, asked, scores) for name, scores in ways.items()})


def _found(data: Data, asked: np.typing.NDArray[np.intp], scores: Floats) -> Found:
    others = scores.copy()
    others[np.arange(len(asked)), asked] = -np.inf
    best = np.argsort(-others, axis=1, kind="stable")[:, :5]
    same = data.group[best] == data.group[asked][:, None]
    ones, group = np.ones(len(asked)), np.unique(data.group[asked], return_inverse=True)[1]
    return Found(figure(same[:, 0] * 1.0, ones, group), figure(same.any(1) * 1.0, ones, group))
