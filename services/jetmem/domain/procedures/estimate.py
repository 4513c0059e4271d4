"""How likely a procedure is to succeed at a task: its neighbours' outcomes, shrunk step by step to what is general.

The chain is empirical Bayes for rates (Efron and Morris, 1975; Gelman and others, *Bayesian Data Analysis*, 5.3): each
rate is the mean of a Beta whose prior is worth a few runs of the next more general rate,

    procedures in general → the procedure → the procedure in this context → the procedure near this task,

and "near" counts each run by a kernel of cosine distance (Nadaraya, 1964; Watson, 1964). With no evidence at a step
the answer is the step before; nothing here is fitted, so it serves from the first run on.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from scipy.sparse import csr_array

from jetmem.domain.procedures.kernels import Floats

#: Pseudo-runs by which a procedure's rate is drawn to that of procedures in general, while too few are known to tell.
RATE_RUNS: Final = 4.0
RATE_RUNS_MIN: Final = 2.0
RATE_RUNS_MAX: Final = 30.0
#: Procedures of at least two runs from which the spread of rates is told.
KNOWN_MIN: Final = 5
#: Pseudo-runs by which a rate in one context is drawn to the procedure's. On random splits of intercode-sql-dev
#: 5: 0.463, 10: 0.460, 20: 0.461, 40: 0.464 in log-loss.
CONTEXT_RUNS: Final = 10.0
#: A run at a task of cosine 1 counts as so many runs, and e times less for each `REACH` of cosine distance.
NEAR_RUNS: Final = 20.0
NEAR_REACH: Final = 0.1
#: Pseudo-runs by which the neighbours' rate is drawn to that of the context.
NEAR_PRIOR: Final = 6.0
#: Share of a table's cells below which only those that hold something are read.
SPARSE: Final = 0.1
#: Where an answer is not to be trusted more than this, whatever it was made of.
LEAST: Final = 0.02


def shrunk(successes: Floats, runs: Floats, mean: Floats, worth: float) -> Floats:
    """Mean of a Beta posterior whose prior is worth `worth` runs of rate `mean`; broadcasts."""
    return np.asarray((successes + worth * mean) / (runs + worth))


def spread(weight: Floats, worth: float) -> Floats:
    """Total weight of the Beta of one rate around another, in runs, before any run of its own; broadcasts.

    Variances add up: a Beta of mean m and total weight w has m (1 - m) / (w + 1), and a rate drawn around its rate with
    a prior worth v runs (`shrunk`) as much as a Beta of weight w v / (w + v + 1). So it is known no better than by
    `worth` runs, however well the other is.
    """
    return np.asarray(weight * worth / (weight + worth + 1.0))


def known(weight: Floats, worth: float, runs: Floats) -> Floats:
    """Total weight of the Beta of one rate around another, as `spread`, once runs of its own are known.

    Args:
        weight: Of the other, told by those runs, too: none counts twice.
        worth: As of `spread`.
        runs: Its own.
    """
    return spread(np.maximum(weight - runs, RATE_RUNS_MIN), worth) + runs


class Prior(msgspec.Struct, frozen=True):
    """What is thought of a procedure nobody ran: `mean` rate, worth `runs` runs."""

    mean: float = 0.5
    runs: float = RATE_RUNS


def prior(successes: Floats, runs: Floats) -> Prior:
    """What procedures are like in general; arrays (procedures,).

    Method of moments for the beta-binomial (Kleinman, 1973): the prior is worth m (1 - m) / v - 1 runs, with m the mean
    of the procedures' rates and v their variance less what chance adds. Many where procedures are alike (18 on
    intercode-bash-dev), few where they differ (2.2 on intercode-sql-dev). Each procedure weighs n / (n + `RATE_RUNS`),
    not n: the good ones are run most, and an unknown one is not as good as those.
    """
    weight = runs / (runs + RATE_RUNS)
    if not weight.any():
        return Prior()
    rate = successes / np.maximum(runs, 1e-9)
    mean = float((weight @ rate + 0.5) / (weight.sum() + 1.0))
    known = runs >= 2
    if int(known.sum()) < KNOWN_MIN:
        return Prior(mean)
    w, r, n = weight[known] / weight[known].sum(), rate[known], runs[known]
    chance = float(w @ (r * (1.0 - r) / (n - 1.0)))
    spread = float(w @ np.square(r - w @ r)) * len(r) / (len(r) - 1) - chance
    worth = mean * (1.0 - mean) / spread - 1.0 if spread > 0 else RATE_RUNS_MAX
    return Prior(mean, min(RATE_RUNS_MAX, max(RATE_RUNS_MIN, worth)))


def rates(successes: Floats, runs: Floats) -> Floats:
    """Each procedure's rate, shrunk to `prior`; arrays (procedures,)."""
    general = prior(successes, runs)
    return shrunk(successes, runs, np.full(runs.shape, general.mean), general.runs)


def near(cosine: Floats) -> Floats:
    """What a run at this cosine counts, in runs: `NEAR_RUNS` at 1, falling by e each `NEAR_REACH`."""
    return np.asarray(NEAR_RUNS * np.exp((np.clip(cosine, -1.0, 1.0) - 1.0) / NEAR_REACH))


def table(successes: Floats, runs: Floats) -> Any:
    """Both side by side, (known, 2 × procedures): read in one pass, which is what a large one costs.

    Sparse where few tried anything there: of 2,000 tasks and 512 procedures then a tenth of the time or less.
    """
    made = np.hstack([successes, runs]).astype(np.float32)
    return csr_array(made) if np.count_nonzero(made) < SPARSE * made.size else made


def simple(known: Any, rate: Floats, cosine: Floats, same: Floats) -> tuple[Floats, Floats]:
    """Estimate every procedure for each asked task.

    Args:
        known: Successes and runs of each known situation and procedure, as `table` lays them out.
        rate: Of each procedure, as from `rates`, (procedures,).
        cosine: Of asked to known, (asked, known).
        same: Share of context that asked and known have in common, 0..1.

    Returns:
        The rate in this context, and with the neighbours; each (asked, procedures) within 0..1.
    """
    asked, procedures = len(cosine), len(rate)
    sums = (np.vstack([same, near(cosine)]).astype(np.float32) @ known).astype(np.float64)
    there = shrunk(sums[:asked, :procedures], sums[:asked, procedures:], rate, CONTEXT_RUNS)
    return there, shrunk(sums[asked:, :procedures], sums[asked:, procedures:], there, NEAR_PRIOR)


def logit(rate: Floats) -> Floats:
    """Log odds, of rates kept within 0.001..0.999."""
    kept = np.clip(rate, 0.001, 0.999)
    return np.asarray(np.log(kept / (1.0 - kept)))


def sigmoid(x: Floats) -> Floats:
    """Probabilities of log odds, the inverse of `logit`; log odds beyond ±30 as those."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0))))


def clipped(probability: Floats) -> Floats:
    """No answer surer than `LEAST` from 0 or 1."""
    return np.clip(probability, LEAST, 1.0 - LEAST)
