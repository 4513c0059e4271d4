"""After `applied`, `purged`: no file keeps what was erased.

The MEMORY copies go by secure delete (their blocks are overwritten), matching dead letters too, then the store's
files are rewritten. Each forget's row says how far it is: under `unpurged` while there is work, then, without its
body, under `forgets` for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import Stored, ensure, erase, next_message, stream_info
from jetmem.domain import keys
from jetmem.persist.core import covers_dead
from jetmem.persist.handler import Recorder
from jetmem.persist.letters import Origin, origin_of
from jetmem.persist.moments import go_epoch_ms
from jetmem.persist.record import ForgetRow, forget_row
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects
from jetmem_schemas.events import Forget
from jetmem_schemas.internal import Activity, ForgetState
from jetmem_schemas.subjects import partition_of

_CHUNK = 200
_SEQ_BYTES = 8
_encode = msgspec.msgpack.Encoder().encode


class Purge:
    """Works off `purge` rows and unpurged forgets; everything it does can be done again."""

    def __init__(
        self,
        shell: Shell,
        settings: PersistSettings,
        recorder: Recorder,
        in_writer: Callable[[Callable[[], Any]], Awaitable[Any]],
        in_reader: Callable[[Callable[[], Any]], Awaitable[Any]],
        outbox_settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder
        self._store = recorder.record.store
        self._in_writer = in_writer
        self._in_reader = in_reader
        self._outbox_settled = outbox_settled

    async def run(self) -> None:
        """Purge for ever, some seconds after each forget, so that several share one rewriting."""
        while True:
            await asyncio.sleep(self._settings.purge_delay_s)
            try:
                await self.once()
            except (Retryable, ApiError) as error:
                self._shell.health.failed(error)

    async def once(self) -> int:
        """Erase every copy that is due; returns how many forgets became `purged`."""
        waiting = await self._in_reader(self._unpurged)
        await self._erase_copies()
        if not waiting:
            return 0
        await self._outbox_settled()
        await ensure(self._shell.nc, subjects.DEAD, self._shell.common)  # removed by hand, it would stop every purge
        for _, row in waiting:
            await self._erase_dead(row)
        await asyncio.to_thread(self._store.compact)
        await self._in_writer(lambda: self._mark(waiting))
        return len(waiting)

    async def forgotten(self, part: int, request: dict[str, Any]) -> ForgetState:
        """State of one forget: {"tenant", "seq"}."""
        tenant, seq = str(request["tenant"]), int(request["seq"])
        epoch = self._recorder.synced.epoch
        row = await self._in_reader(lambda: self._recorder.record.forget(tenant, epoch, seq))
        return ForgetState() if row is None else ForgetState(known=True, erased=row.erased, purged=row.purged)

    def counts(self, tenant: str) -> dict[str, int]:
        """What `status` says of one tenant: events, sessions, agents, forgets whose files are not rewritten yet.

        `forgot_seq` is the MEMORY sequence of the last forget, 0 for none: a projection that is behind it has yet to
        purge.
        """
        prefix = keys.tenant(partition_of(tenant), tenant)
        agents = [msgspec.msgpack.decode(raw, type=Activity) for _, raw in self._store.scan("agents", prefix)]
        last = self._recorder.record.last_forget(tenant)
        forgot_seq = 0
        if last is not None:
            # one of a stream before: whoever is anywhere on this one has passed it
            forgot_seq = last.seq if last.epoch == self._recorder.synced.epoch else 1
        return {
            "events": sum(a.events for a in agents),
            "sessions": sum(a.sessions for a in agents),
            "agents": len(agents),
            "purging": sum(1 for _ in self._store.scan("unpurged", prefix)),
            "forgot_seq": forgot_seq,
        }

    def _unpurged(self) -> list[tuple[bytes, ForgetRow]]:
        return [(key, forget_row(raw)) for key, raw in self._store.scan("unpurged", b"")]

    async def _erase_copies(self) -> None:
        while rows := await self._in_reader(self._due):
            first = (await stream_info(self._shell.nc, subjects.MEMORY))["state"]["first_seq"]
            there = [(seq, at) for seq, at in map(_message_of, rows) if seq >= first]
            synced = self._recorder.synced
            if {(synced.seq, synced.at), (synced.seq, None)} & set(there):
                await self._in_writer(partial(self._recorder.mark_erased, synced.seq))
            await asyncio.gather(*(self._erase(seq, at) for seq, at in there))
            await self._in_writer(partial(self._remove, rows))

    async def _erase(self, seq: int, at: int | None) -> None:
        """Erase one message of MEMORY, unless another one is there: a stream made anew counts from 1 again."""

        def is_it(found: Stored) -> bool:
            return at is None or go_epoch_ms(found.time) == at

        await erase(self._shell.nc, subjects.MEMORY, seq, only=is_it)

    def _due(self) -> list[bytes]:
        rows: list[bytes] = []
        for key, _ in self._store.scan("purge", b""):
            rows.append(key)
            if len(rows) == _CHUNK:
                break
        return rows

    def _remove(self, rows: list[bytes]) -> None:
        batch = self._store.batch()
        for key in rows:
            batch.delete("purge", key)
        self._store.write(batch, sync=True)

    def _mark(self, waiting: list[tuple[bytes, ForgetRow]]) -> None:
        batch = self._store.batch()
        for key, row in waiting:
            batch.delete("unpurged", key)
            batch.put("forgets", key, _encode(msgspec.structs.replace(row, body=b"", purged=True)))
        self._store.write(batch, sync=True)

    async def _erase_dead(self, row: ForgetRow) -> None:
        """Erase the dead letters that a forget covers, of its tenant, said before it, and their copies in MEMORY."""
        forget = msgspec.json.decode(row.body, type=Forget)
        seq = 1
        while found := await next_message(self._shell.nc, subjects.DEAD, seq, subjects.dead_filter(row.tenant)):
            origin = origin_of(found.headers)
            if _before(origin, row) and covers_dead(forget, origin.source, origin.id, found.data, origin.at):
                await self._erase(origin.seq, origin.at)
                await erase(self._shell.nc, subjects.DEAD, found.seq)
            seq = found.seq + 1


def _before(origin: Origin, row: ForgetRow) -> bool:
    """Whether a refused message was said before a forget; read again, after a loss, it has a later epoch."""
    if origin.epoch == row.epoch:
        return origin.seq < row.seq
    return origin.epoch < row.epoch or origin.at < row.at


def _message_of(key: bytes) -> tuple[int, int | None]:
    """Sequence and broker time of a `purge` row; rows of older stores have no time."""
    place = keys.from_u64(key[:_SEQ_BYTES])
    return place, keys.from_time(key[_SEQ_BYTES:]) if len(key) > _SEQ_BYTES else None
