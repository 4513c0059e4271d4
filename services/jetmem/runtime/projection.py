"""The one loop of every projection: live while the numbers are contiguous, `scan` over any gap.

Start, crash, gap, lost stream, rebuild and new shard are all the same rule. What a projection must do is in
`Target`; how it hears and asks is in `Wire`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from jetmem.runtime import limits, metrics, tracing
from jetmem.runtime.errors import RequestFailed, Retryable, invariant
from jetmem.runtime.health import Health
from jetmem.runtime.logs import logger
from jetmem.runtime.outcomes import Outcome, outcome
from jetmem_schemas.internal import Entry, Facts, Head, Heads, ScanReply, ScanRequest, decode_entry


class Target(Protocol):
    """A projection: takes entries in order, keeps its position in the same write as their data."""

    def position(self, part: int) -> Head:
        """Last entry that is durably applied; (0, 0) if none."""

    async def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply entries that follow what was applied before, without a gap. Applying again changes nothing.

        Raises:
            Retryable: Later; the same entries come again.
        """

    async def reset(self, part: int) -> None:
        """Forget everything of a partition: the log is another one."""

    def heard(self, part: int, head: Head, checkpoint: int) -> None:
        """Persist says where a partition ends and what of MEMORY it covers."""


class Wire(Protocol):
    """How a projection hears facts and asks for what it missed."""

    async def fetch(self, *, wait: bool) -> list[Facts | Heads]:
        """What was announced since, in order; with `wait` up to a heartbeat's time.

        Raises:
            Retryable: The stream is not there.
        """

    async def scan(self, part: int, request: ScanRequest) -> ScanReply:
        """A slice of the log.

        Raises:
            RequestFailed: persist does not answer.
        """


class Projection:
    """Feeds a `Target`. One `run` at a time.

    Attributes:
        taken: Per partition, the last entry handed to the target.
    """

    def __init__(self, stage: str, parts: Iterable[int], target: Target, wire: Wire, health: Health) -> None:
        self.stage = stage
        self.parts = tuple(parts)
        self.taken: dict[int, Head] = {}
        self._target = target
        self._wire = wire
        self._health = health
        self._heads: dict[int, Head] = {}
        self._behind: deque[int] = deque()
        self._catching_up: set[int] = set(self.parts)
        self._wait_s = limits.RETRY_FIRST_S
        self._deaf = False
        self._traces: dict[int, list[str]] = {}

    async def run(self) -> None:
        """Listen, then check every partition once by `scan`, then go on for ever."""
        self.taken = {part: self._target.position(part) for part in self.parts}
        await self._hear(wait=False)  # listening begins before the first scan, so nothing falls between
        self._behind = deque(self.parts)
        while True:
            await self._hear(wait=not self._behind)
            if self._behind:
                await self._scan_next()
            if self._stuck():
                self._health.behind(max(1, self.lag()))
            else:
                self._health.progressed(self.lag())

    def lag(self) -> int:
        """Entries that persist has and the target was not handed yet."""
        return sum(max(0, head.rseq - self.taken[part].rseq) for part, head in self._heads.items())

    def catching_up(self, part: int) -> bool:
        """Whether there is known to be more than one scan's worth that the target lacks, or nothing is known yet."""
        return part in self._catching_up

    def _stuck(self) -> bool:
        return self._deaf or self._wait_s > limits.RETRY_FIRST_S

    def _fall_behind(self, part: int) -> None:
        if part not in self._behind:
            self._behind.append(part)

    async def _hear(self, *, wait: bool) -> None:
        try:
            heard = await self._wire.fetch(wait=wait)
            self._deaf = False
        except Retryable as error:
            self._deaf = True
            self._health.failed(error)
            await asyncio.sleep(limits.RETRY_FIRST_S)
            return
        runs: dict[int, list[Entry]] = {}
        for message in heard:
            if isinstance(message, Heads):
                await self._flush(runs)
                self._compare(message)
            elif message.partition in self.taken:
                self._gather(message, runs)
        await self._flush(runs)

    def _gather(self, facts: Facts, runs: dict[int, list[Entry]]) -> None:
        """Add what follows without a gap to this round's runs; anything else makes the partition scan."""
        part = facts.partition
        if part in self._behind:
            return
        run = runs.get(part)
        at = Head(run[-1].rseq, run[-1].seq) if run else self.taken[part]
        last = facts.first + len(facts.entries) - 1
        if last <= at.rseq:
            return
        known = at.rseq - facts.first + 1
        if known < 0 or (known == 0 and facts.before_seq != at.seq):
            self._fall_behind(part)
            return
        entries = [decode_entry(raw) for raw in facts.entries[max(known - 1, 0) :]]
        if known > 0 and entries.pop(0).seq != at.seq:
            self._fall_behind(part)
            return
        runs.setdefault(part, []).extend(entries)
        if facts.traces:
            self._traces.setdefault(part, []).extend(facts.traces)

    async def _flush(self, runs: dict[int, list[Entry]]) -> None:
        for part, entries in runs.items():
            with tracing.writing(f"{self.stage} apply", self._traces.pop(part, ())):
                await self._apply(part, entries)
        runs.clear()

    async def _apply(self, part: int, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        follows = all(entry.rseq == number for number, entry in enumerate(entries, self.taken[part].rseq + 1))
        invariant(follows, f"entries of partition {part} follow {self.taken[part].rseq} without a gap")
        metrics.received.labels(self.stage).inc(len(entries))
        metrics.batch_size.labels(self.stage).observe(len(entries))
        wait_s = limits.RETRY_FIRST_S
        while True:
            self._health.behind(max(self.lag(), len(entries)))  # said first: it may hang, or fail for ever
            try:
                await self._target.apply(part, entries)
                break
            except Exception as error:
                if outcome(error) is not Outcome.RETRY:
                    raise
                self._health.failed(error)
                metrics.retried.labels(self.stage).inc()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, limits.RETRY_LAST_S)
        self.taken[part] = Head(entries[-1].rseq, entries[-1].seq)
        self._health.reached(entries[-1].at)
        self._health.progressed(self.lag())

    def _compare(self, said: Heads) -> None:
        """Everything announced before the heads was heard before them, so a difference is a loss, or another log.

        Each shard of persist names the partitions that it has, those without an entry too.
        """
        for part, head in said.heads.items():
            if part not in self.taken:
                continue
            taken = self.taken[part]
            self._heads[part] = head
            if head != taken:
                self._fall_behind(part)
            else:
                self._target.heard(part, head, said.checkpoint)

    async def _scan_next(self) -> None:
        """One slice of one partition; it goes to the end of the row while there is more."""
        part = self._behind[0]
        taken = self.taken[part]
        try:
            reply = await self._wire.scan(part, ScanRequest(taken.rseq, taken.seq))
        except RequestFailed as error:
            self._health.failed(error)
            self._behind.rotate(-1)  # another shard of persist may be there
            await asyncio.sleep(self._wait_s)
            self._wait_s = min(self._wait_s * 2, limits.HEADS_EVERY_S)
            return
        self._wait_s = limits.RETRY_FIRST_S
        self._heads[part] = reply.head
        if reply.mismatch:
            await self._restart(part)
        entries = [decode_entry(raw) for raw in reply.entries]
        metrics.scanned.labels(self.stage).inc(len(entries))
        await self._apply(part, entries)
        self._behind.popleft()
        if self.taken[part].rseq < reply.head.rseq or reply.mismatch:
            self._behind.append(part)
            self._catching_up.add(part)
        else:
            self._catching_up.discard(part)
            self._target.heard(part, reply.head, reply.checkpoint)

    async def _restart(self, part: int) -> None:
        """The log is another than the one we followed (persist was restored): begin again from nothing."""
        logger().warning("the record is another one, rebuilding", partition=part, at=self.taken[part].rseq)
        metrics.resets.labels(self.stage).inc()
        await self._target.reset(part)
        self.taken[part] = Head()
