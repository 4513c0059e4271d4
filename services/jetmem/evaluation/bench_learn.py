"""A million runs through learn, then `recommend` over the tasks that they were of.

The first run of each task goes first, and its vector is awaited: what is measured is learning, not embedding.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate
from typing import Final

import msgspec

from jetmem.adapters.nats_ask import ask
from jetmem.client import Client, Outgoing
from jetmem.client.errors import TimedOut
from jetmem.evaluation import metrics
from jetmem.evaluation.bench_data import Data
from jetmem.evaluation.bench_resources import Spent
from jetmem.evaluation.show import Told, progress
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus

TENANT: Final = "runs"
RUNS: Final = 1_000_000
#: Different tasks; embed takes some three minutes for them.
TASKS: Final = 100_000
PROCEDURES: Final = 10_000
#: How often procedures are used falls with their rank to this power (Zipf's law).
_ZIPF: Final = 1.0
_AGENTS: Final = 88
_TOOLS: Final = ("plan", "search", "read", "edit", "compile", "test", "review", "commit")
_FAILURES: Final = ("time-out", "wrong result", "no permission", "gave up")
_CONTEXTS: Final = ("linux", "macos", "windows", "container")
_RUNS_A_SESSION: Final = 20
_CHUNK: Final = 20_000
_PUBLISH_S: Final = 300.0
_WAIT_MS: Final = 10_000
_ASK_S: Final = 30.0
#: Between two looks at what is awaited: looking takes processor time from what is measured.
_LOOK_S: Final = 2.0
_WARM: Final = 10
_SEED: Final = 13


class Learnt(msgspec.Struct, frozen=True):
    """What was seen.

    Attributes:
        runs: How many were measured; the first run of each task comes before them.
        learnt: A second, until every run counts.
        spent: Processor time of each process for that, in words.
        recommend: Client side, of tasks in words that no run used.
        cold: Questions of these that found nothing to go by.
    """

    runs: int
    learnt: float
    spent: str
    recommend: metrics.Spread
    cold: int


class Runs:
    """Made-up runs: each procedure has a rate of its own and steps that it goes through."""

    def __init__(self, data: Data, tasks: int, procedures: int) -> None:
        texts = list(dict.fromkeys(str(line.event["text"])[:300] for line in data.lines))
        self._tasks = [texts[n] if n < len(texts) else f"{texts[n % len(texts)]} ({n})" for n in range(tasks)]
        dice = random.Random(_SEED)
        self._rates = [dice.betavariate(2, 2) for _ in range(procedures)]
        self._steps = [[{"tool": tool} for tool in dice.sample(_TOOLS, 4)] for _ in range(procedures)]
        self._used = list(accumulate(1 / (rank + 1) ** _ZIPF for rank in range(procedures)))

    def some(self, first: int, end: int) -> Iterator[Outgoing]:
        """Runs by their number, from `first` up to `end`; run n is of task n modulo their count."""
        for number in range(first, end):
            dice = random.Random(number)
            which = dice.choices(range(len(self._rates)), cum_weights=self._used)[0]
            success = dice.random() < self._rates[which]
            run = {
                "id": f"r{number:07}",
                "task": self._tasks[number % len(self._tasks)],
                "procedure": f"procedure-{which}",
                "success": success,
                "steps": self._steps[which],
                "duration_ms": round(dice.lognormvariate(7, 1)),
                "context": {"os": dice.choice(_CONTEXTS)},
            }
            if not success:
                run["failure"] = dice.choice(_FAILURES)
            agent, session = f"agent-{dice.randrange(_AGENTS)}", f"s{number // _RUNS_A_SESSION}"
            yield Outgoing(event=run, session=session, agent=agent, kind="run")


async def measure(
    memory: Client,
    data: Data,
    count: tuple[int, int, int],
    questions: int,
    told: Told,
    spending: Callable[[], Spent],
    rest: Callable[[], Awaitable[None]],
) -> Learnt:
    """Publish a run of each task and wait for the vectors, then all the others as fast as they are taken.

    Args:
        memory: Of the tenant.
        data: Where the words of tasks come from.
        count: Runs, tasks, procedures.
        questions: How often `recommend` is asked, after `rest`.
        told: Says how far it is.
        spending: Begins to count processor time.
        rest: Waits until all stages are idle.
    """
    total, tasks, procedures = count
    runs = Runs(data, tasks, procedures)
    await _vectors(memory, await _publish(memory, runs, 0, tasks, told), told)
    spent, began = spending(), time.perf_counter()
    await _counted(memory, await _publish(memory, runs, tasks, total, told), told)
    seconds, used = time.perf_counter() - began, spent.told(total - tasks, micro=True)
    await rest()
    took, cold = [], 0
    asked = data.questions(_WARM + questions, _SEED)
    with progress(told, f"asking {len(asked)} tasks", len(asked)) as step:
        for task in asked:
            began = time.perf_counter()
            cold += (await memory.recommend(task, context={"os": _CONTEXTS[0]})).cold
            took.append(time.perf_counter() - began)
            step()
    return Learnt(total - tasks, (total - tasks) / seconds, used, metrics.spread(took[_WARM:]), cold)


async def _publish(memory: Client, runs: Runs, first: int, end: int, told: Told) -> int:
    """The sequence of the last one."""
    seq = 0
    with progress(told, f"publishing {end - first} runs", end - first) as step:
        for start in range(first, end, _CHUNK):
            chunk = list(runs.some(start, min(end, start + _CHUNK)))
            seq = (await memory.publish_many(chunk, timeout_s=_PUBLISH_S)).last_seq
            for _ in chunk:
                step()
    return seq


async def _counted(memory: Client, seq: int, told: Told) -> None:
    """Wait until every run up to a sequence counts; on a crowded machine learn may be too busy to say how far it is."""
    while True:
        try:
            reply = await memory.procedures(limit=1, after=seq, wait_ms=_WAIT_MS)
        except TimedOut:
            await asyncio.sleep(_LOOK_S)
            continue
        if not reply.stale:
            return
        told.still(f"learnt {reply.fresh} of {seq}")


async def _vectors(memory: Client, seq: int, told: Told) -> None:
    """Wait until every task has its vector."""
    await _counted(memory, seq, told)
    subject = subjects.service("learn", subjects.partition_of(memory.tenant), "status")
    while True:
        status = await ask(memory.nats, subject, {"tenant": memory.tenant}, StageStatus, _ASK_S)
        if not status.counts["pending_tasks"]:
            return
        told.still(f"{status.counts['pending_tasks']} tasks without a vector")
        await asyncio.sleep(_LOOK_S)
