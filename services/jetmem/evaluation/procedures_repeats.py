"""What the data cannot show either: runs at the very same task again, and agents that differ, simulated.

Each procedure has a rate, each of its tasks (or agents) a rate of its own around it, as far apart as the intraclass
correlation says. What is asked about is a task (or an agent) that was seen; all answers have the same runs.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import choosing, estimate, repeats
from jetmem.domain.procedures.estimate import NEAR_PRIOR, NEAR_RUNS
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.run import Ran

PROCEDURES: Final = 20
TASKS: Final = 60
AGENTS: Final = 20
RUNS: Final = 3_000
WORLDS: Final = 5
#: From outcomes that are a coin tossed again to outcomes that never change.
CORRELATIONS: Final = (0.0, 0.1, 0.3, 0.6, 0.95)
_SEED: Final = 29
LEARNT: Final = "the worth learnt"


class Repeated(msgspec.Struct, frozen=True):
    """Expected log-loss of a run by each way of answering, the least that can be had, and the worth that was learnt.

    `held`: share of the true rates that their 95 % intervals hold, where runs count as much as was learnt; `width`:
    mean of those.
    """

    of: Literal["task", "agent"]
    correlation: float
    losses: dict[str, float]
    worth: float
    held: float
    width: float


def measure() -> list[Repeated]:
    """Tasks, then agents."""
    return [_repeated(of, each) for of in ("task", "agent") for each in CORRELATIONS]


def _repeated(of: Literal["task", "agent"], correlation: float) -> Repeated:
    found = [_world(np.random.default_rng([_SEED, world]), of, correlation) for world in range(WORLDS)]
    losses = {name: float(np.mean([each[0][name] for each in found])) for name in found[0][0]}
    worth, (held, width) = float(np.median([each[1] for each in found])), np.mean([each[2] for each in found], axis=0)
    return Repeated(of, correlation, losses, worth, float(held), float(width))


def _world(
    rng: np.random.Generator, of: Literal["task", "agent"], correlation: float
) -> tuple[dict[str, float], float, tuple[float, float]]:
    kinds = TASKS if of == "task" else AGENTS
    rate = rng.uniform(0.1, 0.9, PROCEDURES)
    size = (1.0 - correlation) / max(correlation, 1e-6)
    own = rng.beta(rate * size, (1.0 - rate) * size, (kinds, PROCEDURES)) if correlation else np.tile(rate, (kinds, 1))
    which, kind = rng.integers(0, PROCEDURES, RUNS), rng.integers(0, kinds, RUNS)
    success = rng.random(RUNS) < own[kind, which]
    others = rng.integers(0, 10_000, RUNS)
    tasks, agents = (kind, others) if of == "task" else (others, kind)
    runs = [
        Ran(
            id=str(n), seq=n + 1, at_ms=0, procedure=str(which[n]), success=bool(success[n]), agent=f"a{agents[n]}",
            task=f"t{tasks[n]}",
        )
        for n in range(RUNS)
    ]  # fmt: skip
    told = repeats.worths(runs)
    worth = told.task if of == "task" else told.agent
    won, had = _counted(which, kind, success, kinds)
    answers = _answers(of, told, won, had)
    losses = {name: _expected(p, own) for name, p in answers.items()}
    weight = estimate.known(estimate.RATE_RUNS_MIN + had.sum(0), worth, had)
    return losses | {"the truth": _expected(own, own)}, worth, _held(answers[LEARNT], weight, own)


def _held(probability: Floats, weight: Floats, own: Floats) -> tuple[float, float]:
    """Share of true rates within the intervals told, and how wide those are."""
    told = zip(probability.ravel().tolist(), weight.ravel().tolist(), strict=True)
    low, high = np.array([choosing.interval(p, known) for p, known in told]).T
    within = (low <= own.ravel()) & (own.ravel() <= high)
    return float(within.mean()), float((high - low).mean())


def _counted(
    which: NDArray[np.intp], kind: NDArray[np.intp], success: NDArray[np.bool_], kinds: int
) -> tuple[Floats, Floats]:
    won, runs = np.zeros((kinds, PROCEDURES)), np.zeros((kinds, PROCEDURES))
    np.add.at(won, (kind, which), success)
    np.add.at(runs, (kind, which), 1.0)
    return won, runs


def _answers(of: Literal["task", "agent"], told: repeats.Worths, won: Floats, runs: Floats) -> dict[str, Floats]:
    rate = np.tile(estimate.rates(won.sum(0), runs.sum(0)), (len(runs), 1))
    plain = np.tile(won.sum(0) / runs.sum(0), (len(runs), 1))
    if of == "task":
        # what a run at the same task counts in `estimate.simple`, against its prior
        fixed = repeats.with_task(rate, won, runs, NEAR_PRIOR / NEAR_RUNS)
        learnt = repeats.with_task(rate, won, runs, told.task)
    else:
        fixed = repeats.with_agent(rate, plain, won, runs, repeats.AGENT_RUNS)
        learnt = repeats.with_agent(rate, plain, won, runs, told.agent)
    return {
        "the rate alone": rate,
        "a fixed worth": estimate.clipped(fixed),
        LEARNT: estimate.clipped(learnt),
    }


def _expected(p: Floats, truth: Floats) -> float:
    kept = np.clip(p, 1e-6, 1.0 - 1e-6)
    return float(-(truth * np.log(kept) + (1.0 - truth) * np.log(1.0 - kept)).mean())
