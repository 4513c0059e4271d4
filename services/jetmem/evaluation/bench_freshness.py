"""How long after its acknowledgement an event is found: by words in a steady stream, by meaning when idle."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final, Literal

import msgspec

from jetmem.client import Client, Outgoing
from jetmem.evaluation import metrics
from jetmem.evaluation.bench_data import AGENT, Data
from jetmem.evaluation.show import Told, progress
from jetmem.tasks import end

#: Events a second; each `PROBE_EVERY`th is published alone and looked for.
RATE: Final = 1_000
PROBE_EVERY: Final = 50
_TENANT: Final = "live"
_WAIT_MS: Final = 10_000
_HITS: Final = 20


class Fresh(msgspec.Struct, frozen=True):
    """From acknowledgement to answer; `missed`: the answer came late or without the event."""

    found: metrics.Spread
    missed: int
    rate: float = 0.0


class _Probes:
    """Publishes single events with a word of their own and looks for them."""

    def __init__(self, memories: list[Client], arm: Literal["text", "vector"], texts: list[str]) -> None:
        """Each of `memories`, one a tenant, is asked in turn."""
        self.seconds: list[float] = []
        self.missed = 0
        self._memories = memories
        self._arm = arm
        self._texts = texts
        self._mark = f"zq{secrets.token_hex(3)}"

    async def one(self, number: int) -> None:
        """Publish one and wait until it is found."""
        word = f"{self._mark}x{number}"
        text = f"{word} {self._texts[number % len(self._texts)]}"
        memory = self._memories[number % len(self._memories)]
        receipt = await memory.publish(text, session="probes", author="probe")
        began = time.perf_counter()
        asked = word if self._arm == "text" else text
        reply = await memory.search(asked, mode=self._arm, after=receipt.seq, wait_ms=_WAIT_MS, limit=_HITS)
        self.seconds.append(time.perf_counter() - began)
        self.missed += reply.stale or receipt.id not in [hit.id for hit in reply.hits]


async def by_words(memory: Client, data: Data, seconds: float, told: Told, tenants: int = 1) -> Fresh:
    """A steady stream for so long, one event in `PROBE_EVERY` looked for as soon as it is acknowledged.

    It is spread evenly over so many tenants: their partitions are committed apart.
    """
    names = [f"{_TENANT}-{number}" for number in range(tenants)]
    probes = _Probes([memory.as_tenant(name) for name in names], "text", data.texts())
    count = int(RATE * seconds)
    tasks: list[asyncio.Task[None]] = []
    began = time.perf_counter()
    stream = asyncio.create_task(_stream(memory, names, data, count, began))
    try:
        title = f"{RATE} events/s of {tenants} tenants for {seconds:g} s, {count // PROBE_EVERY} looked for"
        with progress(told, title, count) as step:
            for number in range(count // PROBE_EVERY):
                await asyncio.sleep(max(0.0, began + number * PROBE_EVERY / RATE - time.perf_counter()))
                tasks.append(asyncio.create_task(probes.one(number)))
                for _ in range(PROBE_EVERY):
                    step()
        spent = await stream
        await asyncio.gather(*tasks)
    finally:
        await end(stream, *tasks)
    return Fresh(metrics.spread(probes.seconds), probes.missed, count / spent)


async def _stream(memory: Client, names: list[str], data: Data, count: int, began: float) -> float:
    """Everything but the probes, in small batches, never faster than `RATE`; returns how long it took."""
    mark, done = secrets.token_hex(3), 0
    due = count - count // PROBE_EVERY
    per_s = RATE * (1 - 1 / PROBE_EVERY)
    while done < due:
        upto = min(due, int((time.perf_counter() - began) * per_s))
        batch = []
        for number in range(done, upto):
            line = data.lines[number % len(data.lines)]
            event = {**line.event, "id": f"{mark}-{number}"}
            tenant = names[number % len(names)]
            batch.append(Outgoing(event=event, tenant=tenant, session=line.session, agent=AGENT))
        if batch:
            await memory.publish_many(batch)
            done = upto
        await asyncio.sleep(PROBE_EVERY / RATE / 2)
    return time.perf_counter() - began


async def by_meaning(memory: Client, data: Data, count: int, told: Told) -> Fresh:
    """Single events, one after the other."""
    probes = _Probes([memory.as_tenant(_TENANT)], "vector", data.texts())
    with progress(told, f"{count} single events until found by meaning", count) as step:
        for number in range(count):
            await probes.one(number)
            step()
    return Fresh(metrics.spread(probes.seconds), probes.missed)
