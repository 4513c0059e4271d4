"""Sequences of steps that recur in runs that succeed.

A pattern is 2 to 5 steps in a row (Agrawal and Srikant, 1995, without gaps). Each row counts in how many successful
and failed runs it occurred, decaying by 0.95 a week: the same for every order of runs. Without gaps these are n-grams
of words; scikit-learn's CountVectorizer finds the same, as a test shows, but holds every n-gram before it cuts.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from jetmem.domain.procedures import decay
from jetmem.domain.procedures.decay import DAY_MS, Decayed
from jetmem.domain.procedures.run import Ran, draw
from jetmem.domain.procedures.statistics import wilson

Steps: TypeAlias = tuple[str, ...]
SHORTEST: Final = 2
LONGEST: Final = 5
#: Steps of one run that are looked at: 4 × 48 patterns at most.
STEPS_MAX: Final = 48
#: 0.95 a week, as a half-life.
HALF_LIFE_MS: Final = 7 * DAY_MS * math.log(0.5) / math.log(0.95)
SUCCESSES_MIN: Final = 3
#: Share-worthy.
CONSISTENCY_MIN: Final = 0.8
RATE_MIN: Final = 0.7
AGENTS_MIN: Final = 2
_AGENTS_KEPT: Final = 8
_RECENT: Final = 10


class Pattern(msgspec.Struct, frozen=True):
    """Counts of one sequence, or of all runs; `recent` holds (time, id, success) of the latest runs, newest first."""

    seq: int = 0
    successes: int = 0
    failures: int = 0
    won: Decayed = Decayed()
    lost: Decayed = Decayed()
    agents: tuple[int, ...] = ()
    recent: tuple[tuple[int, str, bool], ...] = ()


class Found(msgspec.Struct, frozen=True):
    """A pattern as it is told: `rate` and `lift` decayed, `shared` whether it is worth sharing."""

    steps: Steps
    successes: int
    failures: int
    rate: float
    lift: float
    lower: float
    shared: bool


def within(steps: Sequence[str]) -> set[Steps]:
    """Every pattern of a run's steps, once."""
    return {found for size in range(SHORTEST, LONGEST + 1) for found in _in_a_row(steps, size)}


def _in_a_row(steps: Sequence[str], size: int) -> set[Steps]:
    kept = tuple(steps[:STEPS_MAX])
    return {kept[start : start + size] for start in range(len(kept) - size + 1)}


def often(succeeded: Sequence[Sequence[str]], most: int) -> set[Steps]:
    """Patterns of at least `SUCCESSES_MIN` successful runs: the `most` that succeeded most, ties by steps.

    Level by level (Agrawal and Srikant, 1994): a pattern is in no more runs than its beginning, and sorts behind it, so
    one whose beginning is not among the most need not be counted. What is held is bounded by pairs of steps.
    """
    kept: Counter[Steps] = Counter()
    begun: Counter[Steps] = Counter()
    for size in range(SHORTEST, LONGEST + 1):
        seen: Counter[Steps] = Counter()
        for steps in succeeded:
            seen.update(found for found in _in_a_row(steps, size) if size == SHORTEST or found[:-1] in begun)
        begun = _most(seen, most)
        kept |= begun
    return set(_most(kept, most))


def _most(seen: Counter[Steps], most: int) -> Counter[Steps]:
    enough = [each for each in seen.items() if each[1] >= SUCCESSES_MIN]
    return Counter(dict(heapq.nsmallest(most, enough, key=lambda each: (-each[1], each[0]))))


def apply(row: Pattern, run: Ran) -> Pattern:
    """Count a run that holds the pattern; one at or below `row.seq` changes nothing."""
    if run.seq <= row.seq:
        return row
    won = decay.add(row.won, 1.0, run.at_ms, HALF_LIFE_MS) if run.success else row.won
    lost = row.lost if run.success else decay.add(row.lost, 1.0, run.at_ms, HALF_LIFE_MS)
    agents = tuple(heapq.nsmallest(_AGENTS_KEPT, {*row.agents, draw(run.agent)}))
    recent = tuple(heapq.nlargest(_RECENT, (*row.recent, (run.at_ms, run.id, run.success))))
    return Pattern(run.seq, row.successes + run.success, row.failures + (not run.success), won, lost, agents, recent)


def told(steps: Steps, row: Pattern, every: Pattern, now_ms: int) -> Found:
    """A pattern's figures, against `every`: the row that counts all runs with steps.

    Lift is the share of successful runs with the pattern over the share of failed ones, each with half a run added
    (Haldane, 1956).
    """
    won, lost = decay.value(row.won, now_ms, HALF_LIFE_MS), decay.value(row.lost, now_ms, HALF_LIFE_MS)
    all_won, all_lost = decay.value(every.won, now_ms, HALF_LIFE_MS), decay.value(every.lost, now_ms, HALF_LIFE_MS)
    rate = won / (won + lost) if won + lost else 0.0
    lift = (won + 0.5) / (all_won + 1) / ((lost + 0.5) / (all_lost + 1))
    consistent = sum(each[2] for each in row.recent) / len(row.recent) if row.recent else 0.0
    shared = (
        consistent > CONSISTENCY_MIN
        and rate > RATE_MIN
        and row.successes >= SUCCESSES_MIN
        and len(row.agents) >= AGENTS_MIN
    )
    lower, _ = wilson(won, won + lost)
    return Found(steps, row.successes, row.failures, rate, lift, lower, shared)


def recurring(rows: Mapping[Steps, Pattern], every: Pattern, now_ms: int) -> list[Found]:
    """Patterns of at least `SUCCESSES_MIN` successes, by lower bound of rate, then lift, then longest."""
    found = [told(steps, row, every, now_ms) for steps, row in rows.items() if row.successes >= SUCCESSES_MIN]
    return sorted(found, key=lambda each: (-each.lower, -each.lift, -len(each.steps), each.steps))


def following(done: Sequence[str], found: Iterable[Found]) -> list[tuple[str, float]]:
    """Next steps after those done, best first, by the lower bound of the best pattern that begins with their end."""
    best: dict[str, float] = {}
    for each in found:
        for size in range(len(each.steps) - 1, 0, -1):
            if tuple(done[-size:]) == each.steps[:size]:
                step = each.steps[size]
                best[step] = max(best.get(step, 0.0), each.lower)
                break
    return sorted(best.items(), key=lambda each: (-each[1], each[0]))
