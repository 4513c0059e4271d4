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

from jetmem.adapters.nats_connect import NOT_FOUND, ApiError, api
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import stream_info
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

#: JetStream: no message found (for a delete).
_GONE_ALREADY = 10043
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
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder
        self._store = recorder.record.store
        self._in_writer = in_writer

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
        erased = await self._erase_copies()
        if not waiting and not erased:
            return 0
        for _, row in waiting:
            await self._erase_dead(row)
        await self._in_writer(self._store.compact)
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
        """What `status` says of one tenant: events, sessions, agents, and forgets whose files are not rewritten yet."""
        prefix = keys.tenant(partition_of(tenant), tenant)
        agents = [msgspec.msgpack.decode(raw, type=Activity) for _, raw in self._store.scan("agents", prefix)]
        purging = sum(1 for _, raw in self._store.scan("forgets", prefix) if not _row(raw).purged)
        return {
            "events": sum(a.events for a in agents),
            "sessions": sum(a.sessions for a in agents),
            "agents": len(agents),
            "purging": purging,
        }

    async def _erase_copies(self) -> int:
        erased = 0
        while rows := self._due():
            for key in rows:
                seq = keys.from_u64(key)
                if seq == self._recorder.checkpoint.seq and not self._recorder.checkpoint.erased:
                    await self._in_writer(self._recorder.mark_erased)
                await self._delete(subjects.MEMORY, seq)
            await self._in_writer(partial(self._remove, rows))
            erased += len(rows)
        return erased

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

    async def _delete(self, stream: str, seq: int) -> None:
        """Overwrite one message on disk; one that is gone already is fine."""
        try:
            await api(self._shell.nc, subjects.raw_stream_api("STREAM.MSG.DELETE", stream), {"seq": seq})
        except ApiError as error:
            if error.code != NOT_FOUND and error.err_code not in (_GONE_ALREADY, 10037, 10057):
                raise

    async def _erase_dead(self, row: ForgetRow) -> None:
        """Erase the dead letters that a forget covers: of its tenant, recorded before it."""
        forget = msgspec.json.decode(row.body, type=Forget)
        state = (await stream_info(self._shell.nc, subjects.DEAD))["state"]
        seq = state["first_seq"]
        while state["messages"] and seq <= state["last_seq"]:
            found = await self._next_dead(seq, row.tenant)
            if found is None:
                return
            seq, source, origin, id_, payload = found
            if origin < row.seq and covers_dead(forget, source, id_, payload):
                await self._delete(subjects.DEAD, seq)
            seq += 1

    async def _next_dead(self, seq: int, tenant: str) -> tuple[int, str, int, str, bytes] | None:
        body = msgspec.json.encode({"seq": seq, "next_by_subj": subjects.dead_filter(tenant)})
        reply = await self._shell.nc.request(f"$JS.API.DIRECT.GET.{subjects.DEAD}", body, timeout=5)
        headers = reply.headers or {}
        if "Nats-Sequence" not in headers:
            return None
        origin = int(headers.get("Jetmem-Seq", "0"))
        return (
            int(headers["Nats-Sequence"]),
            headers.get("Jetmem-Subject", ""),
            origin,
            headers.get("Jetmem-Id", ""),
            reply.data,
        )


def _row(raw: bytes) -> ForgetRow:
    return msgspec.msgpack.decode(raw, type=ForgetRow)
