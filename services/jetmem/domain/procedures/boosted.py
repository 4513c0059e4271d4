"""A gradient-boosted model over the parts of a probability, calibrated; a candidate that must earn its place.

Histogram gradient boosting (Friedman, 2001; Ke and others, 2017) with few leaves and strong shrinkage learns what the
logistic stack cannot say; its log odds are then scaled to the outcomes of held-out situations (Platt, 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from jetmem.domain.procedures.estimate import logit, sigmoid
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.stacking import Parts, ridge_logistic

_TREES: Final = 60
_LEAVES: Final = 6
_LEAF_RUNS: Final = 40
_SEED: Final = 7
#: Every so many-th situation is kept from the trees, for calibration.
_KEPT: Final = 4


@dataclass(frozen=True, slots=True)
class Boosted:
    """Trees, then scale and shift of their log odds, (2,)."""

    trees: HistGradientBoostingClassifier
    scale: Floats

    @classmethod
    def fit(cls, parts: Parts, stacked: Floats, successes: Floats, runs: Floats) -> Boosted | None:
        """Learn from unseen parts, (tasks, procedures); None where only one outcome was ever seen."""
        kept = np.zeros(runs.shape, dtype=bool)
        kept[::_KEPT] = True
        x, s, n = _columns(parts, stacked), successes.ravel(), runs.ravel()
        learn, check = (n > 0) & ~kept.ravel(), (n > 0) & kept.ravel()
        labels = np.r_[np.ones(int(learn.sum())), np.zeros(int(learn.sum()))]
        weight = np.r_[s[learn], (n - s)[learn]]
        if not (s[learn].any() and (n - s)[learn].any() and check.any()):
            return None
        trees = HistGradientBoostingClassifier(
            max_iter=_TREES, learning_rate=0.06, max_leaf_nodes=_LEAVES, min_samples_leaf=_LEAF_RUNS,
            l2_regularization=5.0, early_stopping=False, random_state=_SEED,
        )  # fmt: skip
        trees.fit(np.vstack([x[learn], x[learn]])[weight > 0], labels[weight > 0], sample_weight=weight[weight > 0])
        said = logit(trees.predict_proba(x[check])[:, 1])
        z = np.column_stack([said, np.ones(len(said))])
        return cls(trees, ridge_logistic(z, s[check], n[check], np.array([1.0, 0.0]), np.array([5.0, 5.0])))

    def apply(self, parts: Parts, stacked: Floats) -> Floats:
        """Probability of every (task, procedure)."""
        said = logit(self.trees.predict_proba(_columns(parts, stacked))[:, 1])
        return sigmoid(self.scale[0] * said + self.scale[1]).reshape(stacked.shape)


def _columns(parts: Parts, stacked: Floats) -> Floats:
    every = [logit(each) for each in (parts.rate, parts.there, parts.near, stacked)] + [parts.ease]
    return np.stack(every, axis=-1).reshape(-1, len(every))
