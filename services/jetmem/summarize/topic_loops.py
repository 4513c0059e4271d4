"""The loops of topics: fetch vectors and place segments, make topics, group again. The writer decides what still holds.

Index down is no failure of ours: topics stand still, replies and `status` say so, and it is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np

from jetmem.adapters.nats_shell import Shell
from jetmem.domain import topics as rules
from jetmem.runtime import limits, metrics
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem.runtime.store import Work
from jetmem.summarize.index_vectors import fetched
from jetmem.summarize.ports import EntryVectors, Group
from jetmem.summarize.topics import GROUPED_MAX, Found, Snapshot, Topics, Unplaced

#: With nothing to do they look again after so long.
_LOOK_S: Final = 0.25
#: A segment whose vectors are not there yet is looked at again after so long; so is index, if it cannot be asked.
_AGAIN_S: Final = 1.0
#: Of the writer's time topics take at most one part in so many, unless something was erased.
_SHARE: Final = 5
#: Segments moved in one write: some 20 ms.
_MOVED_AT_ONCE: Final = 1_000
#: Grouping rests so many times as long as it took.
_RESTS: Final = 10.0


class Placer:
    """Places segments as their vectors come.

    Attributes:
        still: Segments wait, and index could not be asked.
    """

    def __init__(
        self, shell: Shell, topics: Topics, vectors: EntryVectors, in_writer: Work, in_background: Work
    ) -> None:
        self.still = False
        self._shell = shell
        self._topics = topics
        self._vectors = vectors
        self._in_writer = in_writer
        self._in_background = in_background
        self._rests: dict[bytes, float] = {}

    async def run(self) -> None:
        """Place for ever."""
        while True:
            if not await self.some():
                await asyncio.sleep(_AGAIN_S if self.still else _LOOK_S)

    async def some(self) -> bool:
        """Place some segments of each tenant; False if none could be."""
        now = self._shell.clock.monotonic()
        self._rests = {key: until for key, until in self._rests.items() if until > now}
        resting = frozenset(self._rests)
        placed = 0
        failed: RequestFailed | None = None
        for tenant in self._topics.waiting():
            wanted = partial(self._topics.wanted, tenant, resting, limits.VECTORS_AT_ONCE)
            waiting = await self._in_background(wanted)
            try:
                placed += await self._place(tenant, waiting) if waiting else 0
            except RequestFailed as error:  # another tenant's partition may be answered
                failed = error
        if failed is not None and not self.still:
            self._shell.log.warning("topics stand still", error=str(failed))
        self.still = failed is not None
        return placed > 0

    async def _place(self, tenant: str, waiting: Sequence[Unplaced]) -> int:
        """Place those segments that have all their vectors; the others rest. How many were placed.

        Raises:
            RequestFailed: Index does not answer.
        """
        came = await fetched(self._vectors, tenant, [rseq for each in waiting for rseq in each.rseqs])
        if came is None:
            return 0
        found: list[Found] = []
        for each in waiting:
            if came.whole(each.rseqs):
                held = [came.held[rseq] for rseq in each.rseqs if rseq in came.held]
                found.append(Found(each.key, each.digest, rules.unit(held) if held else None))
            else:
                self._rests[each.key] = self._shell.clock.monotonic() + _AGAIN_S
        if not found:
            return 0
        count: int = await self._in_writer(partial(self._topics.place, tenant, came.model, found))
        metrics.topics_placed.inc(count)
        return count


class Topicker:
    """Makes topics that changed, one by one, and groups again what changed enough."""

    def __init__(
        self, shell: Shell, topics: Topics, group: Group, in_writer: Work, in_background: Work, every_s: float
    ) -> None:
        self._shell = shell
        self._topics = topics
        self._group = group
        self._in_writer = in_writer
        self._in_background = in_background
        self._every_s = every_s
        self._rests: dict[str, float] = {}

    async def make(self) -> None:
        """Make topics for ever."""
        clock = self._shell.clock
        while True:
            wanted = self._topics.next()
            if wanted is None:
                await asyncio.sleep(_LOOK_S)
                continue
            began = clock.monotonic()
            await self._in_writer(partial(self._topics.make, wanted[0]))
            if not wanted[1]:
                await asyncio.sleep((clock.monotonic() - began) * (_SHARE - 1))

    async def group(self) -> None:
        """Group for ever."""
        clock = self._shell.clock
        while True:
            due = [tenant for tenant in self._topics.due() if self._rests.get(tenant, 0.0) <= clock.monotonic()]
            for tenant in due:
                began = clock.monotonic()
                try:
                    await self._again(tenant)
                except Retryable as error:
                    self._shell.health.failed(error)
                    self._shell.log.warning("topics were not grouped", error=str(error))
                took_s = clock.monotonic() - began
                self._rests[tenant] = clock.monotonic() + max(self._every_s, _RESTS * took_s)
            if not due:
                await asyncio.sleep(_LOOK_S)

    async def _again(self, tenant: str) -> None:
        snapshot = await self._in_background(partial(self._topics.snapshot, tenant))
        groups = await self._groups(snapshot)
        plan = await asyncio.to_thread(rules.regroup, snapshot.members, snapshot.vectors, groups)
        moved = list(moves(snapshot, plan))
        for start in range(0, len(moved), _MOVED_AT_ONCE):
            await self._in_writer(partial(self._topics.move, tenant, moved[start : start + _MOVED_AT_ONCE]))
        await self._in_writer(partial(self._topics.grouped, tenant, snapshot.tally, plan))
        metrics.topics_grouped.inc()

    async def _groups(self, snapshot: Snapshot) -> list[int]:
        """Groups of the segments, or of `GROUPED_MAX` of them that lie evenly over all time."""
        count = len(snapshot.keys)
        if count < rules.GROUPED_LEAST:
            return [-1] * count
        looked_at = np.unique(np.linspace(0, count - 1, min(count, GROUPED_MAX)).astype(np.int64))
        groups = np.full(count, -1, np.int64)
        groups[looked_at] = await self._group(snapshot.vectors[looked_at])
        return [int(number) for number in groups]


def moves(snapshot: Snapshot, plan: rules.Regrouped) -> Iterator[tuple[bytes, str, str]]:
    """Who is to be moved: the node's key, the topic that it was in, the one that it is in now."""
    for key, member, topic in zip(snapshot.keys, snapshot.members, plan.topics, strict=True):
        if member.topic != topic:
            yield key, member.topic, topic
