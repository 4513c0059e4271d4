"""Weigh what is known into one calibrated probability: logistic regression, first shared, then per procedure.

Stacked generalisation (Wolpert, 1992): the weights are learnt from what each part said of tasks that it had not seen.
One weight per part is shared by all procedures; each procedure then moves from it as far as its own runs carry, a
partially pooled model (Gelman and Hill, 2007, ch. 12) whose ridge penalties are the inverse prior variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures.estimate import logit, sigmoid
from jetmem.domain.procedures.kernels import Floats

_STEPS: Final = 15
#: Prior of the shared weights: rate and ease count once, neighbours not at all; variance 1.
_SHARED_PRIOR: Final = np.array([1.0, 1.0, 0.0])
_SHARED_PENALTY: Final = np.array([1.0, 1.0, 1.0])
#: Prior of a procedure's own: the shared answer as it is, no shift, no more ease, no more context.
_OWN_PRIOR: Final = np.array([1.0, 0.0, 0.0, 0.0])
_OWN_PENALTY: Final = np.array([20.0, 0.5, 100.0, 100.0])
#: A procedure with fewer runs keeps the shared weights.
OWN_RUNS_MIN: Final = 20.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What is known of each (task, procedure), all (tasks, procedures): rates, and `ease` on the logit scale."""

    rate: Floats
    there: Floats
    near: Floats
    ease: Floats

    @staticmethod
    def joined(every: Sequence[Parts]) -> Parts:
        """One after the other."""
        names = ("rate", "there", "near", "ease")
        return Parts(*(np.concatenate([getattr(each, name) for each in every]) for name in names))

    def of(self, rows: NDArray[np.bool_]) -> Parts:
        """Those of some tasks."""
        return Parts(self.rate[rows], self.there[rows], self.near[rows], self.ease[rows])


@dataclass(frozen=True, slots=True)
class Weights:
    """`shared` (3,), `own` (procedures, 4)."""

    shared: Floats
    own: Floats


def ridge_logistic(x: Floats, successes: Floats, runs: Floats, prior: Floats, penalty: Floats) -> Floats:
    """Maximum a posteriori weights by Newton's method (Bishop, 2006, 4.3.3).

    Args:
        x: (rows, features).
        successes: (rows,), of `runs`.
        runs: (rows,); 0 leaves a row out.
        prior: Mean of the weights, (features,).
        penalty: Inverse of their variance, above 0, (features,).
    """
    weights = prior.copy()
    for _ in range(_STEPS):
        p = sigmoid(x @ weights)
        slope = x.T @ (runs * p - successes) + penalty * (weights - prior)
        bend = (x * (runs * p * (1.0 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(bend, slope)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-6:
            break
    return weights


def fit(parts: Parts, successes: Floats, runs: Floats) -> Weights:
    """Learn the weights from tasks that the parts had not seen; arrays (tasks, procedures)."""
    columns = _columns(parts)
    flat = columns.reshape(-1, columns.shape[-1])
    shared = ridge_logistic(flat, successes.ravel(), runs.ravel(), _SHARED_PRIOR, _SHARED_PENALTY)
    own = np.tile(_OWN_PRIOR, (runs.shape[1], 1))
    x = _own_columns(parts, columns @ shared)
    for which in np.flatnonzero(runs.sum(0) >= OWN_RUNS_MIN):
        had = runs[:, which] > 0
        own[which] = ridge_logistic(x[had, which], successes[had, which], runs[had, which], _OWN_PRIOR, _OWN_PENALTY)
    return Weights(shared, own)


def shared_fit(parts: Parts, successes: Floats, runs: Floats) -> Floats:
    """Probabilities from shared weights alone, learnt and given on the same tasks: to compare few settings by."""
    columns = _columns(parts)
    flat = columns.reshape(-1, columns.shape[-1])
    weights = ridge_logistic(flat, successes.ravel(), runs.ravel(), _SHARED_PRIOR, _SHARED_PENALTY)
    return sigmoid(columns @ weights)


def apply(weights: Weights, parts: Parts) -> Floats:
    """Probability of every (task, procedure)."""
    x = _own_columns(parts, _columns(parts) @ weights.shared)
    return sigmoid(np.einsum("tpf,pf->tp", x, weights.own))


def _columns(parts: Parts) -> Floats:
    base = logit(parts.rate)
    return np.stack([base, parts.ease, logit(parts.near) - base], axis=-1)


def _own_columns(parts: Parts, shared: Floats) -> Floats:
    there = logit(parts.there) - logit(parts.rate)
    return np.stack([shared, np.ones_like(shared), parts.ease, there], axis=-1)
