"""What it tells of a run that the same procedure was run at the very same task, or by the same agent, before.

Outcomes at one task may always be the same, or a coin that is tossed again. Which one it is, runs tell that came again:
how much less often two runs of a procedure at one task disagree than two at different tasks is the intraclass
correlation of outcomes (Fisher, 1925; for proportions Fleiss and Cuzick, 1979), and (1 - rho) / rho runs are what all
else that is known is worth against those at the task: the prior of a beta-binomial (Griffiths, 1973). Agents likewise.
Pairs are compared within one agent and between agents apart, and agents within and between tasks, so that an agent who
keeps to its tasks is not taken for them, nor they for it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from jetmem.domain.procedures.estimate import logit, shrunk, sigmoid
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.run import Ran

#: Runs that all else is worth, while nothing came again: half of what made a task's outcome stays. Agents differ less.
TASK_RUNS: Final = 1.0
AGENT_RUNS: Final = 10.0
LEAST: Final = 0.25
MOST: Final = 200.0
#: Runs that came again, at a rate of one half, that count as much as what is believed before any came.
BELIEVED: Final = 5.0


class Worths(msgspec.Struct, frozen=True):
    """Runs that all else that is known weighs against runs at the very same task, or by the same agent."""

    task: float = TASK_RUNS
    agent: float = AGENT_RUNS

    @property
    def near(self) -> float:
        """Share of `estimate.near` that a run at a like task counts, 0..1; small where even the same tells little."""
        return min(1.0, TASK_RUNS / self.task)


def worths(runs: Sequence[Ran]) -> Worths:
    """What runs tell; of those without a procedure nothing."""
    known = [run for run in runs if run.procedure]
    if not known:
        return Worths()
    won = np.array([run.success for run in known], dtype=np.float64)
    procedure = _numbers([run.procedure for run in known])
    agent = _numbers([(run.procedure, run.agent) for run in known])
    task = _numbers([(run.procedure, run.task) for run in known])
    both = _numbers([(run.procedure, run.agent, run.task) for run in known])
    of_both, of_agent, of_task, of_all = (_Pairs.of(each, procedure, won) for each in (both, agent, task, procedure))
    alone = of_agent - of_both  # one agent, different tasks
    among = of_task - of_both  # one task, different agents
    apart = of_all - of_agent - of_task + of_both
    again_task = _again(task, procedure)
    again_agent = _again(agent, procedure)
    return Worths(
        _worth([(of_both, alone), (among, apart)], again_task, TASK_RUNS),
        _worth([(of_both, among), (alone, apart)], again_agent, AGENT_RUNS),
    )


def with_task(probability: Floats, successes: Floats, runs: Floats, worth: float) -> Floats:
    """Probabilities, with what came of runs at the very same task; `worth` as `Worths.task`."""
    return shrunk(successes, runs, probability, worth)


def with_agent(probability: Floats, rate: Floats, successes: Floats, runs: Floats, worth: float) -> Floats:
    """Probabilities for one agent: moved by the log odds by which its runs of each procedure differ from all of them.

    `rate` is of all runs as they are, the agent's among them, not shrunk: who made them all differs from nobody, and no
    run counts twice. `worth` as `Worths.agent`.
    """
    moved = logit(shrunk(successes, runs, rate, worth)) - logit(rate)
    return np.where(runs > 0, sigmoid(logit(probability) + moved), probability)


class _Pairs:
    """Pairs of runs of each procedure, (procedures,), and those of them that disagree."""

    def __init__(self, pairs: Floats, apart: Floats) -> None:
        self.pairs, self.apart = pairs, apart

    @classmethod
    def of(cls, cell: NDArray[np.intp], procedure: NDArray[np.intp], won: Floats) -> _Pairs:
        """Of every two runs in one cell."""
        runs, successes = np.bincount(cell).astype(np.float64), np.bincount(cell, won)
        whose = np.zeros(len(runs), np.intp)
        whose[cell] = procedure
        size = int(procedure.max()) + 1
        pairs, apart = runs * (runs - 1.0) / 2.0, successes * (runs - successes)
        return cls(*(np.bincount(whose, each, size).astype(np.float64) for each in (pairs, apart)))

    def __sub__(self, other: _Pairs) -> _Pairs:
        return _Pairs(self.pairs - other.pairs, self.apart - other.apart)

    def __add__(self, other: _Pairs) -> _Pairs:
        return _Pairs(self.pairs + other.pairs, self.apart + other.apart)


def _worth(strata: Sequence[tuple[_Pairs, _Pairs]], again: Floats, believed: float) -> float:
    """Of pairs (alike, different): each procedure weighs as many runs as came again in it, shared out by its pairs."""
    of_all = np.sum([alike.pairs for alike, _ in strata], axis=0)
    least = BELIEVED / 2.0  # at a rate of one half, every second pair disagrees
    within, between, noise = least * believed / (1.0 + believed), least, 0.0
    for alike, different in strata:
        told = (alike.pairs > 0) & (different.pairs > 0)
        weight = again[told] * alike.pairs[told] / of_all[told]
        apart = weight * different.apart[told] / different.pairs[told]
        within += float(weight @ (alike.apart[told] / alike.pairs[told]))
        between += float(apart.sum())
        noise += float((np.square(apart) / alike.pairs[told]).sum())
    rho = max(_likely(1.0 - within / between, math.sqrt(noise) / between), 1.0 / (1.0 + MOST))
    return max(LEAST, (1.0 - rho) / rho)


def _likely(found: float, error: float) -> float:
    """What a correlation is likely to be that was found to be this, with this standard error, and is not below 0.

    Mean of the normal cut off at 0 (Johnson, Kotz and Balakrishnan, 1994, 13.10): few pairs that happen to disagree
    often do not prove that nothing stays the same.
    """
    if error <= 0.0:
        return found
    z = found / error
    return found + error * math.exp(-z * z / 2.0 - math.log(2.0 * math.pi) / 2.0 - float(log_ndtr(z)))


def _again(cell: NDArray[np.intp], procedure: NDArray[np.intp]) -> Floats:
    """Runs of each procedure beyond the first in their cell."""
    size = int(procedure.max()) + 1
    whose = np.zeros(int(cell.max()) + 1, np.intp)
    whose[cell] = procedure
    return (np.bincount(procedure, minlength=size) - np.bincount(whose, minlength=size)).astype(np.float64)


def _numbers(of: Sequence[Hashable]) -> NDArray[np.intp]:
    """Equal ones alike, from 0."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(each, len(known)) for each in of], dtype=np.intp)
