"""How good probabilities and picks are, with intervals; pure.

Intervals are of 1,000 bootstrap resamples (Efron, 1979) of groups of paraphrases, at 95 %.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from jetmem.domain.procedures.estimate import clipped
from jetmem.domain.procedures.kernels import Floats

RESAMPLES: Final = 1_000
BINS: Final = 10
_SEED: Final = 5


class Figure(msgspec.Struct, frozen=True):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Scores(msgspec.Struct, frozen=True):
    """Of one way to answer; `pick` is the success rate of what it recommends first. None: it gives no probability."""

    pick: Figure
    log_loss: Figure | None = None
    brier: float | None = None
    auc: float | None = None
    calibration: float | None = None


def score(probability: Floats, successes: Floats, runs: Floats, group: NDArray[np.intp]) -> Scores:
    """Score probabilities, all arrays (tasks, procedures); a procedure that was not run is never picked."""
    p = clipped(probability)
    lost = -(successes * np.log(p) + (runs - successes) * np.log(1.0 - p))
    had = runs > 0
    outcome, said = (successes[had] / runs[had] > 0.5), p[had]
    brier = float(np.average(np.square(said - successes[had] / runs[had]), weights=runs[had]))
    return Scores(
        picked(probability, successes, runs, group),
        figure(lost.sum(1), runs.sum(1), group),
        brier,
        float(roc_auc_score(outcome, said)) if outcome.any() and not outcome.all() else None,
        calibration(said, successes[had] / runs[had]),
    )


def picked(score_: Floats, successes: Floats, runs: Floats, group: NDArray[np.intp]) -> Figure:
    """Success rate of each task's best-scored procedure among those that were run; ties by position."""
    best = np.where(runs > 0, score_, -np.inf).argmax(1)
    rows = np.arange(len(best))
    return figure(successes[rows, best] / np.maximum(runs[rows, best], 1), (runs[rows, best] > 0) * 1.0, group)


def calibration(said: Floats, came: Floats) -> float:
    """Expected calibration error (Naeini and others, 2015) over `BINS` equal widths."""
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    size = np.bincount(bins, minlength=BINS)
    gap = np.abs(np.bincount(bins, said, BINS) - np.bincount(bins, came, BINS))
    return float(gap.sum() / size.sum())


def figure(amount: Floats, weight: Floats, group: NDArray[np.intp]) -> Figure:
    """A ratio of sums over tasks, (tasks,), resampled by groups of tasks."""
    amounts, weights = np.bincount(group, amount), np.bincount(group, weight)
    drawn = np.random.default_rng(_SEED).integers(0, len(amounts), (RESAMPLES, len(amounts)))
    ratios = amounts[drawn].sum(1) / np.maximum(weights[drawn].sum(1), 1e-9)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Figure(float(amounts.sum() / max(1e-9, weights.sum())), float(low), float(high))


def difference(first: Floats, second: Floats, weight: Floats, group: NDArray[np.intp]) -> Figure:
    """How much more the first loses than the second, a unit of weight; below 0 the first is better."""
    return figure(first - second, weight, group)
