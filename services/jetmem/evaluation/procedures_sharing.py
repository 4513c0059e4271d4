"""What several deployments gain from each other's counts, what steps tell, and what kinds of tasks there are."""

from __future__ import annotations

from functools import reduce
from typing import Final

import msgspec
import numpy as np

from jetmem.domain.procedures import estimate, federation, insights, patterns
from jetmem.domain.procedures.federation import Export, Merged, Shared
from jetmem.domain.procedures.insights import Insight
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.patterns import Pattern, Steps
from jetmem.domain.procedures.prediction import losses
from jetmem.domain.procedures.run import Ran
from jetmem.evaluation.procedures_data import FOLDS, Data
from jetmem.evaluation.procedures_scores import Figure, figure

#: Each task's runs are known to one of so many deployments; what they would merge is a tenth each.
DEPLOYMENTS: Final = 10
EPSILON: Final = 0.5
_SEED: Final = 23


class Sharing(msgspec.Struct, frozen=True):
    """Log-loss of rates by whose counts they rest on; success of held-out runs with a good pattern and without."""

    data: str
    rates: dict[str, Figure]
    with_pattern: float
    without_pattern: float
    covered: float
    patterns: list[patterns.Found]
    insights: list[Insight]


def measure(data: Data) -> Sharing:
    """Measure all three."""
    successes, runs = data.outcomes()
    answers: dict[str, Floats] = {}
    held: list[tuple[bool, bool]] = []
    for number in range(FOLDS):
        rows, out = np.flatnonzero(data.fold != number), np.flatnonzero(data.fold == number)
        for name, p in _federated(successes[rows], runs[rows]).items():
            answers.setdefault(name, np.zeros(runs.shape))[out] = p
        held += _patterned(data, number)
    ways = {name: figure(losses(p, successes, runs).sum(1), runs.sum(1), data.group) for name, p in answers.items()}
    among = [won for has, won in held if has]
    others = [won for has, won in held if not has]
    return Sharing(
        data.name, ways, sum(among) / max(1, len(among)), sum(others) / max(1, len(others)), len(among) / len(held),
        _mined(list(data.runs))[:5], insights.insights(data.situations, successes, runs, data.procedures)[:3],
    )  # fmt: skip


def _federated(successes: Floats, runs: Floats) -> dict[str, Floats]:
    """Rates of every procedure, one deployment's tasks alone and merged."""
    of = np.random.default_rng(_SEED).integers(0, DEPLOYMENTS, len(runs))
    every = [_export(f"d{each}", successes[of == each], runs[of == each], 0.0) for each in range(DEPLOYMENTS)]
    noised = [_export(f"d{each}", successes[of == each], runs[of == each], EPSILON) for each in range(DEPLOYMENTS)]
    liar = Export("liar", 1, {str(each): Shared(1e6, 1e6 * (each % 2)) for each in range(runs.shape[1])})
    return {
        "one deployment alone": _rates([every[0]], "mean", runs.shape[1]),
        f"{DEPLOYMENTS} merged": _rates(every, "mean", runs.shape[1]),
        f"… with noise, epsilon {EPSILON}": _rates(noised, "mean", runs.shape[1]),
        "… median": _rates(every, "median", runs.shape[1]),
        "… and one that lies": _rates([*every, liar], "mean", runs.shape[1]),
        "… median, and one that lies": _rates([*every, liar], "median", runs.shape[1]),
    }


def _export(source: str, successes: Floats, runs: Floats, epsilon: float) -> Export:
    won, had = successes.sum(0), runs.sum(0)
    counts = {str(each): Shared(float(had[each]), float(won[each])) for each in range(len(had))}
    return federation.exported(source, 1, counts, epsilon, "evaluation")


def _rates(exports: list[Export], how: federation.How, procedures: int) -> Floats:
    told = federation.combined(reduce(federation.merge, map(federation.taken, exports), Merged()), how)
    counts = [told.get(str(each), Shared(0.0, 0.0)) for each in range(procedures)]
    return estimate.rates(np.array([each.successes for each in counts]), np.array([each.runs for each in counts]))


def _words(run: Ran) -> Ran:
    """Steps by their first word: what was done, without to what."""
    return msgspec.structs.replace(
        run, steps=tuple(each.split(maxsplit=1)[0].upper() for each in run.steps if each.strip())
    )


def _mined(runs: list[Ran]) -> list[patterns.Found]:
    rows: dict[Steps, Pattern] = {}
    every = Pattern()
    for run in map(_words, runs):
        every = patterns.apply(every, run)
        for steps in patterns.within(run.steps):
            rows[steps] = patterns.apply(rows.get(steps, Pattern()), run)
    return patterns.recurring(rows, every, 0)


def _patterned(data: Data, number: int) -> list[tuple[bool, bool]]:
    """Of each held-out run of several steps: whether it holds a pattern of high rate, and whether it succeeded."""
    train = [run for run, row in zip(data.runs, data.row, strict=True) if data.fold[row] != number]
    shared = {each.steps for each in _mined(train) if each.rate > patterns.RATE_MIN}
    found = []
    for run, row in zip(data.runs, data.row, strict=True):
        held = patterns.within(_words(run).steps) if data.fold[row] == number else set()
        if held:
            found.append((not held.isdisjoint(shared), run.success))
    return found
