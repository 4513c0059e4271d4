"""Asks embed for what a stage lacks vectors for: seconds of work at a time, tenants in turn, again after a deadline.

What a stage lacks, and where arrived vectors go, is a `Lacks`; the stage's name is in the subjects and metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import nats.errors
import nats.js.errors

from jetmem.adapters.nats_connect import NOT_FOUND, ApiError, api
from jetmem.adapters.nats_shell import Endpoint
from jetmem.adapters.nats_streams import ensure
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.runtime import limits, metrics
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects
from jetmem_schemas.internal import EmbedJob, EmbedText, Stored, VectorsReady

_encode = msgspec.msgpack.Encoder().encode
#: Deadlines are looked at this often.
_LOOK_S: Final = 1.0
#: Places looked at for one job: those out already are passed over.
_LOOKED_AT_MAX: Final = 2 * limits.JOBS_TEXTS_OUT
#: How the server refuses what a stream has no room for; all have one error code with other refusals.
_FULL: Final = ("maximum bytes exceeded", "maximum messages exceeded", "maximum messages per subject exceeded")


class Lacks(Protocol):
    """What a stage lacks vectors for.

    A key names a text and is the same for equal texts; a place is where one stands. Places are in order, so that
    asking goes on where it ended. Who keeps kinds of texts apart gives a `subjects.space` for a tenant: each has its
    turn like a tenant, so that none waits for another.
    """

    @property
    def pending(self) -> Mapping[str, int]:
        """How many places of each tenant lack their vector; tenants without any are absent. From memory."""

    def lacking(self, tenant: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(place, key) of what lacks its vector, in order, from a place on. Runs on the read pool."""

    def text_at(self, tenant: str, place: bytes, key: bytes) -> str | None:
        """The text at a place; None if it is gone, or another by now. Runs on the read pool."""

    def store(self, ready: VectorsReady) -> int | None:
        """Store what came; for how many places, None if it is not wanted now. Runs on the writer thread."""


class _Job(NamedTuple):
    """Texts to ask for, and where the next job of this tenant begins."""

    texts: list[EmbedText]
    next: bytes


class Asker:
    """Keeps a bounded number of jobs in EMBED. What was lost there is asked for again. Event loop only."""

    def __init__(self, process: ProjectionProcess, lacks: Lacks) -> None:
        self._process = process
        self._shell = process.shell
        self._lacks = lacks
        #: Per tenant and key: when it is overdue, and the number of its job.
        self._out: dict[str, dict[bytes, tuple[float, int]]] = {}
        self._left: Counter[int] = Counter()  # texts of each job that are out
        self._texts_out = 0
        self._next: dict[str, bytes] = {}
        self._turn: deque[str] = deque()
        self._jobs = 0
        self._reconnects = 0
        self._look_at = 0.0
        self._delay_s = 0.0

    @property
    def jobs_out(self) -> int:
        """Jobs of which not everything came."""
        return len(self._left)

    def wire(self) -> dict[str, Endpoint]:
        """Add the loop to the shell; returns the endpoint where embed brings vectors."""
        self._shell.on_start(self._prepare)
        self._shell.loop("asker", self.run)
        return {"vectors": Endpoint(VectorsReady, self._came)}

    async def run(self) -> None:
        """Ask for ever: when something moved, and at least each second."""
        while True:
            moved = self._process.moved
            delay_s = await self.step()
            if delay_s:
                await asyncio.sleep(delay_s)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await moved.wait()

    async def step(self) -> float:
        """Ask again for what is overdue, and for more; how long to wait before the next step, 0 if all went well."""
        try:
            await self._expire()
            await self._fill()
        except (nats.js.errors.NoStreamResponseError, nats.js.errors.NotFoundError) as error:
            return await self._lost(error)
        except ApiError as error:
            return await self._lost(error) if error.code == NOT_FOUND else self._later(error)
        except (nats.errors.Error, Retryable, TimeoutError, OSError) as error:
            return self._later(None if is_full(error) else error)
        self._delay_s = 0.0
        return 0.0

    async def _prepare(self) -> None:
        await ensure(self._shell.nc, subjects.EMBED, self._shell.common)

    async def _came(self, part: int, ready: VectorsReady) -> Stored:
        stored = await self._process.in_writer(partial(self._lacks.store, ready))
        if stored is None:
            return Stored(0)  # asked again after its deadline
        for vector in ready.vectors:
            self._back(ready.tenant, vector.key)
        self._process.pulse()
        return Stored(stored)

    def _back(self, tenant: str, key: bytes) -> None:
        """A text is no longer out."""
        held = self._out.get(tenant, {})
        if key not in held:
            return
        _, job = held.pop(key)
        self._texts_out -= 1
        self._left[job] -= 1
        if not self._left[job]:
            del self._left[job]
        if not held:
            del self._out[tenant]

    def _all_back(self) -> None:
        self._out.clear()
        self._left.clear()
        self._next.clear()
        self._texts_out = 0

    async def _expire(self) -> None:
        """Ask again for what is overdue, unless it is still in the queue."""
        now = self._shell.clock.monotonic()
        reconnects = self._shell.nc.stats["reconnects"]
        if reconnects != self._reconnects:  # EMBED is gone after a broker restart
            self._reconnects = reconnects
            self._all_back()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        overdue = [(t, key) for t, held in self._out.items() for key, (deadline, _) in held.items() if deadline < now]
        if not overdue:
            return
        if await self._queued() >= self.jobs_out:
            for tenant, key in overdue:  # nothing is lost, embed is slow or away
                held = self._out.get(tenant, {})
                if key in held:
                    held[key] = (now + limits.JOB_DEADLINE_S, held[key][1])
            return
        for tenant, key in overdue:
            self._back(tenant, key)
            self._next.pop(tenant, None)

    async def _queued(self) -> int:
        """Jobs of ours in EMBED that were not acknowledged."""
        subject = subjects.embed_job(self._shell.stage)
        request = {"subjects_filter": subject}
        info: dict[str, Any] = await api(
            self._shell.nc, subjects.raw_stream_api("STREAM.INFO", subjects.EMBED), request
        )
        return int((info["state"].get("subjects") or {}).get(subject, 0))

    async def _lost(self, error: Exception) -> float:
        """EMBED is gone, and all that was in it: make it again, begin again."""
        self._all_back()
        delay_s = self._later(error)
        try:
            await self._prepare()
        except Retryable as again:
            self._shell.health.failed(again)
        return delay_s

    def _later(self, error: Exception | None) -> float:
        """What is out stays out: it is in the queue, or overdue in time. That the queue is full is no error."""
        if error is not None:
            self._shell.health.failed(error)
        metrics.retried.labels(self._shell.stage).inc()
        self._delay_s = min(max(2 * self._delay_s, limits.RETRY_FIRST_S), limits.RETRY_LAST_S)
        return self._delay_s

    async def _fill(self) -> None:
        """One job of each tenant in turn, until enough is out or nothing more is pending.

        A tenant with nothing out may ask whatever texts others have out, as long as there is room for a job at all.
        """
        pending = self._lacks.pending
        known = set(self._turn)
        self._turn.extend(name for name in tuple(pending) if name not in known)
        idle = 0
        while idle < len(self._turn) and self.jobs_out < limits.JOBS_OUT_MAX:
            tenant = self._turn.popleft()
            if tenant not in self._lacks.pending:
                self._next.pop(tenant, None)
                continue
            self._turn.append(tenant)
            idle = 0 if await self._ask_for(tenant) else idle + 1

    async def _ask_for(self, tenant: str) -> bool:
        """Publish one job of a tenant, if there is anything to ask for and room for it."""
        out = self._out.get(tenant, {})
        if out and (self._texts_out >= limits.JOBS_TEXTS_OUT or len(out) >= self._lacks.pending.get(tenant, 0)):
            return False
        job = await self._process.in_reader(
            partial(choose, self._lacks, tenant, self._next.get(tenant, b""), frozenset(out))
        )
        if not job.texts:
            if tenant in self._out:
                self._next[tenant] = job.next
            else:
                self._next.pop(tenant, None)  # pending, not out, and not behind where we were: from the beginning
            return False
        await self._publish(tenant, job)
        return True

    async def _publish(self, tenant: str, job: _Job) -> None:
        """Put a job into the queue. Without an answer it counts as out; a refusal takes it back."""
        deadline = self._shell.clock.monotonic() + limits.JOB_DEADLINE_S
        self._jobs += 1
        self._out.setdefault(tenant, {}).update({text.key: (deadline, self._jobs) for text in job.texts})
        self._left[self._jobs] = len(job.texts)
        self._texts_out += len(job.texts)
        stage = self._shell.stage
        reply = subjects.service(stage, subjects.partition_of(subjects.owner(tenant)), "vectors")
        body = _encode(EmbedJob(tenant, reply, job.texts))
        try:
            await self._shell.nc.jetstream().publish(subjects.embed_job(stage), body, timeout=5)
        except TimeoutError:  # it may be stored: out until it comes or is overdue
            raise
        except nats.errors.Error:
            for text in job.texts:
                self._back(tenant, text.key)
            raise
        self._next[tenant] = job.next
        metrics.emitted.labels(stage).inc()


def is_full(error: BaseException) -> bool:
    """Whether the stream has no room: what is in it is being worked on, so waiting helps."""
    return isinstance(error, nats.js.errors.APIError) and any(said in (error.description or "") for said in _FULL)


def choose(lacks: Lacks, tenant: str, start: bytes, out: frozenset[bytes]) -> _Job:
    """The next texts of a tenant from a place on, each once.

    Args:
        lacks: What the stage lacks.
        tenant: Whose.
        start: Where the last job ended.
        out: Keys that were out before the store is looked at: what came meanwhile no longer lacks its vector there.
    """
    texts: dict[bytes, EmbedText] = {}
    size, after = 0, start
    for looked_at, (place, key) in enumerate(lacks.lacking(tenant, start)):
        if len(texts) >= limits.JOB_TEXTS or size > limits.JOB_BYTES_MAX or looked_at >= _LOOKED_AT_MAX:
            break
        after = place + b"\0"  # behind this place
        if key in texts or key in out:
            continue
        text = lacks.text_at(tenant, place, key)
        if text is not None:
            texts[key] = EmbedText(key, text)
            size += len(text.encode())
    return _Job(list(texts.values()), after)
