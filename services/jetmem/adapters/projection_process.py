"""The process of a projection, written once: one writer thread, a pool for questions, one loop that reads the record.

What a stage adds is a `Projected`: how it applies entries and up to where each of its arms is. How it hears and what
it asks for is `runtime.projection`; how one stage differs from another is its own `app`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from jetmem.adapters.layouts import ask_rebuild
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.nats_wire import RecordWire
from jetmem.runtime import metrics
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.freshness import Freshness
from jetmem.runtime.projection import Projection
from jetmem_schemas import subjects
from jetmem_schemas.internal import AppliedReply, AppliedRequest, Counts, Entry, Head, StageStatus

T = TypeVar("T")
#: Entries applied before other work of the writer gets its turn: some 0.1 s.
_APPLY_ENTRIES: Final = 1_000
#: Who waits looks again after so long, should it have missed that something moved.
_LOOK_S: Final = 0.25
#: Many may wait, and live entries come by the millisecond: so long passes between two looks of all of them.
_REST_S: Final = 0.01
#: The reply to `rebuild` is out before the process ends.
_REBUILD_AFTER_S: Final = 0.2
#: Names, in a stage's folder, the partitions that its stores may hold anything of.
_HELD: Final = "partitions.json"


class Projected(Protocol):
    """What a projection is, beside its process. Its arms are the keys of `heads` and `passed`."""

    def position(self, part: int) -> Head:
        """Last entry that is durably applied, in every store; (0, 0) if none."""

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply entries that follow what was applied before, without a gap. Runs on the writer thread.

        Applying again changes nothing. An entry of a kind that is not known is passed over: it is of a newer persist.

        Raises:
            Retryable: Later; the same entries come again.
        """

    def reset(self, part: int) -> None:
        """Forget everything of a partition: the log is another one. Runs on the writer thread."""

    def heads(self, part: int, tenant: str) -> Mapping[str, Head]:
        """Up to where each arm answers for a tenant, nothing pending. From memory: asked often, on the event loop."""

    def passed(self, part: int) -> Mapping[str, Head]:
        """Up to where each arm has applied entries: what those erased is gone, what they brought may be pending."""

    def counts(self, tenant: str) -> Counts:
        """What `status` says of a tenant, or with "" of the process. Runs on the read pool."""

    def close(self) -> None:
        """Make durable what is not yet, and close the stores. The last work of the writer thread."""


class ProjectionProcess:
    """Runs a `Projected` in a shell. Build it, `wire` it, and `Shell.run` does the rest.

    Attributes:
        parts: The partitions that this process owns.
        moved: Set, and replaced, whenever an arm may have come further. Take it before looking, then wait for it.
    """

    def __init__(self, shell: Shell, target: Projected, folder: Path, *, read_threads: int) -> None:
        self.shell = shell
        self.parts: tuple[int, ...] = tuple(shell.partitions(subjects.PARTITIONS))
        self.moved = asyncio.Event()
        self._target = target
        self._folder = folder
        self._projection = Projection(shell.stage, self.parts, self, RecordWire(shell), shell.health)
        self._writer = ThreadPoolExecutor(1, "writer")
        self._readers = ThreadPoolExecutor(read_threads, "reader")
        self._background = ThreadPoolExecutor(1, "background")
        self._covered: dict[int, tuple[Head, int]] = {}
        self._freshness = Freshness(shell.clock, target.heads)
        self._resting = self._missed = False

    def wire(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Add the loop and the endpoints to the shell: `applied`, `status` and `rebuild`, and the stage's own."""
        shell = self.shell
        metrics.partitions.labels(shell.stage, shell.common.shard, "served").set(len(self.parts))
        shell.on_start(self._keep_own)
        shell.loop("projection", self._projection.run)
        shell.on_stop(self._close)
        table = {
            "applied": Endpoint(AppliedRequest, self._applied),
            "status": Endpoint(dict[str, Any], self._status),
            "rebuild": Endpoint(dict[str, Any], self._rebuild),
            **endpoints,
        }
        # an ordinal beyond the last owns nothing, and must not answer for who does
        every = len(self.parts) == subjects.PARTITIONS
        places: Iterable[int | str] = ("*",) if every else (*self.parts, "all")
        for place in places:
            shell.serve(subjects.service_all(shell.stage, place), table)

    async def _keep_own(self) -> None:
        """Drop what is another shard's since `--shards` changed; what is new here comes by `scan`, like all."""
        listed = self._folder / _HELD
        held = json.loads(listed.read_text()) if listed.exists() else range(subjects.PARTITIONS)
        others = sorted(set(held) - set(self.parts))
        for part in others:
            await self.in_writer(partial(self._target.reset, part))
        if others or not listed.exists() or not set(self.parts) <= set(held):
            self._folder.mkdir(parents=True, exist_ok=True)
            new = listed.with_suffix(".new")
            new.write_text(json.dumps(self.parts))
            new.replace(listed)

    async def in_writer(self, work: Callable[[], T]) -> T:
        """Run on the one thread that writes."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def in_reader(self, work: Callable[[], T]) -> T:
        """Run on the pool that answers questions."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def in_background(self, work: Callable[[], T]) -> T:
        """Read the store where no question waits for it; it is not closed before this has ended."""
        return await asyncio.get_running_loop().run_in_executor(self._background, work)

    def pulse(self) -> None:
        """An arm may have come further: whoever waits looks again, at once or after the rest of the last look."""
        if self._resting:
            self._missed = True
            return
        self._resting, self._missed = True, False
        self.moved.set()
        self.moved = asyncio.Event()
        self._freshness.look()
        asyncio.get_running_loop().call_later(_REST_S, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._missed:
            self.pulse()

    # --- what the projection loop asks of us (runtime.projection.Target)

    def position(self, part: int) -> Head:
        """Where reading resumes."""
        return self._target.position(part)

    async def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply on the writer thread, in slices, so that its other work comes between."""
        self._freshness.note(part, entries)
        for start in range(0, len(entries), _APPLY_ENTRIES):
            await self.in_writer(partial(self._target.apply, part, entries[start : start + _APPLY_ENTRIES]))
            self.pulse()

    async def reset(self, part: int) -> None:
        """The log is another one."""
        self._covered.pop(part, None)
        self._freshness.reset(part)
        await self.in_writer(partial(self._target.reset, part))

    def heard(self, part: int, head: Head, checkpoint: int) -> None:
        """Persist has nothing more for this partition up to MEMORY sequence `checkpoint`."""
        self._covered[part] = (head, checkpoint)

    # --- how far it is

    def part_of(self, tenant: str) -> int:
        """A tenant's partition.

        Raises:
            RequestFailed: `unavailable`; another shard owns it.
        """
        part = subjects.partition_of(tenant)
        if part not in self.parts:
            raise RequestFailed("unavailable", f"this process does not own partition {part}")
        return part

    def at(self, tenant: str) -> dict[str, Head]:
        """Up to where each arm answers for a tenant.

        Raises:
            RequestFailed: `unavailable`; another shard owns it.
        """
        part = self.part_of(tenant)
        return {arm: self._to_checkpoint(part, head) for arm, head in self._target.heads(part, tenant).items()}

    def catching_up(self, tenant: str) -> bool:
        """Whether much of what is recorded is not applied yet: after a rebuild, or a long time away.

        Raises:
            RequestFailed: `unavailable`; another shard owns it.
        """
        return self._projection.catching_up(self.part_of(tenant))

    async def wait(
        self, tenant: str, rseq: int, wait_ms: int, arms: Sequence[str] | None = None, *, erased: bool = False
    ) -> list[str]:
        """Wait until arms have an entry; returns those that have not.

        Args:
            tenant: Whose.
            rseq: The entry; 0 waits for nothing.
            wait_ms: At most so long.
            arms: Which; all if None.
            erased: They need only have passed it: what it erased is gone, what is pending is not it.
        """
        if not rseq:
            return []
        part = self.part_of(tenant)
        clock = self.shell.clock
        deadline = clock.monotonic() + wait_ms / 1000
        while True:
            moved = self.moved
            at = self._target.passed(part) if erased else self._target.heads(part, tenant)
            late = [arm for arm in (at if arms is None else arms) if at[arm].rseq < rseq]
            left = deadline - clock.monotonic()
            if not late or left <= 0:
                return late
            try:
                async with asyncio.timeout(min(left, _LOOK_S)):
                    await moved.wait()
            except TimeoutError:
                continue

    def _to_checkpoint(self, part: int, at: Head) -> Head:
        """At the end of the log, everything that persist has read of MEMORY is covered."""
        head, checkpoint = self._covered.get(part, (Head(), 0))
        return Head(at.rseq, max(at.seq, checkpoint)) if at.rseq >= head.rseq else at

    # --- endpoints

    async def _applied(self, part: int, request: AppliedRequest) -> AppliedReply:
        late = await self.wait(request.tenant, request.rseq, request.wait_ms, erased=True)
        return AppliedReply(self.at(request.tenant), late)

    async def _status(self, part: int, request: dict[str, Any]) -> StageStatus:
        tenant = str(request.get("tenant", ""))
        counts = await self.in_reader(partial(self._target.counts, tenant))
        if tenant:
            counts = counts | {f"{arm}_seq": head.seq for arm, head in self.at(tenant).items()}
        return self.shell.status(counts)

    async def _rebuild(self, part: int, request: dict[str, Any]) -> dict[str, Any]:
        """Begin again from an empty store: mark it and end; whoever supervises starts us again."""
        ask_rebuild(self._folder)
        asyncio.get_running_loop().call_later(_REBUILD_AFTER_S, self.shell.app.exit)
        return {"rebuilding": True}

    async def _close(self) -> None:
        for pool in (self._readers, self._background):
            pool.shutdown(wait=True, cancel_futures=True)  # nobody reads a store that is being closed
        try:
            await self.in_writer(self._target.close)
        finally:
            self._writer.shutdown(wait=True)
