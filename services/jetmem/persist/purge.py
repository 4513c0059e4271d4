"""After `applied`, `purged`: no file keeps what was erased.

The MEMORY copies go by secure delete (their blocks are overwritten), matching dead letters too, then the store's
files are rewritten. Each forget's row says how far it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure, erase, next_message, stream_info
from jetmem.domain import keys
from jetmem.persist.core import covers_dead
from jetmem.persist.handler import Recorder
from jetmem.persist.record import ForgetRow
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects
from jetmem_schemas.events import Forget
from jetmem_schemas.internal import Activity
from jetmem_schemas.subjects import partition_of

_CHUNK = 200
_encode = msgspec.msgpack.Encoder().encode


class Purge:
    """Works off `purge` rows and unpurged forgets; everything it does can be done again."""

    def __init__(
        self,
        shell: Shell,
        settings: PersistSettings,
        recorder: Recorder,
        in_writer: Callable[[Callable[[], Any]], Awaitable[Any]],
        outbox_settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder
        self._store = recorder.record.store
        self._in_writer = in_writer
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
        waiting = [(k, r) for k, raw in self._store.scan("forgets", b"") if not (r := _row(raw)).purged]
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

    async def forgotten(self, part: int, request: dict[str, Any]) -> dict[str, Any]:
        """State of one forget: {"tenant", "seq"} to {"known", "erased", "purged"}."""
        key = keys.tenant(part, str(request["tenant"])) + keys.u64(int(request["seq"]))
        raw = self._store.get("forgets", key)
        if raw is None:
            return {"known": False, "erased": 0, "purged": False}
        row = _row(raw)
        return {"known": True, "erased": row.erased, "purged": row.purged}

    def counts(self, tenant: str) -> dict[str, int]:
        """What `status` says of one tenant: events, sessions, agents, forgets whose files are not rewritten yet.

        `forgot_seq` is the MEMORY sequence of the last forget: a projection that is behind it has yet to purge.
        """
        prefix = keys.tenant(partition_of(tenant), tenant)
        agents = [msgspec.msgpack.decode(raw, type=Activity) for _, raw in self._store.scan("agents", prefix)]
        forgets = [(keys.from_u64(key[-8:]), _row(raw)) for key, raw in self._store.scan("forgets", prefix)]
        return {
            "events": sum(a.events for a in agents),
            "sessions": sum(a.sessions for a in agents),
            "agents": len(agents),
            "purging": sum(1 for _, row in forgets if not row.purged),
            "forgot_seq": forgets[-1][0] if forgets else 0,
        }

    async def _erase_copies(self) -> None:
        while rows := self._due():
            first = (await stream_info(self._shell.nc, subjects.MEMORY))["state"]["first_seq"]
            there = [seq for key in rows if (seq := keys.from_u64(key)) >= first]
            if self._recorder.synced.seq in there:
                await self._in_writer(partial(self._recorder.mark_erased, self._recorder.synced.seq))
            await asyncio.gather(*(erase(self._shell.nc, subjects.MEMORY, seq) for seq in there))
            await self._in_writer(partial(self._remove, rows))

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
            batch.put("forgets", key, _encode(msgspec.structs.replace(row, purged=True)))
        self._store.write(batch, sync=True)

    async def _erase_dead(self, row: ForgetRow) -> None:
        """Erase the dead letters that a forget covers, of its tenant, said before it, and their copies in MEMORY."""
        forget = msgspec.json.decode(row.body, type=Forget)
        seq = 1
        while found := await next_message(self._shell.nc, subjects.DEAD, seq, subjects.dead_filter(row.tenant)):
            headers = found.headers
            seq, origin = found.seq, int(headers.get("Jetmem-Seq", "0"))
            source, id_, at = (headers.get(f"Jetmem-{name}", "") for name in ("Subject", "Id", "Time"))
            if origin < row.seq and covers_dead(forget, source, id_, found.data, int(at or "0")):
                await erase(self._shell.nc, subjects.MEMORY, origin)
                await erase(self._shell.nc, subjects.DEAD, seq)
            seq += 1


def _row(raw: bytes) -> ForgetRow:
    return msgspec.msgpack.decode(raw, type=ForgetRow)
