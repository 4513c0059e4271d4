"""What the data cannot show: 88 agents, 200 procedures, rates that differ by kind of task and drift.

The truth of (procedure, kind of task) is a logit that wanders each day and now and then jumps; agents differ in skill.
In each run an agent meets a kind of task and picks a procedure. Regret is the best rate at that moment less the rate of
what was picked, summed. Every policy meets the same truth, agents and tasks.

Sessions are a world of their own (`followed`): what tends to come next has no part in what is picked.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import choosing, contagion, crystals, estimate, relations, statistics
from jetmem.domain.procedures.decay import DAY_MS
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.relations import Edge
from jetmem.domain.procedures.run import Ran

AGENTS: Final = 88
PROCEDURES: Final = 200
KINDS: Final = 6
FAMILIES: Final = 20
DAYS: Final = 90
RUNS: Final = 20_000
#: Standard deviations of a day's step, and chance of a jump of 2 a day.
_WANDER: Final = 0.08
_JUMPS: Final = 0.004
#: Sessions, and how often the usual procedure comes next in them.
SESSIONS: Final = 2_000
_USUAL: Final = 0.5
#: Worlds below were looked at when settings were chosen.
_FIRST: Final = 100
_HALF_LIFE_DAYS: Final = statistics.HALF_LIFE_MS / DAY_MS


@dataclass(frozen=True, slots=True)
class World:
    """The truth by day, (days, procedures, kinds), and who meets what when, (runs,)."""

    logits: Floats
    skill: Floats
    family: NDArray[np.intp]
    agent: NDArray[np.intp]
    kind: NDArray[np.intp]
    day: Floats
    luck: Floats

    def rates(self, run: int) -> Floats:
        """Chance of success of each procedure at one run, (procedures,)."""
        logit = self.logits[int(self.day[run]), :, self.kind[run]] + self.skill[self.agent[run]]
        return np.asarray(1 / (1 + np.exp(-logit)))


@dataclass(frozen=True, slots=True)
class Policy:
    """What a memory does: whom it shares with and when, whether it forgets old runs and counts neighbours' luck."""

    shared: bool = True
    decay: bool = True
    kinds: bool = True
    contagion: bool = False
    explore: bool = True
    remembers: bool = True
    #: What is told at once, by waves and by asking; else outcomes are known from the next day on.
    at_once: bool = True


POLICIES: Final[Mapping[str, Policy]] = {
    "no memory": Policy(remembers=False),
    "each agent's own memory": Policy(shared=False),
    "jetmem thompson": Policy(),
    "… without context": Policy(kinds=False),
    "… without decay": Policy(decay=False),
    "… without exploring": Policy(explore=False),
    "… without decay or exploring": Policy(decay=False, explore=False),
    "… told the next day": Policy(at_once=False),
    "… with contagion": Policy(contagion=True),
}
FIXED: Final = "best fixed, in hindsight"


class Simulated(msgspec.Struct, frozen=True):
    """By policy: regret a run, mean over seeds, at the end and in the last third; curves for the plot.

    `crystals` and `follows`: figures by name, means over seeds.
    """

    seeds: int
    runs: int
    regret: dict[str, float]
    late: dict[str, float]
    curves: dict[str, list[float]]
    crystals: dict[str, float]
    follows: dict[str, float]


def world(seed: int, runs: int = RUNS) -> World:
    """Draw one."""
    rng = np.random.default_rng(seed)
    family = rng.integers(0, FAMILIES, PROCEDURES)
    start = (
        rng.normal(-0.7, 0.8, (PROCEDURES, 1))
        + rng.normal(0, 0.7, (FAMILIES, KINDS))[family]
        + rng.normal(0, 0.6, (PROCEDURES, KINDS))
    )
    steps = rng.normal(0, _WANDER, (DAYS, PROCEDURES, KINDS))
    jumped = rng.random((DAYS, PROCEDURES, 1)) < _JUMPS
    steps += jumped * rng.choice((-2.0, 2.0), (DAYS, PROCEDURES, 1))
    return World(
        start[None] + np.cumsum(steps, axis=0), rng.normal(0, 0.4, AGENTS), family, rng.integers(0, AGENTS, runs),
        rng.integers(0, KINDS, runs), np.sort(rng.random(runs)) * DAYS, rng.random(runs),
    )  # fmt: skip


class Memory:
    """Counts by procedure and kind, decayed as `statistics` does, read as `estimate` does."""

    def __init__(self, policy: Policy, family: NDArray[np.intp]) -> None:
        rows = 1 if policy.shared else AGENTS
        self._policy, self._family = policy, family
        self._won, self._had = np.zeros((rows, PROCEDURES, KINDS)), np.zeros((rows, PROCEDURES, KINDS))
        self._boost, self._day = np.zeros(PROCEDURES), 0.0
        self._untold: list[tuple[int, int, int, bool]] = []

    def pick(self, agent: int, kind: int, day: float, rng: np.random.Generator) -> int:
        """Choose a procedure."""
        policy = self._policy
        if not policy.remembers:
            return int(rng.integers(PROCEDURES))
        self._age(day)
        row = agent if not policy.shared else 0
        won, had = self._won[row], self._had[row]
        rate = self._rates(won.sum(1), had.sum(1))
        in_context = had[:, kind] if policy.kinds else None
        if in_context is not None:
            rate = estimate.shrunk(won[:, kind], in_context, rate, estimate.CONTEXT_RUNS)
        evidence = choosing.evidence(had.sum(1), in_context, np.zeros(PROCEDURES))  # no task is like another
        return int((choosing.drawn_rates(rate, evidence, rng) if policy.explore else rate).argmax())

    def _rates(self, won: Floats, had: Floats) -> Floats:
        rate = estimate.rates(won, had)
        if not self._policy.contagion:
            return rate
        return contagion.moved(rate, had, np.clip(self._boost, -contagion.BOOST_MAX, contagion.BOOST_MAX))

    def learn(self, agent: int, kind: int, picked: int, success: bool) -> None:
        """Take the outcome in."""
        row = agent if not self._policy.shared else 0
        if not self._policy.at_once:
            self._untold.append((row, picked, kind, success))
            return
        if self._policy.contagion:
            won, had = self._won[row].sum(1), self._had[row].sum(1)
            said = float(estimate.rates(won, had)[picked])
            # procedures of one family are one hop apart, with the strength their descriptions would give
            near = 0.5 * (self._family == self._family[picked])
            near[picked] = 0.0
            self._boost += near * ((1.0 if success else 0.0) - said) * contagion.RATE
        self._count(row, picked, kind, success)

    def _count(self, row: int, picked: int, kind: int, success: bool) -> None:
        self._won[row, picked, kind] += success
        self._had[row, picked, kind] += 1

    def _age(self, day: float) -> None:
        if int(day) > int(self._day):
            for each in self._untold:
                self._count(*each)
            self._untold.clear()
        passed, self._day = day - self._day, day
        if self._policy.decay:
            keep = 0.5 ** (passed / _HALF_LIFE_DAYS)
            self._won *= keep
            self._had *= keep
        if self._policy.contagion:
            self._boost *= 0.5 ** (passed * DAY_MS / contagion.HALF_LIFE_MS)


def measure(seeds: int, runs: int = RUNS) -> Simulated:
    """Play every policy in every world."""
    every: dict[str, list[Floats]] = {}
    found: dict[str, list[float]] = {}
    next_told: dict[str, list[float]] = {}
    for seed in range(_FIRST, _FIRST + seeds):
        truth = world(seed, runs)
        best = np.array([truth.rates(run).max() for run in range(runs)])
        for name, policy in POLICIES.items():
            picks = played(truth, policy, seed)
            every.setdefault(name, []).append(best - _had(truth, picks))
            if name == "jetmem thompson":
                for what, value in crystallised(truth, picks).items():
                    found.setdefault(what, []).append(value)
        every.setdefault(FIXED, []).append(best - _fixed(truth, runs))
        for what, value in followed(seed).items():
            next_told.setdefault(what, []).append(value)
    mean = {name: np.mean(each, axis=0) for name, each in every.items()}
    step = max(1, runs // 100)
    return Simulated(
        seeds, runs,
        {name: float(each.mean()) for name, each in mean.items()},
        {name: float(each[-runs // 3 :].mean()) for name, each in mean.items()},
        {name: [float(value) for value in np.cumsum(each)[step - 1 :: step]] for name, each in mean.items()},
        {name: float(np.mean(each)) for name, each in found.items()},
        {name: float(np.mean(each)) for name, each in next_told.items()},
    )  # fmt: skip


def played(truth: World, policy: Policy, seed: int) -> NDArray[np.intp]:
    """What one policy picks, (runs,)."""
    memory, rng = Memory(policy, truth.family), np.random.default_rng(seed + 1_000)
    picks = np.zeros(len(truth.agent), np.intp)
    for run in range(len(picks)):
        agent, kind = int(truth.agent[run]), int(truth.kind[run])
        picked = memory.pick(agent, kind, float(truth.day[run]), rng)
        memory.learn(agent, kind, picked, bool(truth.luck[run] < truth.rates(run)[picked]))
        picks[run] = picked
    return picks


def _had(truth: World, picks: NDArray[np.intp]) -> Floats:
    return np.array([truth.rates(run)[picked] for run, picked in enumerate(picks)])


def _fixed(truth: World, runs: int) -> Floats:
    """The one procedure that was best over everything."""
    every = np.array([truth.rates(run) for run in range(runs)])
    return np.asarray(every[:, int(every.mean(0).argmax())])


def crystallised(truth: World, picks: NDArray[np.intp]) -> dict[str, float]:
    """How many crystallise and dissolve, the true rate of their last 20 runs then, and of all while crystalline."""
    found = _crystals(truth, picks, crystals.RULES)
    blind = _crystals(truth, picks, msgspec.structs.replace(crystals.RULES, alarm=math.inf))
    told = {name: float(len(found[name])) for name in ("crystallised", "dissolved")}
    told |= {f"true rate when {name}": float(np.mean(found[name])) for name in told if found[name]}
    told["dissolved without change detector"] = float(len(blind["dissolved"]))
    for name, each in (("true rate while crystalline", found), ("… without change detector", blind)):
        if each["crystalline"]:
            told[name] = float(np.mean(each["crystalline"]))
    return told


def _crystals(truth: World, picks: NDArray[np.intp], rules: crystals.Rules) -> dict[str, list[float]]:
    rows: dict[int, statistics.Statistics] = {}
    states: dict[int, crystals.Crystal] = {}
    at: dict[str, list[float]] = {"crystallised": [], "dissolved": [], "crystalline": []}
    true: dict[int, deque[float]] = {}
    for number, run in enumerate(_runs(truth, picks)):
        which = int(run.procedure)
        rate = float(truth.rates(number)[which])
        true.setdefault(which, deque(maxlen=20)).append(rate)
        before = states.get(which, crystals.Crystal())
        if before.state == "crystalline":
            at["crystalline"].append(rate)
        rows[which] = statistics.apply(rows.get(which, statistics.Statistics()), run)
        states[which] = after = crystals.judge(before, rows[which], rules)
        if after.state != before.state:
            at["crystallised" if after.state == "crystalline" else "dissolved"].append(float(np.mean(true[which])))
    return at


def followed(seed: int, sessions: int = SESSIONS) -> dict[str, float]:
    """How often what comes next in a session is told, in sessions that come after those learnt from.

    After each procedure one other tends to come, in `_USUAL` of the sessions; else any, the popular ones more often.
    """
    rng = np.random.default_rng(seed)
    usual, popular = rng.permutation(PROCEDURES), rng.dirichlet(np.full(PROCEDURES, 0.3))
    pairs: list[tuple[int, int]] = []
    for _ in range(sessions):
        runs = [int(rng.choice(PROCEDURES, p=popular))]
        for _ in range(int(rng.integers(1, 8))):
            runs.append(int(usual[runs[-1]] if rng.random() < _USUAL else rng.choice(PROCEDURES, p=popular)))
        pairs += [(one, other) for one, other in pairwise(runs) if one != other]
    half = len(pairs) // 2
    after, before = Counter(pairs[:half]), Counter(one for one, _ in pairs[:half])
    edges = relations.bounded(
        Edge(str(one), str(other), "follows", relations.follows_strength(count, before[one]))
        for (one, other), count in sorted(after.items())
    )
    first: dict[int, int] = {}
    for edge in sorted(edges, key=lambda each: -each.strength):
        first.setdefault(int(edge.source), int(edge.target))
    most = Counter(other for _, other in pairs[:half]).most_common(1)[0][0]
    later = pairs[half:]
    return {
        "told by FOLLOWS": sum(first.get(one) == other for one, other in later) / len(later),
        "by what is run most": sum(other == most for _, other in later) / len(later),
    }


def _runs(truth: World, picks: NDArray[np.intp]) -> Iterator[Ran]:
    for run, picked in enumerate(picks):
        yield Ran(
            id=str(run), seq=run + 1, at_ms=int(truth.day[run] * DAY_MS), procedure=str(int(picked)),
            success=bool(truth.luck[run] < truth.rates(run)[picked]), agent=str(int(truth.agent[run])),
        )  # fmt: skip


def plot(found: Simulated, path: Path) -> None:
    """Draw regret over runs into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.add_subplot()
    for name, curve in sorted(found.curves.items(), key=lambda each: -each[1][-1]):
        axes.plot(_spread(found.runs, len(curve)), curve, label=name, linestyle="--" if name == FIXED else "-")
    axes.set_xlabel("runs")
    axes.set_ylabel("regret, successes lost")
    axes.set_title(
        f"{AGENTS} agents, {PROCEDURES} procedures, {KINDS} kinds of task, rates that drift over {DAYS} days"
    )
    axes.legend()
    made.savefig(path, format="png", dpi=120)


def _spread(runs: int, points: int) -> Sequence[float]:
    return [runs * (each + 1) / points for each in range(points)]
