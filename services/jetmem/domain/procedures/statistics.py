"""What is counted of runs: one row for a procedure, one for it with an agent, one for it in a context.

A row is a function of the set of its runs, not of their order, so that a forget makes it anew from those that remain.
Samples are of least hash (bottom-k, Cohen and Kaplan, 2007): uniform over runs, the same in any order, and mergeable.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec
from scipy.special import betaincinv

from jetmem.domain.procedures import decay, sketch
from jetmem.domain.procedures.decay import DAY_MS, Decayed
from jetmem.domain.procedures.run import Ran, draw
from jetmem.domain.procedures.sketch import Sketch

HALF_LIFE_MS: Final = 30 * DAY_MS
#: Latest outcomes kept: what crystals look back on.
RECENT_MAX: Final = 40
CONSISTENCY_RUNS: Final = 10
#: Distinct agents are exact up to here, estimated beyond (k minimum values, Bar-Yossef and others, 2002).
AGENTS_MAX: Final = 64
#: Runs whose failure, lessons and steps are kept, of those that succeeded and of those that failed: of what seldom
#: fails a sample of all runs would hold hardly a failure.
SAMPLE_MAX: Final = 24
#: Characters kept of one failure or lesson, steps of one run, characters of a step.
TEXT_CHARS_MAX: Final = 200
LESSONS_MAX: Final = 4
STEPS_MAX: Final = 20
STEP_CHARS_MAX: Final = 64
#: Of a 95 % interval.
Z: Final = 1.959963984540054
_HASHES: Final = 2.0**63


class Outcome(NamedTuple):
    """One of the latest outcomes; sorts by time, then by id."""

    at_ms: int
    id: str
    success: bool


class Told(NamedTuple):
    """What one sampled run said; sorts by hash of its id."""

    draw: int
    success: bool
    steps: tuple[str, ...]
    failure: str
    lessons: tuple[str, ...]


class Statistics(msgspec.Struct, frozen=True, gc=False):
    """One row. Times are epoch milliseconds, 0 while there is no run."""

    seq: int = 0
    runs: int = 0
    successes: int = 0
    decayed_runs: Decayed = Decayed()
    decayed_successes: Decayed = Decayed()
    reward: Sketch = Sketch()
    duration_ms: Sketch = Sketch()
    cost: Sketch = Sketch()
    first_ms: int = 0
    last_ms: int = 0
    recent: tuple[Outcome, ...] = ()
    agents: tuple[int, ...] = ()
    told: tuple[Told, ...] = ()

    @property
    def rate(self) -> float:
        """Mean of the Beta posterior from a uniform prior, (s + 1) / (n + 2)."""
        return (self.successes + 1) / (self.runs + 2)

    @property
    def distinct_agents(self) -> int:
        """Exact up to `AGENTS_MAX` - 1, beyond that about 1 / sqrt(`AGENTS_MAX`) off."""
        if len(self.agents) < AGENTS_MAX:
            return len(self.agents)
        return round((AGENTS_MAX - 1) * _HASHES / self.agents[-1])


def apply(row: Statistics, run: Ran) -> Statistics:
    """Count one run; one at or below `row.seq` was counted before and changes nothing."""
    return row if run.seq <= row.seq else _counted(row, run)


def recomputed(runs: Iterable[Ran]) -> Statistics:
    """A row from all its runs, in any order."""
    row = Statistics()
    for run in runs:
        row = _counted(row, run)
    return row


def _counted(row: Statistics, run: Ran) -> Statistics:
    won = decay.add(row.decayed_successes, 1.0, run.at_ms, HALF_LIFE_MS) if run.success else row.decayed_successes
    return Statistics(
        max(row.seq, run.seq),
        row.runs + 1,
        row.successes + run.success,
        decay.add(row.decayed_runs, 1.0, run.at_ms, HALF_LIFE_MS),
        won,
        sketch.add(row.reward, run.reward),
        sketch.add(row.duration_ms, run.duration_ms),
        sketch.add(row.cost, run.cost),
        min(row.first_ms, run.at_ms) if row.runs else run.at_ms,
        max(row.last_ms, run.at_ms) if row.runs else run.at_ms,
        _with_latest(row.recent, Outcome(run.at_ms, run.id, run.success)),
        _least_agents(row.agents, run.agent),
        _with_told(row.told, run),
    )


def _with_latest(recent: tuple[Outcome, ...], outcome: Outcome) -> tuple[Outcome, ...]:
    """Newest first; nearly always the outcome is the newest."""
    place = 0
    while place < len(recent) and recent[place] > outcome:
        place += 1
    return recent if place >= RECENT_MAX else (*recent[:place], outcome, *recent[place : RECENT_MAX - 1])


def _with_told(told: tuple[Told, ...], run: Ran) -> tuple[Told, ...]:
    """Least hash first; nearly always the run is not among the least that ended like it."""
    number = draw(run.id)
    if len(told) >= 2 * SAMPLE_MAX and number >= told[-1].draw:
        return told
    alike = [place for place, each in enumerate(told) if each.success == run.success]
    if len(alike) >= SAMPLE_MAX:
        if number >= told[alike[-1]].draw:
            return told
        told = (*told[: alike[-1]], *told[alike[-1] + 1 :])
    lessons = tuple(each[:TEXT_CHARS_MAX] for each in run.lessons[:LESSONS_MAX])
    steps = tuple(each[:STEP_CHARS_MAX] for each in run.steps[:STEPS_MAX])
    new = Told(number, run.success, steps, run.failure[:TEXT_CHARS_MAX], lessons)
    place = bisect.bisect(told, new)
    return (*told[:place], new, *told[place:])


def _least_agents(known: tuple[int, ...], agent: str) -> tuple[int, ...]:
    number = draw(agent)
    if number in known or (len(known) >= AGENTS_MAX and number > known[-1]):
        return known
    return tuple(sorted((*known, number))[:AGENTS_MAX])


def decayed(row: Statistics, now_ms: int) -> tuple[float, float]:
    """Runs and successes as they count now, with a half-life of 30 days."""
    return (
        decay.value(row.decayed_runs, now_ms, HALF_LIFE_MS),
        decay.value(row.decayed_successes, now_ms, HALF_LIFE_MS),
    )


def beta_interval(successes: float, runs: float, level: float = 0.95) -> tuple[float, float]:
    """Equal-tailed credible interval of Beta(s + 1, n - s + 1) (Gelman and others, *Bayesian Data Analysis*, 2.4)."""
    tail = (1.0 - level) / 2.0
    a, b = successes + 1.0, runs - successes + 1.0
    return float(betaincinv(a, b, tail)), float(betaincinv(a, b, 1.0 - tail))


def wilson(successes: float, runs: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval (1927) of a rate; (0, 1) of no runs."""
    if runs <= 0:
        return 0.0, 1.0
    p, n = successes / runs, runs
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def consistency(row: Statistics, last: int = CONSISTENCY_RUNS) -> float:
    """Share of successes among the last runs, at most `RECENT_MAX`; 0 of none."""
    latest = row.recent[:last]
    return sum(each.success for each in latest) / len(latest) if latest else 0.0


def failures(row: Statistics, most: int = 3) -> list[tuple[str, int]]:
    """The commonest failures, with how many runs told them; ties by text.

    Of more than `SAMPLE_MAX` runs that failed the number is estimated from the sampled ones (Cochran, *Sampling
    Techniques*, 5.3).
    """
    return _common(row, lambda each: [each.failure], most)


def lessons(row: Statistics, most: int = 3) -> list[tuple[str, int]]:
    """The commonest lessons, likewise."""
    return _common(row, lambda each: each.lessons, most)


def steps(row: Statistics) -> tuple[str, ...]:
    """The steps that successful runs took most often: what a procedure is where nobody defined it.

    Of several runs two at least took them: what one alone did is not the procedure's.
    """
    found = Counter(each.steps for each in row.told if each.success and each.steps)
    common = [each for each, count in found.items() if count > 1 or row.runs == 1]
    return min(common, key=lambda each: (-found[each], each), default=())


def _common(row: Statistics, texts: Callable[[Told], Iterable[str]], most: int) -> list[tuple[str, int]]:
    sampled = Counter(each.success for each in row.told)
    runs = {True: row.successes, False: row.runs - row.successes}
    found: defaultdict[str, float] = defaultdict(float)
    for each in row.told:
        for text in set(filter(None, texts(each))):  # one that a run tells twice is of one run
            found[text] += runs[each.success] / sampled[each.success]
    first = sorted(found.items(), key=lambda each: (-round(each[1]), each[0]))[:most]
    return [(text, round(count)) for text, count in first]
