"""What learn makes of an entry, and how it counts runs beside `domain.procedures.statistics`; pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from jetmem.domain.procedures import contagion, crystals, decay, patterns, statistics
from jetmem.domain.procedures.crystals import Crystal, Rules
from jetmem.domain.procedures.decay import Decayed
from jetmem.domain.procedures.run import Ran
from jetmem.domain.procedures.statistics import (
    HALF_LIFE_MS,
    LESSONS_MAX,
    STEP_CHARS_MAX,
    TEXT_CHARS_MAX,
    Statistics,
)
from jetmem_schemas import events
from jetmem_schemas.internal import Entry
from jetmem_schemas.procedures import TASK_CHARS_MAX

#: Context values of one run that are counted, in the order of their names: each is a row that is read and written.
CONTEXT_MAX: Final = 16
CONTEXT_CHARS_MAX: Final = 128
#: Runs of a procedure at a task that are told as evidence.
LATEST_MAX: Final = 3

_run = msgspec.json.Decoder(events.Run).decode
_procedure = msgspec.json.Decoder(events.Procedure).decode


class Defined(NamedTuple):
    """A definition of a procedure, as it was published."""

    name: str
    description: str
    steps: tuple[str, ...]
    version: str

    @property
    def text(self) -> str:
        """What it is compared by: description and steps; "" where it says neither."""
        return "\n".join(each for each in (self.description.strip(), ", ".join(self.steps)) if each)


class Latest(NamedTuple):
    """One of the latest runs of a procedure at a task; sorts by time, then by id."""

    at_ms: int
    id: str
    agent: str
    success: bool


class Grown(NamedTuple):
    """A procedure's counts and whether it is crystalline; `before` is that as of the end of the time step before."""

    counts: Statistics
    crystal: Crystal
    before: Crystal
    step: int


class Tally(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counts of some runs, plain and with a half-life of 30 days; `seq` is the last run that was taken.

    First and last use are epoch milliseconds, 0 while there is no run.
    """

    seq: int = 0
    runs: int = 0
    successes: int = 0
    decayed_runs: Decayed = Decayed()
    decayed_successes: Decayed = Decayed()
    first_ms: int = 0
    last_ms: int = 0


def run_of(entry: Entry) -> Ran:
    """A recorded run, cut to what is learnt from; its task is not longer than a question's may be."""
    said = _run(entry.body)
    return Ran(
        id=entry.id,
        seq=entry.rseq,
        at_ms=min(entry.ts, entry.at),  # nothing that comes soon would be later than one that says to be of tomorrow
        arrived_ms=entry.at,
        procedure=said.procedure,
        success=said.success,
        agent=entry.agent,
        session=entry.session,
        task=task_of(said.task),
        context=context_of(said.context),
        steps=steps_of(said.steps),
        reward=said.reward,
        duration_ms=said.duration_ms,
        cost=said.cost,
        failure=said.failure.strip()[:TEXT_CHARS_MAX],
        lessons=tuple(each.strip()[:TEXT_CHARS_MAX] for each in said.lessons[:LESSONS_MAX]),
    )


def defined_of(entry: Entry) -> Defined:
    """A recorded definition; its name is the last token of the subject."""
    said = _procedure(entry.body)
    return Defined(entry.session, said.description[:TASK_CHARS_MAX], steps_of(said.steps), str(said.version))


def task_of(text: str) -> str:
    """A task as it is compared: equal ones are one."""
    return text.strip()[:TASK_CHARS_MAX] or "_"


def steps_of(steps: Iterable[events.Step]) -> tuple[str, ...]:
    """Names of steps."""
    named = [each.tool[:STEP_CHARS_MAX] for each in steps if each.tool]
    return tuple(named[: patterns.STEPS_MAX])


def context_of(context: Mapping[str, events.Scalar]) -> dict[str, str]:
    """A context as it is compared: values as words, names in order, the first `CONTEXT_MAX`."""
    return {name: _said(context[name]) for name in sorted(context)[:CONTEXT_MAX]}


def _said(value: events.Scalar) -> str:
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode())[:CONTEXT_CHARS_MAX]


def pairs_of(context: Mapping[str, str]) -> list[str]:
    """Each value of a context with its name."""
    return [f"{name}={value}" for name, value in context.items()]


def tallied(row: Tally, run: Ran) -> Tally:
    """Count one run; one at or below `row.seq` was counted before and changes nothing."""
    if run.seq <= row.seq:
        return row
    won = row.decayed_successes
    return Tally(
        run.seq,
        row.runs + 1,
        row.successes + run.success,
        decay.add(row.decayed_runs, 1.0, run.at_ms, HALF_LIFE_MS),
        decay.add(won, 1.0, run.at_ms, HALF_LIFE_MS) if run.success else won,
        min(row.first_ms, run.at_ms) if row.runs else run.at_ms,
        max(row.last_ms, run.at_ms) if row.runs else run.at_ms,
    )


def grown(old: Grown, run: Ran, rules: Rules) -> Grown:
    """Count one run of a procedure, and judge it; one that was counted before changes nothing.

    Crystals follow the log step by step (`contagion.STEP_MS`); within a step the order of runs does not matter, but to
    which definition is frozen where one is published in the very step: the newest when the crystal first formed.
    """
    counts = statistics.apply(old.counts, run)
    if counts is old.counts:
        return old
    step = max(old.step, run.at_ms // contagion.STEP_MS)
    before = old.crystal if step > old.step else old.before
    crystal = crystals.judge(before, counts, rules)
    if old.crystal.seq and crystal.seq > old.crystal.seq:  # judged again in the step that formed it
        crystal = msgspec.structs.replace(crystal, seq=old.crystal.seq)
    return Grown(counts, crystal, before, step)


def with_latest(latest: tuple[Latest, ...], run: Ran) -> tuple[Latest, ...]:
    """The latest runs, the newest first."""
    return tuple(heapq.nlargest(LATEST_MAX, (*latest, Latest(run.at_ms, run.id, run.agent, run.success))))
