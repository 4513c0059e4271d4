"""Success is catching: a run moves what is expected of its procedure's neighbours, a little and for a while.

    boost(q) += (outcome - expected(p)) × path strength(p → q) × 0.1

over the best path of at most three hops, halving every seven days, and never read as more than ±0.2. `expected` is what
was known before the time step of the run (`STEP_MS`), so the order of runs within a step does not matter; sums are kept
unclipped and clipped when read, for the same reason. A boost is a prior only, worth `m` runs: direct evidence
outweighs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from jetmem.domain.procedures import decay
from jetmem.domain.procedures.decay import DAY_MS, Decayed
from jetmem.domain.procedures.kernels import Floats

RATE: Final = 0.1
HALF_LIFE_MS: Final = 7 * DAY_MS
BOOST_MAX: Final = 0.2
STEP_MS: Final = 1_000
#: Pseudo-runs m of a prior that is moved: the fewest of 0.5 to 16, which `make eval-procedures` compares on cold
#: procedures, where each more does more harm.
PRIOR_RUNS: Final = 0.5


class Expected(msgspec.Struct, frozen=True):
    """What a procedure was known for before `step`, and since its beginning."""

    seq: int = 0
    step: int = 0
    runs: int = 0
    successes: int = 0
    open_runs: int = 0
    open_successes: int = 0


class Boost(msgspec.Struct, frozen=True):
    """What neighbours' runs added up to; `seq` is the last that did."""

    seq: int = 0
    sum: Decayed = Decayed()


def see(known: Expected, seq: int, at_ms: int, success: bool) -> Expected:
    """Count a run of the procedure itself; a late one counts into the step that is open."""
    if seq <= known.seq:
        return known
    step = max(known.step, at_ms // STEP_MS)
    if step == known.step:
        return Expected(seq, step, known.runs, known.successes, known.open_runs + 1, known.open_successes + success)
    runs, successes = known.runs + known.open_runs, known.successes + known.open_successes
    return Expected(seq, step, runs, successes, 1, int(success))


def expected(known: Expected, at_ms: int, prior: float) -> float:
    """Rate before the step of `at_ms`, shrunk to `prior` by two runs."""
    later = at_ms // STEP_MS > known.step
    runs = known.runs + (known.open_runs if later else 0)
    successes = known.successes + (known.open_successes if later else 0)
    return (successes + 2 * prior) / (runs + 2)


def spread(success: bool, expectation: float, reached: Mapping[str, float]) -> dict[str, float]:
    """What a run adds to each neighbour, by the strength of the best path to it (`relations.reach`)."""
    surprise = (1.0 if success else 0.0) - expectation
    return {name: surprise * strength * RATE for name, strength in reached.items()}


def apply(boost: Boost, amount: float, seq: int, at_ms: int) -> Boost:
    """Add what a run brings; a run at or below `boost.seq` was added before and changes nothing."""
    return boost if seq <= boost.seq else Boost(seq, decay.add(boost.sum, amount, at_ms, HALF_LIFE_MS))


def value(boost: Boost, now_ms: int) -> float:
    """The boost now, within ±`BOOST_MAX`."""
    return min(BOOST_MAX, max(-BOOST_MAX, decay.value(boost.sum, now_ms, HALF_LIFE_MS)))


def moved(rate: Floats, runs: Floats, boost: Floats, prior_runs: float = PRIOR_RUNS) -> Floats:
    """Rates whose priors are moved by boosts, as by those of `prior_runs` runs: by boost m / (runs + m); broadcasts."""
    return np.clip(rate + boost * (prior_runs / (runs + prior_runs)), 0.0, 1.0)
