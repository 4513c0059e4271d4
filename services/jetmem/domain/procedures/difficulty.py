"""How hard a task is, read from all procedures that tried tasks like it.

A run of one procedure tells about the others too: a task at which everybody failed is hard for the next one. So each
outcome less its procedure's rate is taken as `ease of the task × how much the procedure cares` plus noise, a factor
model of rank 1 as in item response theory (Birnbaum, 1968; Bock and Aitkin, 1981) on the scale of probabilities.
Ease is smoothed over situations by kernel ridge regression, the mean of a Gaussian process (Rasmussen and Williams,
2006, 2.2), whose noise falls with the runs that a task has had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures.kernels import Floats

#: Rounds of alternating least squares; the first factor settles in a handful.
ROUNDS: Final = 12
#: Runs of average care by which a task's own ease is drawn to 0 while cares are found.
EASE_RUNS: Final = 1.0
#: Runs by which a procedure's care is drawn to 1, what a procedure cares on average.
CARE_RUNS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ease:
    """What runs tell of each situation before it is smoothed, and how much each procedure cares.

    `care` (procedures,) has a mean square of 1 over runs; `raw` (situations,) is in probability; `worth` is how many
    runs of average care stand behind each.
    """

    care: Floats
    raw: Floats
    worth: Floats


def ease(successes: Floats, runs: Floats, rate: Floats) -> Ease:
    """Split outcomes, (situations, procedures), into ease and care; tasks without runs get 0, worth 0."""
    left = successes - runs * rate
    care = np.ones(len(rate))
    for _ in range(ROUNDS):
        z = (left @ care) / (runs @ np.square(care) + EASE_RUNS)
        size = float(np.mean(np.square(z))) or 1.0
        weight = np.square(z) @ runs
        care = (z @ left + CARE_RUNS * size) / (weight + CARE_RUNS * size)
        care /= max(1e-9, float(np.sqrt(np.average(np.square(care), weights=runs.sum(0) + 1e-9))))
    worth = runs @ np.square(care)
    return Ease(care, np.asarray((left @ care) / np.maximum(worth, 1e-9)), np.asarray(worth))


class Smoother:
    """Ease at any situation, from those known; one decomposition serves every amount of smoothing."""

    def __init__(self, gram: Floats, found: Ease) -> None:
        """Decompose; cost is cubic in the number of situations.

        Args:
            gram: Likeness of known situations to each other, (known, known).
            found: Their ease; those of worth 0 have no say.
        """
        self._root = np.sqrt(found.worth)
        values, self._basis = np.linalg.eigh(gram * self._root[:, None] * self._root[None, :])
        self._values: Floats = np.maximum(values, 0.0)
        self._seen: Floats = np.asarray(self._basis.T @ (self._root * found.raw))

    def weights(self, noise: float) -> Floats:
        """Weight of each known situation in the answer, (known,).

        Args:
            noise: Variance of one run's outcome over that of ease; above 0, large smooths much.
        """
        return np.asarray(self._root * (self._basis @ (self._seen / (self._values + noise))))

    def own(self, noise: float, group: NDArray[np.intp]) -> Floats:
        """How much each known situation's ease, smoothed, owes to its own group, (known,).

        What it would be without them follows from the hat matrix (Cook and Weisberg, 1982, 2.2; for groups 3.6).

        Args:
            noise: As in `weights`.
            group: Number of each situation's group, (known,).
        """
        share = self._values / (self._values + noise)
        left: Floats = np.asarray(self._basis @ (self._seen * (1.0 - share)))
        without = left / np.maximum(1.0 - np.square(self._basis) @ share, 1e-9)
        sizes = np.bincount(group)
        for each in np.flatnonzero(sizes > 1):
            rows = np.flatnonzero(group == each)
            some = self._basis[rows]
            without[rows] = np.linalg.solve(np.eye(len(rows)) - (some * share) @ some.T, left[rows])
        return np.where(self._root > 0, (without - left) / np.maximum(self._root, 1e-9), 0.0)


def clusters(cosine: Floats, nearest: float) -> NDArray[np.intp]:
    """Number near-equal tasks alike: each joins the first leader at least `nearest` to it (Hartigan, 1975).

    Paraphrases have nearly the same outcomes; a choice by held-out tasks must hold out both, or it learns by heart.
    """
    numbers = np.empty(len(cosine), np.intp)
    leaders: list[int] = []
    for row in range(len(cosine)):
        if leaders:
            to = cosine[row, leaders]
            best = int(np.argmax(to))
            if to[best] >= nearest:
                numbers[row] = best
                continue
        numbers[row] = len(leaders)
        leaders.append(row)
    return numbers
