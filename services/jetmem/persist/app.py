"""Build and wire persist."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.js.errors import NoStreamResponseError

from jetmem.adapters.layouts import Layout
from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_reader import Delivered, OrderedReader
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.nats_streams import ensure, stream_info
from jetmem.persist import answers
from jetmem.persist.expire import Expire
from jetmem.persist.giving import Giver
from jetmem.persist.handler import Applied, Recorder
from jetmem.persist.letters import Letters
from jetmem.persist.moving import Mover
from jetmem.persist.neighbours import Neighbours
from jetmem.persist.outbox import Outbox
from jetmem.persist.places import Places
from jetmem.persist.purge import Purge
from jetmem.persist.record import FAMILIES, FORMAT, Record
from jetmem.persist.settings import PersistSettings
from jetmem.persist.shares import Shares
from jetmem.persist.source import Source
from jetmem.persist.trim import Trim, TrimRequest
from jetmem.runtime import freshness, limits, metrics, tracing
from jetmem.runtime.clock import Clock
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem.runtime.settings import Common
from jetmem.runtime.store import Store
from jetmem_schemas import subjects
from jetmem_schemas.errors import DEAD_CODES
from jetmem_schemas.internal import (
    ActivityRequest,
    CoverReply,
    CoverRequest,
    DropLetter,
    Facts,
    FetchRequest,
    Head,
    Heads,
    NodesRequest,
    ScanRequest,
    StageStatus,
    TimelineRequest,
    decode_entry,
    encode,
)
from jetmem_schemas.owning import CopyRequest, ReleaseRequest, SafeRequest

T = TypeVar("T")
_READER = "all"
#: A step converts: the record is made anew from nothing.
LAYOUT: Final = Layout(stage="persist", families=FAMILIES, format=FORMAT, below="")


def build(
    common: Common,
    settings: PersistSettings,
    *,
    store: Store | None = None,
    clock: Clock | None = None,
    broker: Any = None,
) -> Shell:
    """Build the process; nothing is connected before `run`, the store is opened at once.

    Raises:
        Broken: The store is in use, damaged or of another format.
    """
    shell = Shell("persist", common, clock=clock, broker=broker)
    held = store or LAYOUT.open(Path(common.data))
    persist = Persist(shell, settings, held)
    persist.wire()
    return shell


class Persist:
    """The running stage: one reader, one writer thread, a pool for questions."""

    def __init__(self, shell: Shell, settings: PersistSettings, store: Store) -> None:
        self.shell = shell
        self.settings = settings
        self.record = Record(store)
        self.recorder = Recorder(self.record, _READER)
        self.shares = Shares(self.recorder)
        self.between = asyncio.Lock()  # held while a batch of MEMORY is recorded
        self.writer = ThreadPoolExecutor(1, "writer")
        self.readers = ThreadPoolExecutor(settings.read_threads, "reader")
        work = (self.in_writer, self.in_reader)
        self.places = Places(shell)
        self.mover = Mover(
            shell,
            self.shares,
            self.between,
            self.in_writer,
            self.places,
            self,
            accept_gap=settings.accept_gap,
        )
        self.source = Source(shell, settings, self.recorder, self.in_writer, lambda: bool(self.shares.owned))
        self.outbox = Outbox(shell, store, *work)
        others = Neighbours(shell, self.shares, self.mover)
        self.trim = Trim(shell, settings, self.recorder, self.in_writer, others)
        self.purge = Purge(shell, settings, self.recorder, *work, self.outbox, self.shares.keeps, self.mover.shares)
        keeps, store_id, expire_s = self.shares.keeps, self.shares.store_id, settings.expire_every_s
        self.expire = Expire(shell, expire_s, self.recorder, *work, keeps, self.reached, store_id)
        self.giver = Giver(shell, self.shares, self.mover, self.between, self.outbox, *work)
        self.letters = Letters(shell, store, self.in_writer, self.outbox.settled, self.shares.keeps)
        self._moved = asyncio.Event()
        # heads tell what was announced, not what is stored: a reader that heard all must not look behind
        self._announced = self._heads()

    def wire(self) -> None:
        """Add loops and endpoints to the shell."""
        shell = self.shell
        for code in DEAD_CODES:  # the first of a code is a rise from 0, not a series that begins at 1
            metrics.dead_letters.labels(code)
        shell.on_start(self._prepare)
        shell.loop("reader", self._read)
        shell.loop("outbox", self.outbox.run)
        shell.loop("heads", self._announce_heads)
        shell.loop("dead letters", self._count_dead_letters)
        shell.loop("trim", self.trim.run)
        shell.loop("purge", self.purge.run)
        if self.settings.expire_every_s:
            shell.loop("expire", self.expire.run)
        shell.loop("partitions", self.mover.run)
        shell.loop("given away", self.mover.leave)
        shell.on_stop(self._close)
        table = {
            "scan": Endpoint(ScanRequest, self._scan),
            "cover": Endpoint(CoverRequest, self._cover),
            "fetch": Endpoint(FetchRequest, self._fetch),
            "timeline": Endpoint(TimelineRequest, self._timeline),
            "sessions": Endpoint(ActivityRequest, self._sessions),
            "agents": Endpoint(ActivityRequest, self._agents),
            "nodes": Endpoint(NodesRequest, self._nodes),
            "forgotten": Endpoint(dict[str, Any], self.purge.forgotten),
            "status": Endpoint(dict[str, Any], self._status),
            "drop_letter": Endpoint(DropLetter, self.letters.drop),
            "trim": Endpoint(TrimRequest, self.trim.answer),
        }
        moving = {
            "copy": Endpoint(CopyRequest, self.giver.copy),
            "release": Endpoint(ReleaseRequest, self.giver.release),
            "safe": Endpoint(SafeRequest, self.giver.safe),
        }
        self.places.table = {verb: self._of_ours(endpoint) for verb, endpoint in table.items()} | moving

    def _of_ours(self, endpoint: Endpoint) -> Endpoint:
        """Refuse what is asked of a partition that is another's, or on its way."""

        async def answer(part: int, request: Any) -> Any:
            if part >= 0 and (part not in self.shares.owned or part in self.shares.closed):
                raise RequestFailed("unavailable", f"partition {part} is not at this process")
            return await endpoint.answer(part, request)

        return Endpoint(endpoint.request, answer)

    async def in_writer(self, work: Callable[[], T]) -> T:
        """Run on the one thread that writes."""
        return await asyncio.get_running_loop().run_in_executor(self.writer, work)

    async def in_reader(self, work: Callable[[], T]) -> T:
        """Run on the pool that reads."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, work)

    async def _prepare(self) -> None:
        if self.recorder.synced.created and not self.settings.accept_gap:
            await self.source.verify()  # before a lost MEMORY is made anew and takes messages as if all were well
        for stream in (subjects.MEMORY, subjects.RECORD, subjects.DEAD):
            await ensure(self.shell.nc, stream, self.shell.common)
        await self.mover.claim()
        await self.source.verify()
        self._announced = self._heads()
        stay = all(map(self.mover.me.wants, self.shares.owned))
        self.places.wire(self.shares.owned, stay=stay)

    def changed(self) -> None:
        """Other partitions ride than before; what one read on its way here may have made letters."""
        self._announced = self._heads()
        self.outbox.wake()

    async def reached(self, seq: int, wait_s: float) -> bool:
        """Whether MEMORY is read up to there, within so long."""
        return await self._within(lambda: self.recorder.synced.seq >= seq, wait_s)

    async def _within(self, condition: Callable[[], bool], wait_s: float) -> bool:
        """Whether something holds, looked at after each write."""
        deadline = self.shell.clock.monotonic() + wait_s
        while not condition():
            left = deadline - self.shell.clock.monotonic()
            if left <= 0:
                return False
            moved = self._moved
            try:
                async with asyncio.timeout(min(left, 0.25)):
                    await moved.wait()
            except TimeoutError:
                continue
        return True

    async def _read(self) -> None:
        """The spine: read in order, write once, announce. Never skips ahead.

        When the broker fails it reads again from the checkpoint. A batch that cannot be recorded ends the stage:
        whoever supervises starts it again, and the same batch is read.
        """
        reader = OrderedReader(self.shell.nc, subjects.MEMORY, self.recorder.synced.seq, verify=self.source.verify)
        health = self.shell.health
        while True:
            try:
                messages = await reader.fetch()
                if _jumps(messages, self.recorder.synced.seq):
                    await self.source.verify()
            except Retryable as error:
                health.failed(error)
                health.behind(max(health.lag, 1))
                reader.rewind(self.recorder.synced.seq)
                await asyncio.sleep(limits.RETRY_FIRST_S)
                continue
            if messages:
                async with self.between:
                    await self._apply(messages)
            if messages or reader.alive:
                self._tell_health(messages)

    def _tell_health(self, messages: list[Delivered]) -> None:
        """Letters that DEAD does not take wait too; were they not counted, a quiet MEMORY would look like health."""
        stuck = self.outbox.stuck
        if messages or not stuck:
            self.shell.health.progressed((messages[-1].pending if messages else 0) + stuck)
        else:
            self.shell.health.behind(stuck)

    async def _apply(self, messages: list[Delivered]) -> None:
        ours = self.recorder.ours(messages)  # what every shard reads is counted by one
        traces = _traces(ours)
        with tracing.writing("persist write", traces.values()):
            await self._record(messages, ours, traces)

    async def _record(self, messages: list[Delivered], ours: list[Delivered], traces: dict[int, str]) -> None:
        metrics.received.labels("persist").inc(len(ours))
        metrics.batch_size.labels("persist").observe(len(messages))
        waiting = len(messages) + messages[-1].pending
        self.shell.health.behind(waiting)  # said first: the write may hang
        steps = self.recorder.steps(messages)  # a large forget is many writes, and others have work for the writer
        while True:
            began = self.shell.clock.monotonic()
            applied = await self.in_writer(lambda: next(steps, None))
            if applied is None:
                freshness.observe("record", (each.at for each in ours), self.shell.clock.now_ms())
                self.shell.health.reached(messages[-1].at)
                return
            metrics.write_seconds.labels("persist").observe(self.shell.clock.monotonic() - began)
            self.shell.health.progressed(waiting)
            await self._announce(applied, traces)
            self._moved.set()
            self._moved = asyncio.Event()
            if applied.outbox:
                self.outbox.wake()

    async def _announce(self, applied: Applied, traces: dict[int, str]) -> None:
        """Best effort: the heads tell who misses facts, and he scans them."""
        try:
            for facts in applied.facts:
                await self.shell.nc.publish(subjects.record(facts.partition), encode(_traced(facts, traces)))
                metrics.emitted.labels("persist").inc(len(facts.entries))
        except (nats.errors.Error, OSError) as error:
            self.shell.health.failed(error)
        self._announced = self._heads()
        crashpoint("persist:after-announce")

    def _heads(self) -> Heads:
        """Where the partitions end that are read here, those without an entry too; of others a reader hears others."""
        heads = self.recorder.heads
        return Heads(self.recorder.synced.seq, {part: heads.get(part, Head()) for part in self.shares.riding})

    async def _announce_heads(self) -> None:
        """Say each second, acknowledged, where every partition ends; make RECORD again if the broker lost it."""
        js = self.shell.nc.jetstream()
        while True:
            try:
                await js.publish(subjects.RECORD_HEADS, encode(self._announced), timeout=2)
            except (NoStreamResponseError, nats.errors.NoRespondersError):
                await self._remake_record()
            except (nats.errors.Error, TimeoutError, OSError) as error:
                self.shell.health.failed(error)
            await asyncio.sleep(limits.HEADS_EVERY_S)

    async def _remake_record(self) -> None:
        try:
            await ensure(self.shell.nc, subjects.RECORD, self.shell.common)
        except Retryable as error:
            self.shell.health.failed(error)

    async def _count_dead_letters(self) -> None:
        """Tell health how many wait in DEAD; while the broker is away the last count stands."""
        while True:
            with contextlib.suppress(ApiError, Retryable):
                info = await stream_info(self.shell.nc, subjects.DEAD)
                self.shell.health.counted(int(info["state"]["messages"]))
                _tell_room(info, await stream_info(self.shell.nc, subjects.MEMORY))
            await asyncio.sleep(limits.DEAD_COUNT_EVERY_S)

    async def _scan(self, part: int, request: ScanRequest) -> Any:
        at, head = self.shares.seq(part), self.shares.head(part)
        return await self.in_reader(lambda: answers.scan(self.record, part, request, head, at))

    async def _cover(self, part: int, request: CoverRequest) -> CoverReply:
        covered = await self._within(lambda: self.shares.seq(part) >= request.after, request.wait_ms / 1000)
        at = self.shares.seq(part)
        head = self.shares.head(part)
        if not request.after:
            return CoverReply(True, 0, head, at)
        rseq = await self.in_reader(lambda: self.record.covering(part, request.after)) if covered else 0
        return CoverReply(covered, rseq, head, at)

    async def _fetch(self, part: int, request: FetchRequest) -> Any:
        at = self.shares.seq(part)
        return await self.in_reader(lambda: answers.fetch(self.record, request, at))

    async def _timeline(self, part: int, request: TimelineRequest) -> Any:
        at = self.shares.seq(part)
        return await self.in_reader(lambda: answers.timeline(self.record, request, at))

    async def _sessions(self, part: int, request: ActivityRequest) -> Any:
        at = self.shares.seq(part)
        return await self.in_reader(lambda: answers.activity(self.record, request, at, agents=False))

    async def _agents(self, part: int, request: ActivityRequest) -> Any:
        at = self.shares.seq(part)
        return await self.in_reader(lambda: answers.activity(self.record, request, at, agents=True))

    async def _nodes(self, part: int, request: NodesRequest) -> Any:
        at = self.shares.seq(part)
        return await self.in_reader(lambda: answers.toc_nodes(self.record, request, at))

    async def _status(self, part: int, request: dict[str, Any]) -> StageStatus:
        at = self.shares.seq(part) if part >= 0 else self.recorder.synced.seq
        counts: dict[str, int | float | str] = {"record_seq": at}
        tenant = str(request.get("tenant", ""))
        if tenant:
            counts |= await self.in_reader(lambda: self.purge.counts(tenant))
        return self.shell.status(counts)

    def _close(self) -> None:
        self.writer.shutdown(wait=True)
        self.readers.shutdown(wait=True)
        self.record.store.close()


def _jumps(messages: list[Delivered], after: int) -> bool:
    """Whether sequences are missing: erased ones may be, but so may be a part that others trimmed."""
    return bool(messages) and messages[-1].seq - after != len(messages)


def _tell_room(*streams: dict[str, Any]) -> None:
    for info in streams:
        metrics.stream_bytes.labels(info["config"]["name"]).set(info["state"]["bytes"])
        metrics.stream_bytes_max.labels(info["config"]["name"]).set(info["config"]["max_bytes"])


def _traces(messages: list[Delivered]) -> dict[int, str]:
    """What of a trace messages carry, by their sequence. Headers are parsed only of those that have one."""
    mark = subjects.TRACE_HEADER.encode()
    found = {each.seq: each.headers.get(subjects.TRACE_HEADER, "") for each in messages if mark in each.header_bytes}
    return {seq: header for seq, header in found.items() if tracing.carried(header)}


def _traced(facts: Facts, traces: dict[int, str]) -> Facts:
    """With the traces of the messages that its entries came from."""
    if not traces:
        return facts
    mine = [traces[seq] for seq in (decode_entry(raw).seq for raw in facts.entries) if seq in traces]
    return msgspec.structs.replace(facts, traces=mine)
