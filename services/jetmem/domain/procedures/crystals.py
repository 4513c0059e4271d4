"""When a procedure has proved itself, and when it no longer does.

Fluid → crystalline: at least 20 runs by 3 agents, Wilson's lower bound and the last 10 at 0.8 or more. Crystalline →
fluid: the last 20 below 0.3, or the change detector fires: CUSUM for Bernoulli outcomes (Page, 1954; Reynolds and
Stoumbos, 1999), the sum of log likelihood ratios of a fallen rate against the rate that was proved. Both are read
from the row's latest outcomes in the order of their time, so they are the same however the runs arrived.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import msgspec

from jetmem.domain.procedures.statistics import Outcome, Statistics, consistency, steps, wilson

State: TypeAlias = Literal["fluid", "crystalline"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds; all by setting."""

    runs_min: int = 20
    agents_min: int = 3
    lower_min: float = 0.8
    last: int = 10
    last_min: float = 0.8
    dissolve_last: int = 20
    dissolve_below: float = 0.3
    #: Share of its rate that a procedure is thought to fall to.
    fallen: float = 0.6
    #: Log likelihood ratio at which it has fallen: false alarms once in some e**5 ups and downs.
    alarm: float = 5.0


RULES: Final = Rules()


class Crystal(msgspec.Struct, frozen=True):
    """State of one procedure; `version` counts crystallisations, what follows it is of the last.

    Attributes:
        since_ms: Time of the run that formed or dissolved it.
        rate: Lower bound that was proved.
        steps: Those that its runs had in common then: frozen where no definition up to `seq` tells any.
        seq: Number, in the log, of the run that formed it; 0 while fluid.
    """

    state: State = "fluid"
    version: int = 0
    since_ms: int = 0
    rate: float = 0.0
    steps: tuple[str, ...] = ()
    why: str = ""
    seq: int = 0


def cusum(outcomes: tuple[Outcome, ...], rate: float, rules: Rules = RULES) -> float:
    """Highest sum of evidence for a fall, over outcomes from old to new; 0 of none."""
    before = min(0.99, max(0.05, rate))
    after = before * rules.fallen
    win, loss = math.log(after / before), math.log((1 - after) / (1 - before))
    total = highest = 0.0
    for each in outcomes:
        total = max(0.0, total + (win if each.success else loss))
        highest = max(highest, total)
    return highest


def judge(crystal: Crystal, row: Statistics, rules: Rules = RULES) -> Crystal:
    """The state after the row's latest run; the same object where nothing changed."""
    return _dissolved(crystal, row, rules) if crystal.state == "crystalline" else _formed(crystal, row, rules)


def _formed(crystal: Crystal, row: Statistics, rules: Rules) -> Crystal:
    lower, _ = wilson(row.successes, row.runs)
    proved = (
        row.runs >= rules.runs_min
        and row.distinct_agents >= rules.agents_min
        and lower >= rules.lower_min
        and consistency(row, rules.last) >= rules.last_min
        # one that dissolved has to show new runs, not those it was known for
        and sum(each.at_ms > crystal.since_ms for each in row.recent) >= (rules.last if crystal.version else 0)
    )
    if not proved:
        return crystal
    return Crystal("crystalline", crystal.version + 1, row.last_ms, lower, steps(row), "proved", row.seq)


def _dissolved(crystal: Crystal, row: Statistics, rules: Rules) -> Crystal:
    since = tuple(sorted(each for each in row.recent if each.at_ms > crystal.since_ms))
    if len(row.recent) >= rules.dissolve_last and consistency(row, rules.dissolve_last) < rules.dissolve_below:
        return Crystal("fluid", crystal.version, row.last_ms, why="the last runs failed")
    if cusum(since, crystal.rate, rules) >= rules.alarm:
        return Crystal("fluid", crystal.version, row.last_ms, why="its rate has fallen")
    return crystal
