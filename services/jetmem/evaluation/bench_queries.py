"""How long a question takes: from one client on an idle system, and from many agents that publish beside."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from jetmem import client
from jetmem.client import Client
from jetmem.evaluation import metrics
from jetmem.evaluation.bench_data import TENANT, Data
from jetmem.evaluation.show import Told, progress

MODES: Final = ("text", "vector", "hybrid")
AGENTS: Final = 88
_WARM: Final = 20
_LIMIT: Final = 10


class Asked(msgspec.Struct, frozen=True):
    """Client-side timings of one mode; `service` is what the replies say they took."""

    asked: metrics.Spread
    service: metrics.Spread
    degraded: int


class Crowd(msgspec.Struct, frozen=True):
    """Many agents: their questions, their publishes, and questions a second."""

    asked: Asked
    acknowledged: metrics.Spread
    rate: float


class _Timings:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.service: list[float] = []
        self.degraded = 0

    async def ask(self, memory: Client, question: str, mode: str) -> None:
        began = time.perf_counter()
        reply = await memory.search(question, mode=mode, limit=_LIMIT)
        self.seconds.append(time.perf_counter() - began)
        self.service.append(reply.took_ms / 1000)
        self.degraded += bool(reply.degraded)

    def summed(self) -> Asked:
        return Asked(metrics.spread(self.seconds), metrics.spread(self.service), self.degraded)


async def alone(memory: Client, data: Data, count: int, told: Told) -> dict[str, Asked]:
    """One client, one question after the other; each mode has its own, so that none is encoded already."""
    found = {}
    for seed, mode in enumerate(MODES):
        questions = data.questions(_WARM + count, seed)
        for question in questions[:_WARM]:
            await memory.search(question, mode=mode, limit=_LIMIT)
        timings = _Timings()
        with progress(told, f"{count} questions, mode {mode}", count) as step:
            for question in questions[_WARM:]:
                await timings.ask(memory, question, mode)
                step()
        found[mode] = timings.summed()
    return found


async def crowd(url: str, data: Data, seconds: float, told: Told) -> Crowd:
    """Agents with a connection each: publish, ask (hybrid), once a second for so long, spread over the second."""
    rounds = max(1, round(seconds))
    questions = data.questions(AGENTS * rounds, len(MODES))
    timings, acknowledged = _Timings(), list[float]()
    async with AsyncExitStack() as stack:
        agents = [
            await stack.enter_async_context(client.connect(url, tenant=TENANT, agent=f"agent{number:02d}"))
            for number in range(AGENTS)
        ]
        with progress(told, f"{AGENTS} agents publish and ask once a second for {rounds} s", AGENTS * rounds) as step:
            began = time.perf_counter()

            async def act(number: int) -> None:
                for turn in range(rounds):
                    at = began + turn + number / AGENTS
                    await asyncio.sleep(max(0.0, at - time.perf_counter()))
                    if time.perf_counter() > began + rounds:
                        return  # they ask for so long; where answers are slow, they ask less
                    await _publish(agents[number], f"{questions[-1 - number * rounds - turn]} ({turn})")
                    await timings.ask(agents[number], questions[number * rounds + turn], "hybrid")
                    step()

            async def _publish(agent: Client, text: str) -> None:
                sent = time.perf_counter()
                await agent.publish(text, session="crowd")
                acknowledged.append(time.perf_counter() - sent)

            await asyncio.gather(*(act(number) for number in range(AGENTS)))
            spent = time.perf_counter() - began
    return Crowd(timings.summed(), metrics.spread(acknowledged), len(timings.seconds) / spent)
