"""Tells agents what worked elsewhere: waves on their tenant's subjects, as it is learnt, so many a second.

Core NATS and best effort: who does not listen misses it, and what is learnt of the past is not told again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec
import nats.errors

from jetmem.adapters.nats_shell import Shell
from jetmem.learn.ports import News, Wave
from jetmem.runtime import metrics
from jetmem_schemas import subjects
from jetmem_schemas.waves import Topic, WaveTold

#: What arrived at the broker longer ago is no news: it comes by scan, or again.
LIVE_S: Final = 15.0
#: Waves that wait to be told; of a flood the latest are dropped.
_WAITING_MAX: Final = 1_000
_TASK_CHARS: Final = 300
_LOOK_S: Final = 0.05
_TENANTS_MAX: Final = 4_096

_encode = msgspec.json.Encoder().encode


class Waves:
    """`ports.Hears` on the writer thread; a loop publishes."""

    def __init__(self, shell: Shell, per_s: float) -> None:
        self._shell = shell
        self._per_s = per_s
        self._waiting: deque[tuple[str, Topic, WaveTold]] = deque()
        #: Per tenant, of crystals and of outcomes (which must not crowd them out): how many may be told, as of when.
        self._room: dict[tuple[str, bool], tuple[float, float]] = {}

    def tell(self, tenant: str, news: News) -> None:
        """Note what is news and fits the rate."""
        oldest = self._shell.clock.now_ms() - LIVE_S * 1_000
        for wave in news.waves:
            if wave.arrived_ms < oldest:
                continue
            crystal = wave.topic in ("crystallized", "dissolved")
            if len(self._waiting) < _WAITING_MAX and self._fits(tenant, crystal):
                self._waiting.append((tenant, wave.topic, _told(wave)))
            else:
                metrics.waves_dropped.inc()

    def clear(self) -> None:
        """Nothing of it is held here."""

    def _fits(self, tenant: str, crystal: bool) -> bool:
        """A bucket of one second's tokens (Turner, 1986)."""
        now = self._shell.clock.monotonic()
        room, since = self._room.get((tenant, crystal), (max(1.0, self._per_s), now))
        room = min(max(1.0, self._per_s), room + (now - since) * self._per_s)
        if len(self._room) > _TENANTS_MAX:
            self._room.clear()
        self._room[tenant, crystal] = (room - 1.0 if room >= 1.0 else room, now)
        return room >= 1.0

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            while self._waiting:
                await self._publish(*self._waiting.popleft())
            await asyncio.sleep(_LOOK_S)

    async def _publish(self, tenant: str, topic: Topic, told: WaveTold) -> None:
        try:
            await self._shell.nc.publish(subjects.notify(tenant, topic), _encode(told))
        except (nats.errors.Error, OSError) as error:
            self._shell.health.failed(error)
            return
        metrics.waves.labels(topic).inc()


def _told(wave: Wave) -> WaveTold:
    run, task = wave.run, wave.run.task[:_TASK_CHARS]
    return WaveTold(procedure=run.procedure, agent=run.agent, strength=wave.strength, task=task, run=run.id)
