"""Bringing vectors to who asked, and giving jobs back to the queue."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_work import Work, WorkQueue
from jetmem.embed import core
from jetmem.runtime import metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem_schemas.internal import EmbedJob, Stored, encode

#: Jobs on their way to askers at once, some 100 kB each: two windows, so that the encoder does not wait for a commit.
SENDING_MAX: Final = 16
#: An asker stores one job's vectors in milliseconds; its commit of a big batch may stand before them.
STORE_TIMEOUT_S: Final = 10.0
#: Askers remembered as away: one a partition and stage, and some more.
ASKERS_MAX: Final = 1_024


class Held(NamedTuple):
    """A job that was delivered and not answered for. `times`: deliveries, with those before it was split off."""

    work: Work
    job: EmbedJob
    times: int


class _Away(NamedTuple):
    failures: int
    until: float


class Replies:
    """Sends vectors in the background, bounded; a job is acknowledged only when its asker said `Stored`."""

    def __init__(self, shell: Shell, queue: WorkQueue, held: dict[str, Held]) -> None:
        self.acked = 0
        self._shell = shell
        self._queue = queue
        self._held = held
        self._slots = asyncio.Semaphore(SENDING_MAX)
        self._sending: set[asyncio.Task[None]] = set()
        self._away: OrderedDict[str, _Away] = OrderedDict()

    def away_s(self, job: EmbedJob) -> float:
        """For how long this job's asker is left alone; 0 if it may be asked."""
        away = self._away.get(job.reply)
        return max(0.0, away.until - self._shell.clock.monotonic()) if away else 0.0

    async def start(self, held: Held, model: str, results: Mapping[str, core.Result]) -> None:
        """Send one job's vectors; waits only for a free slot."""
        await self._slots.acquire()
        task = asyncio.create_task(self._send(held, model, results))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    async def idle(self) -> None:
        """Wait until nothing is being sent."""
        while self._sending:
            await asyncio.wait(set(self._sending))

    async def split(self, held: Held, jobs: list[EmbedJob]) -> None:
        """Replace a job by several: first they are stored, then it is acknowledged."""
        try:
            for each in jobs:
                await self._queue.publish(held.work.subject, encode(each))
        except Retryable as error:
            await self._later(held, error)
            return
        metrics.retried.labels("embed").inc(len(jobs))
        await self._done(held)

    async def put_back(self, held: Held, *, encoded: bool = False) -> None:
        """Let somebody else have it, without counting this delivery; if that fails, the broker redelivers it."""
        try:
            await self._queue.publish(held.work.subject, encode(core.copy_of(held.job, held.times, encoded=encoded)))
        except Retryable as error:
            await self._later(held, error)
            return
        await self._done(held)

    async def wait_for_asker(self, held: Held) -> None:
        """Have it delivered again when its asker may be back."""
        metrics.retried.labels("embed").inc()
        await self._queue.nak(held.work, max(self.away_s(held.job), core.AWAY_FIRST_S))
        self._held.pop(held.work.key, None)

    async def again(self, held: Held) -> None:
        """Have it delivered again soon, and this delivery counted."""
        await self._queue.nak(held.work, core.away_s(held.work.deliveries))
        self._held.pop(held.work.key, None)

    async def refuse(self, work: Work, reason: str) -> None:
        """Never deliver it again: it is no job."""
        self._shell.log.error("job refused", reason=reason, bytes=len(work.data))
        await self._queue.term(work, reason)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._shell.health.failed(error)
            self._shell.log.error("sending vectors failed", error=str(error), exc_info=error)

    async def _send(self, held: Held, model: str, results: Mapping[str, core.Result]) -> None:
        try:
            await self._ask(held, model, results)
        finally:
            self._held.pop(held.work.key, None)  # whatever happened: delivered again, it is new work

    async def _ask(self, held: Held, model: str, results: Mapping[str, core.Result]) -> None:
        try:
            for ready in core.replies(held.job, model, results):
                await self._shell.ask(held.job.reply, ready, Stored, STORE_TIMEOUT_S)
        except (RequestFailed, msgspec.DecodeError) as error:
            await self._not_stored(held, error)
            return
        self._away.pop(held.job.reply, None)
        metrics.emitted.labels("embed").inc(len(held.job.texts))
        crashpoint("embed:before-ack")
        await self._done(held)
        self.acked += 1

    async def _not_stored(self, held: Held, error: Exception) -> None:
        """Deliver it again later, so that waiting for an asker never looks like a text that kills the process."""
        before = self._away.pop(held.job.reply, _Away(0, 0.0))
        now = self._shell.clock.monotonic()
        # Jobs sent side by side fail together: that is one failure of the asker.
        failures = before.failures if before.until > now else before.failures + 1
        self._away[held.job.reply] = _Away(failures, max(before.until, now + core.away_s(failures)))
        while len(self._away) > ASKERS_MAX:
            self._away.popitem(last=False)
        self._shell.health.failed(error)
        self._shell.log.warning("vectors not stored", asker=held.job.reply, error=str(error), failures=failures)
        if held.times == 1:
            await self.wait_for_asker(held)
        else:
            await self.put_back(held, encoded=True)

    async def _later(self, held: Held, error: Exception) -> None:
        self._shell.health.failed(error)
        await self.again(held)

    async def _done(self, held: Held) -> None:
        await self._queue.ack(held.work)
        self._held.pop(held.work.key, None)
