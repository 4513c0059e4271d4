"""Five folds over tasks: every way to answer beside every other, and each mechanism on and off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import estimate, prediction
from jetmem.domain.procedures.kernels import Contexts, Floats, Situations
from jetmem.domain.procedures.prediction import Sample
from jetmem.evaluation.procedures_data import FOLDS, Data
from jetmem.evaluation.procedures_scores import Figure, Scores, picked, score

#: Probabilities, by name of the way, of every procedure for the asked tasks. Whoever feeds a running pipeline
#: instead of the rules gives another one.
Answer: TypeAlias = Callable[[Sample, Situations], Mapping[str, Floats]]
NEIGHBOURS: Final = 15
_SEED: Final = 3


class Fold(msgspec.Struct, frozen=True):
    """What was chosen for one fold, and what the fit thought of each candidate on tasks it had held out itself."""

    how: str
    noise: float
    held: dict[str, float]


class Folds(msgspec.Struct, frozen=True):
    """One data set: ways in the order of the table."""

    data: str
    tasks: int
    runs: int
    procedures: int
    ways: dict[str, Scores]
    folds: list[Fold]


def measure(data: Data) -> Folds:
    """Answer for every task from the runs of the other folds' tasks, which went in in random order."""
    successes, runs = data.outcomes()
    answers: dict[str, Floats] = {}
    chosen: list[Fold] = []
    order = np.random.default_rng(_SEED).permutation(len(data.runs))
    for number in range(FOLDS):
        rows, out = np.flatnonzero(data.fold != number), np.flatnonzero(data.fold == number)
        sample = data.sample([int(each) for each in order], rows)
        found, fold = answered(sample, data.situations.take(out))
        chosen.append(fold)
        for name, p in found.items():
            answers.setdefault(name, np.zeros(runs.shape))[out] = p
    ways = {name: score(p, successes, runs, data.group) for name, p in answers.items()}
    ends = {
        "random": Scores(_random(successes, runs, data.group)),
        **ways,
        "oracle": Scores(picked(successes, successes, runs, data.group)),
    }
    return Folds(data.name, len(data.tasks), int(runs.sum()), len(data.procedures), ends, chosen)


def _random(successes: Floats, runs: Floats, group: NDArray[np.intp]) -> Figure:
    """What picking any procedure gives on average: the mean rate of each task."""
    mean = successes.sum(1) / np.maximum(runs.sum(1), 1)
    return picked(np.zeros((len(mean), 1)), mean[:, None], np.ones((len(mean), 1)), group)


def answered(sample: Sample, asked: Situations) -> tuple[dict[str, Floats], Fold]:
    """Every way's probabilities for the asked tasks."""
    fitted = prediction.fit(sample, boost=True)
    plain = prediction.fit(sample)
    bare = Sample(_bare(sample.situations), sample.successes, sample.runs)
    unplaced = prediction.fit(bare)
    answers = {
        "global best": fitted.predict(asked, "rate"),
        f"nearest {NEIGHBOURS}, plain": _plain(sample, asked),
        "context": _context(sample, asked),
        "neighbours": fitted.predict(asked, "simple"),
        "neighbours, no context": unplaced.predict(_bare(asked), "simple"),
        "difficulty": fitted.predict(asked, "factors"),
        "difficulty, no context": unplaced.predict(_bare(asked), "factors"),
        "difficulty, no words": prediction.fit(_wordless(sample)).predict(_wordless_tasks(asked), "factors"),
        "boosted on top": fitted.predict(asked, "boosted"),
        "jetmem (gated)": plain.predict(asked),
        "jetmem, gated with boosted": fitted.predict(asked),
    }
    return answers, Fold(plain.how, plain.noise, dict(fitted.held.loss))


def _bare(of: Situations) -> Situations:
    return Situations(of.texts, of.vectors, [{} for _ in of.texts])


def _wordless_tasks(of: Situations, space: str = "\t") -> Situations:
    """All of the same one word, and yet no two of them the very same task."""
    return Situations(["_" + space * (row + 1) for row in range(len(of.texts))], of.vectors, of.contexts)


def _wordless(sample: Sample) -> Sample:
    return Sample(_wordless_tasks(sample.situations, " "), sample.successes, sample.runs)


def _plain(sample: Sample, asked: Situations) -> Floats:
    """Mean outcome of the nearest tasks; what does harm on unrelated data."""
    cosine = asked.vectors @ sample.situations.vectors.T
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBOURS]
    rate = estimate.rates(sample.successes.sum(0), sample.runs.sum(0))
    won, had = sample.successes[nearest].sum(1), sample.runs[nearest].sum(1)
    return np.where(had > 0, won / np.maximum(had, 1), rate)


def _context(sample: Sample, asked: Situations) -> Floats:
    rate = estimate.rates(sample.successes.sum(0), sample.runs.sum(0))
    cosine = (asked.vectors @ sample.situations.vectors.T).astype(np.float64)
    same = Contexts(sample.situations.contexts).to(asked.contexts)
    there, _ = estimate.simple(estimate.table(sample.successes, sample.runs), rate, cosine, same)
    return there


def hows(folds: Folds) -> str:
    """What was chosen, and how often."""
    return ", ".join(f"{how} {count}" for how, count in Counter(each.how for each in folds.folds).most_common())
