"""Success is catching: a run moves what is expected of its procedure's neighbours, a little and for a while.

    boost(q) += (outcome - expected(p)) × path strength(p → q) × 0.1

over the best path of at most three hops, halving every seven days, and never read as more than ±0.2. `expected` is what
was known before the time step of the run (`STEP_MS`), so the order of runs within a step does not matter; sums are kept
unclipped and clipped when read, for the same reason. A boost is a prior only, worth `m` runs: direct evidence
outweighs it.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import decay
from jetmem.domain.procedures.decay import DAY_MS, Decayed
from jetmem.domain.procedures.kernels import Floats

Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
#: What neighbours' runs added up to, unclipped.
Boost: TypeAlias = Decayed
RATE: Final = 0.1
HALF_LIFE_MS: Final = 7 * DAY_MS
BOOST_MAX: Final = 0.2
STEP_MS: Final = 1_000
#: Pseudo-runs m of a prior that is moved: the fewest of 0.5 to 16, which `make eval-procedures` compares on cold
#: procedures, where each more does more harm.
PRIOR_RUNS: Final = 0.5


def surprises(which: Ints, success: Mask, at_ms: Ints, prior: float) -> Floats:
    """Outcome less what was expected, of each run.

    Expected is the rate before the step of the run, shrunk to `prior` by two runs. A run that comes late counts into
    the step that is open.

    Args:
        which: (runs,) The procedure, by number, in the order of the log.
        success: (runs,) Whether it succeeded.
        at_ms: (runs,) Epoch milliseconds.
        prior: What is expected of a procedure before its first run, 0..1.

    Returns:
        (runs,) -1..1.
    """
    if not len(which):
        return np.zeros(0)
    order = np.argsort(which, kind="stable")
    of, won = which[order], success[order].astype(np.float64)
    steps = np.unique(at_ms[order] // STEP_MS, return_inverse=True)[1]
    opened = np.maximum.accumulate(of * (int(steps.max()) + 1) + steps)
    _, first, number = np.unique(opened, return_index=True, return_inverse=True)
    known, began = first[number], np.searchsorted(of, of)  # runs from `began` up to `known` are of earlier steps
    wins = np.concatenate([[0.0], np.cumsum(won)])
    found = np.zeros(len(which))
    found[order] = won - (wins[known] - wins[began] + 2 * prior) / (known - began + 2)
    return found


def boosts(which: Ints, success: Mask, at_ms: Ints, prior: float, reach: Any) -> list[Boost]:
    """What runs add to the neighbours of their procedures, each run once.

    Args:
        which: (runs,) As of `surprises`, and so are the three that follow.
        success: (runs,)
        at_ms: (runs,)
        prior: 0..1.
        reach: (n, n) Path strengths, of `relations.reach`; a run moves what stands in its procedure's row.

    Returns:
        n of them, as of the latest run.
    """
    latest = int(at_ms.max(initial=0))
    parts = surprises(which, success, at_ms, prior) * 0.5 ** ((latest - at_ms) / HALF_LIFE_MS)
    sums = RATE * (np.bincount(which, parts, minlength=reach.shape[0]) @ reach)
    return [Decayed(each, latest) for each in sums.tolist()]


def value(boost: Boost, now_ms: int) -> float:
    """The boost now, within ±`BOOST_MAX`."""
    return min(BOOST_MAX, max(-BOOST_MAX, decay.value(boost, now_ms, HALF_LIFE_MS)))


def moved(rate: Floats, runs: Floats, boost: Floats, prior_runs: float = PRIOR_RUNS) -> Floats:
    """Rates whose priors are moved by boosts, as by those of `prior_runs` runs: by boost m / (runs + m); broadcasts."""
    return np.clip(rate + boost * (prior_runs / (runs + prior_runs)), 0.0, 1.0)
