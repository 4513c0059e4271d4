"""Which tasks ask the same: by words where vectors lack, and in which order their runs are shown as evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import retrieval
from jetmem.domain.procedures.kernels import Floats, Vectors
from jetmem.domain.procedures.retrieval import Wording
from jetmem.learn.board import Board, Near
from jetmem.learn.rows import Rows
from jetmem.learn.sample import Sampled
from jetmem.runtime.stored_vectors import VECTOR_MARK, vector_of

#: Tasks nearest by vector that are put in order; with 64, or all, a paraphrase is found no more often.
ORDERED: Final = 32
#: Words in common below which tasks are not alike: such a run would count 0.05 runs.
LIKENESS_MIN: Final = 0.1
#: Of a key and its place.
_TASK_BYTES: Final = 200


class Worded(NamedTuple):
    """Words of the tasks of a sample; `without` marks those that lacked their vector."""

    wording: Wording
    tasks: list[bytes]
    row: Mapping[bytes, int]
    without: NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        """Memory, about: 130 MB at most, of two million characters of which no word comes twice."""
        return self.wording.nbytes + _TASK_BYTES * len(self.tasks)

    def like(self, text: str, count: int, *, every: bool) -> Near:
        """Tasks that share words with a text, best first, their likeness on the scale of cosines.

        Args:
            text: Of a task.
            count: At most so many.
            every: Whether tasks are told that had their vector, too.
        """
        if not (every or self.without.any()):
            return Near([], np.zeros(0))
        likeness = self.wording.likeness(text)
        if not every:
            likeness = np.where(self.without, likeness, 0.0)
        best = np.argsort(-likeness, kind="stable")[:count]
        best = best[likeness[best] >= LIKENESS_MIN]
        return Near([self.tasks[row] for row in best], retrieval.stretched(likeness[best]))


def told(of: Sampled) -> tuple[list[str], list[bytes], list[bool]]:
    """Texts of a sample's tasks, their keys, and which of them lacked their vector."""
    texts = sorted({run.task for run in of.runs if run.task})
    return texts, [of.keys[text] for text in texts], [text not in of.vectors for text in texts]


def worded(
    texts: list[str], tasks: list[bytes], without: list[bool], analyze: Callable[[str], list[str]]
) -> Worded | None:
    """Words of tasks; None of none."""
    if not texts:
        return None
    return Worded(Wording(texts, analyze), tasks, {task: row for row, task in enumerate(tasks)}, np.array(without))


def together(by_vector: Near, by_words: Near, count: int) -> Near:
    """Both, best first; what is in both counts as by vector."""
    held = dict(zip(by_words.tasks, by_words.cosine.tolist(), strict=True))
    held |= zip(by_vector.tasks, by_vector.cosine.tolist(), strict=True)
    best = sorted(held.items(), key=lambda each: -each[1])[:count]
    return Near([task for task, _ in best], np.array([cosine for _, cosine in best]))


def places(
    rows: Rows, board: Board, tenant: str, text: str, near: Mapping[bytes, float], words: Worded | None
) -> dict[bytes, int]:
    """In which order tasks answer a question, from 0.

    Args:
        rows: Where their texts are, and vectors that the board lacks.
        board: Of the tenant.
        tenant: Whose.
        text: Of the task asked about.
        near: Tasks with their cosines to it.
        words: Words of tasks; without them vectors alone decide.
    """
    ordered = sorted(near, key=lambda task: (-near[task], task))
    first, rest = ordered[:ORDERED], ordered[ORDERED:]
    scores = np.array([near[task] for task in first])
    if first:
        vectors = _vectors(rows, board, tenant, first)
        among = (vectors @ vectors.T).astype(np.float64)
        if words is not None:
            said = _said(rows, tenant, text, first, words)
            scores, among = scores + said[0, 1:], among + said[1:, 1:]
        scores = retrieval.less_crowded(scores, among)
    best = [first[at] for at in np.argsort(-scores, kind="stable")]
    return {task: place for place, task in enumerate([*best, *rest])}


def _said(rows: Rows, tenant: str, text: str, tasks: list[bytes], words: Worded) -> Floats:
    """Products of the words of every two, of a text first and then of tasks."""
    fresh = [at for at, task in enumerate(tasks) if task not in words.row]  # newer, or older, than the sample
    known = [at for at, task in enumerate(tasks) if task in words.row]
    texts = [each.text if each else "" for each in rows.tasks(tenant, [tasks[at] for at in fresh])]
    found = words.wording.products([text, *texts], [words.row[tasks[at]] for at in known])
    order = np.r_[0, np.argsort([*fresh, *known]) + 1]
    return np.asarray(found[np.ix_(order, order)])


def _vectors(rows: Rows, board: Board, tenant: str, tasks: list[bytes]) -> Vectors:
    """A row for each, zeros where there is none."""
    found = board.vectors(tasks)
    lacking = [task for task in tasks if task not in found]
    for task, raw in zip(lacking, rows.vectors(tenant, lacking), strict=True):
        if raw and raw.startswith(VECTOR_MARK):
            found[task] = vector_of(raw)
    length = max((len(each) for each in found.values()), default=1)
    made = np.zeros((len(tasks), length), dtype=np.float32)
    for at, task in enumerate(tasks):
        if task in found:
            made[at, : len(found[task])] = found[task]
    return made
