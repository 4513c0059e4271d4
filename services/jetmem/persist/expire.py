"""What is past its `expires_at` is forgotten: an ordinary forget of its ids, published to MEMORY.

The row of an event that expires is written with it, and goes with it: it is the outbox row of this forget. So what a
kill, a loss or a move interrupts is found again by whoever has the partition then. Published, the forget is a message
like any: ordered with what it erases, the same in every replay (decision 0010).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec
import nats.errors
import nats.js.errors

from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import next_message, stream_info
from jetmem.persist import expiring
from jetmem.persist.handler import Recorder
from jetmem.persist.moments import go_epoch_ms
from jetmem.runtime import limits, metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Retryable
from jetmem.runtime.store import Work
from jetmem_schemas import subjects
from jetmem_schemas.events import Forget
from jetmem_schemas.internal import decode_entry

#: Entries looked through in one turn of the writer, some milliseconds, …
_LOOK_ENTRIES: Final = 1_000
#: … and bytes of them.
_LOOK_BYTES: Final = 2 * 1024 * 1024
_PUBLISH_S: Final = 5.0
#: One forget is read within it, whatever else is said meanwhile; else the next round goes on.
_REACH_S: Final = 30.0
_HASH_BYTES: Final = 16


class Due(NamedTuple):
    """Events of one tenant whose time is past, at most `limits.FORGET_IDS_MAX`.

    `stale` are rows of events that are gone already, forgotten by a version that knew no rows. `more` is where rows of
    this tenant go on that may be due, b"" if none is; `behind` where those of the next tenant begin.
    """

    tenant: str
    ids: list[str]
    stale: list[bytes]
    more: bytes
    behind: bytes


class Expire:
    """A timer. `keeps` says of a tenant whether its rows are ours to work off, `reached` waits until MEMORY is read."""

    def __init__(
        self,
        shell: Shell,
        every_s: float,
        recorder: Recorder,
        in_writer: Work,
        in_reader: Work,
        keeps: Callable[[str], bool],
        reached: Callable[[int, float], Awaitable[bool]],
        salt: str,
    ) -> None:
        self._shell = shell
        self._every_s = every_s
        self._recorder = recorder
        self._store = recorder.record.store
        self._in_writer = in_writer
        self._in_reader = in_reader
        self._keeps = keeps
        self._reached = reached
        self._salt = salt.encode()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.once()
            except (Retryable, ApiError) as error:
                self._shell.health.failed(error)

    async def once(self) -> int:
        """Forget all that is past its time now, tenants in turn; returns how many events.

        By the broker's clock, which every `ts` that nobody gave is of, and which is one for all shards. Only what is
        still there once all of MEMORY is read: a forget that is on its way is not published again.

        Raises:
            Retryable: The broker did not answer, or reading does not keep up; the rows are still there.
            ApiError: MEMORY cannot be asked.
        """
        while await self._in_writer(self._list_some):
            pass
        if next(self._store.scan("meta", expiring.EXPIRES), None) is None:
            return 0
        info = await stream_info(self._shell.nc, subjects.MEMORY)
        await self._all_read(info["state"]["last_seq"])
        now, count = go_epoch_ms(info["ts"]), 0
        again: deque[bytes] = deque()
        start = expiring.EXPIRES
        while (due := await self._in_reader(partial(self._due, start, now))) is not None:
            count += await self._forget(due)
            start = due.behind
            again.extend(filter(None, (due.more,)))
        while again:  # in turn: a tenant with a million keeps nobody from being rid of one
            due = await self._in_reader(partial(self._due_from, again.popleft(), now))
            count += await self._forget(due)
            again.extend(filter(None, (due.more,)))
        if count:
            self._shell.log.info("forgot what expired", events=count)
        return count

    async def _all_read(self, last: int) -> None:
        if await self._reached(last, _REACH_S):
            return
        # in a store that was put back from a copy, what came last may have been erased since: it never will be read
        if await next_message(self._shell.nc, subjects.MEMORY, self._recorder.synced.seq + 1) is not None:
            raise Retryable("what expires waits until MEMORY is read")

    async def _forget(self, due: Due) -> int:
        if due.stale:
            await self._in_writer(partial(self._drop, due))
        if not due.ids:
            return 0
        crashpoint("expire:before-publish")
        command = Forget(ids=due.ids, reason="expired", id=self._id(due))
        subject = subjects.memory(due.tenant, "forget", subjects.NONE, subjects.NONE)
        try:
            ack = await self._shell.nc.jetstream().publish(subject, msgspec.json.encode(command), timeout=_PUBLISH_S)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise Retryable(f"the broker did not store a forget of what expired: {error}") from error
        crashpoint("expire:after-publish")
        if not await self._reached(ack.seq, _REACH_S):
            raise Retryable("what expires waits until its forget is read")
        metrics.expired.inc(len(due.ids))
        return len(due.ids)

    def _id(self, due: Due) -> str:
        """The same for the same ids, so that what is stored twice is applied once, and nobody else's.

        Salted: who could tell it before would publish something else under it, and keep others' events.
        """
        said = "\0".join((due.tenant, *due.ids)).encode()
        return "expired:" + hashlib.blake2b(said, key=self._salt, digest_size=_HASH_BYTES).hexdigest()

    def _due(self, start: bytes, now: int) -> Due | None:
        """Of the first tenant from `start` on that has something due and is ours; None if there is none."""
        while (row := next(self._store.scan("meta", expiring.EXPIRES, start=start), None)) is not None:
            due = self._due_from(row[0], now)
            if due.ids or due.stale:
                return due
            start = due.behind
        return None

    def _due_from(self, start: bytes, now: int) -> Due:
        """Of the tenant of a row, from that row on."""
        prefix, tenant = expiring.tenant_of(start)
        rows: list[bytes] = []
        more = b""
        for key, _ in self._store.scan("meta", prefix, start=start) if self._keeps(tenant) else ():
            if expiring.due_of(key)[0] > now:
                break
            if len(rows) == limits.FORGET_IDS_MAX:
                more = key
                break
            rows.append(key)
        ids = [expiring.due_of(key)[1] for key in rows]
        known = self._recorder.record.id_rows(tenant, ids)
        there = [row is not None and not row.forgotten for row in known]
        return Due(
            tenant,
            [id_ for id_, held in zip(ids, there, strict=True) if held],
            [key for key, held in zip(rows, there, strict=True) if not held],
            more,
            prefix + b"\xff",
        )

    def _drop(self, due: Due) -> None:
        if self._keeps(due.tenant):
            batch = self._store.batch()
            for key in due.stale:
                batch.delete("meta", key)
            self._store.write(batch, sync=True)

    def _list_some(self) -> bool:
        """List what an older version recorded, some entries of one partition; false if nothing is left to look at."""
        for part in self._recorder.parts:
            head, after = self._recorder.heads.get(part), expiring.listed(self._store, part)
            if head is None or head.rseq <= after:
                continue
            batch, size, upto = self._store.batch(), 0, min(after + _LOOK_ENTRIES, head.rseq)
            for rseq, raw in self._recorder.record.entries(part, after):
                expiring.put(batch, decode_entry(raw))
                size += len(raw)
                if rseq == upto or size > _LOOK_BYTES:
                    upto = rseq
                    break
            expiring.note(batch, part, upto)
            self._store.write(batch, sync=False)  # what is lost is looked through again
            return True
        return False
