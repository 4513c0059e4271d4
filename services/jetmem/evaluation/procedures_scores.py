"""How good probabilities and picks are, with intervals; pure.

Intervals are of 1,000 bootstrap resamples (Efron, 1979) of groups of paraphrases, at 95 %.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures.estimate import clipped
from jetmem.domain.procedures.kernels import Floats

RESAMPLES: Final = 1_000
BINS: Final = 10
_SEED: Final = 5
#: Resamples of an area are made in so many parts: each holds all answers.
_CHUNKS: Final = 20


class Figure(msgspec.Struct, frozen=True):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Scores(msgspec.Struct, frozen=True):
    """Of one way to answer; `pick` is the success rate of what it recommends first. None: it gives no probability."""

    pick: Figure
    log_loss: Figure | None = None
    brier: Figure | None = None
    auc: Figure | None = None
    calibration: Figure | None = None


def score(probability: Floats, successes: Floats, runs: Floats, group: NDArray[np.intp]) -> Scores:
    """Score probabilities, all arrays (tasks, procedures); a procedure that was not run is never picked."""
    p = clipped(probability)
    lost = -(successes * np.log(p) + (runs - successes) * np.log(1.0 - p))
    rate = successes / np.maximum(runs, 1e-9)
    had = runs > 0
    of = np.broadcast_to(group[:, None], runs.shape)[had]
    return Scores(
        picked(probability, successes, runs, group),
        figure(lost.sum(1), runs.sum(1), group),
        figure((runs * np.square(p - rate)).sum(1), runs.sum(1), group),
        auc(p[had], rate[had] > 0.5, of),
        calibration(p[had], rate[had], of),
    )


def picked(score_: Floats, successes: Floats, runs: Floats, group: NDArray[np.intp]) -> Figure:
    """Success rate of each task's best-scored procedure among those that were run; ties by position."""
    best = np.where(runs > 0, score_, -np.inf).argmax(1)
    rows = np.arange(len(best))
    return figure(successes[rows, best] / np.maximum(runs[rows, best], 1), (runs[rows, best] > 0) * 1.0, group)


def auc(said: Floats, came: NDArray[np.bool_], group: NDArray[np.intp]) -> Figure | None:
    """Area under the ROC curve (Mann and Whitney, 1947), ties by half; None if all outcomes are alike.

    Arrays (answers,). Answers are sorted once: a resample only counts each as often as its group was drawn.
    """
    if came.all() or not came.any():
        return None
    order = np.argsort(said, kind="stable")
    won, of = came[order], group[order]
    levels = np.flatnonzero(np.diff(said[order], prepend=-1.0))  # where the answers of each probability begin
    areas = [_area(times, won, of, levels) for times in np.array_split(_drawn(int(group.max()) + 1), _CHUNKS)]
    value = _area(np.ones((1, int(group.max()) + 1)), won, of, levels)
    return _interval(float(value[0]), np.concatenate(areas))


def _area(times: Floats, won: NDArray[np.bool_], of: NDArray[np.intp], levels: NDArray[np.intp]) -> Floats:
    """Of each resample; not a number where all its outcomes are alike."""
    counted = times[:, of]
    wins = np.add.reduceat(counted * won, levels, axis=1)
    losses = np.add.reduceat(counted * ~won, levels, axis=1)
    above = (wins * (np.cumsum(losses, axis=1) - 0.5 * losses)).sum(1)
    pairs = wins.sum(1) * losses.sum(1)
    areas: Floats = np.divide(above, pairs, out=np.full(len(times), np.nan), where=pairs > 0)
    return areas


def calibration(said: Floats, came: Floats, group: NDArray[np.intp]) -> Figure:
    """Expected calibration error (Naeini and others, 2015) over `BINS` equal widths; arrays (answers,).

    A resample's gaps are those of the data and those of chance: the interval leans upwards, and where answers are well
    calibrated it may lie above the value.
    """
    cell = group * BINS + np.minimum((said * BINS).astype(int), BINS - 1)
    groups = int(group.max()) + 1
    gaps = np.bincount(cell, said - came, groups * BINS).reshape(groups, BINS)
    sizes = np.bincount(group, minlength=groups)
    times = _drawn(groups)
    value = float(np.abs(gaps.sum(0)).sum() / sizes.sum())
    return _interval(value, np.abs(times @ gaps).sum(1) / np.maximum(times @ sizes, 1e-9))


def figure(amount: Floats, weight: Floats, group: NDArray[np.intp]) -> Figure:
    """A ratio of sums over tasks, (tasks,), resampled by groups of tasks."""
    amounts, weights = np.bincount(group, amount), np.bincount(group, weight)
    times = _drawn(len(amounts))
    ratios = (times @ amounts) / np.maximum(times @ weights, 1e-9)
    return _interval(float(amounts.sum() / max(1e-9, weights.sum())), ratios)


@cache
def _drawn(groups: int) -> Floats:
    """How often each group is in each resample, (`RESAMPLES`, groups)."""
    drawn = np.random.default_rng(_SEED).integers(0, groups, (RESAMPLES, groups))
    cells = drawn + np.arange(RESAMPLES)[:, None] * groups
    return np.bincount(cells.ravel(), minlength=RESAMPLES * groups).reshape(RESAMPLES, groups).astype(np.float64)


def _interval(value: float, resampled: Floats) -> Figure:
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return Figure(value, float(low), float(high))


def difference(first: Floats, second: Floats, weight: Floats, group: NDArray[np.intp]) -> Figure:
    """How much more the first loses than the second, a unit of weight; below 0 the first is better."""
    return figure(first - second, weight, group)
