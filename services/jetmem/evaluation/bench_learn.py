"""A million runs through learn, then `recommend` over the tasks that they were of, and how soon others hear of a run.

The first run of each task goes first, and its vector is awaited: what is measured is learning, not embedding. What
contagion costs is measured apart, for it is off by default: every procedure as full of edges as the bounds allow.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate
from typing import Final

import msgspec
from nats.aio.msg import Msg

from jetmem.adapters.nats_ask import ask
from jetmem.client import Client, Outgoing
from jetmem.client.errors import TimedOut
from jetmem.domain.procedures import relations
from jetmem.domain.procedures.run import Ran
from jetmem.evaluation import metrics
from jetmem.evaluation.bench_data import Data
from jetmem.evaluation.bench_resources import Spent
from jetmem.evaluation.show import Told, progress
from jetmem.learn import study
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus
from jetmem_schemas.waves import WaveTold

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
#: Runs whose waves are waited for, one after the other, with pauses: a wave leaves when its turn comes, 20 a second do.
WAVES: Final = 100
_WAVE_S: Final = 10.0
_PAUSES_S: Final = (0.05, 0.15)
#: Of contagion: runs of a study, and their distance in time.
HUB_RUNS: Final = 20_000
_APART_MS: Final = 700
_SEED: Final = 13


class Learnt(msgspec.Struct, frozen=True):
    """What was seen.

    Attributes:
        runs: How many were measured; the first run of each task comes before them.
        learnt: A second, until every run counts.
        spent: Processor time of each process for that, in words.
        recommend: Client side, of tasks in words that no run used.
        cold: Questions of these that found nothing to go by.
        waves: From before a run is published until a subscriber has its wave, nothing else going on.
        missed: Waves that did not come.
    """

    runs: int
    learnt: float
    spent: str
    recommend: metrics.Spread
    cold: int
    waves: metrics.Spread
    missed: int


class Hubs(msgspec.Struct, frozen=True):
    """What contagion costs where every procedure has all the edges that it may have.

    Attributes:
        seconds: Of processor time, for `HUB_RUNS` runs.
        edges: Of each procedure.
        moved: Procedures that a run moves, at most.
    """

    seconds: float
    edges: int
    moved: int

    @property
    def told(self) -> str:
        """What was measured."""
        each = f"{self.seconds / HUB_RUNS * 1e6:.0f} µs of processor each"
        return f"{HUB_RUNS} runs of hubs of {self.edges} edges, {each}; a run moves {self.moved} procedures at most"


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
    heard, missed = await _waves(memory, told)
    rate = (total - tasks) / seconds
    return Learnt(total - tasks, rate, used, metrics.spread(took[_WARM:]), cold, metrics.spread(heard), missed)


async def _waves(memory: Client, told: Told) -> tuple[list[float], int]:
    """Seconds from publishing a run until its wave is here, of each; how many did not come."""
    come: dict[str, asyncio.Future[float]] = {}

    async def hear(message: Msg) -> None:
        now, run = time.perf_counter(), msgspec.json.decode(message.data, type=WaveTold).run
        if run in come and not come[run].done():
            come[run].set_result(now)

    subscription = await memory.nats.subscribe(subjects.notify(memory.tenant, "success"), cb=hear)
    await memory.nats.flush()
    took, dice = [], random.Random(_SEED)
    with progress(told, f"waiting for {WAVES} waves", WAVES) as step:
        for number in range(WAVES):
            await asyncio.sleep(dice.uniform(*_PAUSES_S))
            name = f"wave-{number}"
            come[name] = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            await memory.report_run(
                "tell the others", success=True, session="waves", agent="agent-0", procedure="procedure-0", id=name
            )
            done, _ = await asyncio.wait([come[name]], timeout=_WAVE_S)
            took += [each.result() - began for each in done]
            step()
    await subscription.unsubscribe()
    return took, WAVES - len(took)


def hubs() -> Hubs:
    """Spread the outcomes of made-up runs over a graph in which every procedure is a hub."""
    dice, count = random.Random(_SEED), study.RELATED_MAX
    names = [f"procedure-{number}" for number in range(count)]
    graph = relations.graph(
        relations.Edge(name, other, kind, dice.uniform(0.3, 1.0))
        for kind in relations.KINDS
        for name in names
        for other in _others(names, name, dice)
    )
    runs = [
        Ran(id=f"r{n}", seq=n, at_ms=n * _APART_MS, procedure=dice.choice(names), success=dice.random() < 0.5)
        for n in range(1, HUB_RUNS + 1)
    ]
    began = time.thread_time()
    study.boosts(runs, graph)
    return Hubs(time.thread_time() - began, len(relations.KINDS) * relations.DEGREE_MAX, relations.REACHED_MAX)


def _others(names: list[str], name: str, dice: random.Random) -> list[str]:
    """As many as a procedure may be related to in one way."""
    return [other for other in dice.sample(names, relations.DEGREE_MAX + 1) if other != name][: relations.DEGREE_MAX]


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
