"""The outbox: what must be published as a consequence, until the broker has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
from nats.js.errors import NoStreamResponseError

from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure
from jetmem.persist.record import OutboxRow
from jetmem.runtime import limits, metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.store import Store
from jetmem_schemas import subjects

#: Rows published before their acknowledgements are awaited.
_AT_ONCE = 64


class Outbox:
    """Publishes rows in order of their number and removes what is acknowledged. Starts with what was left."""

    def __init__(self, shell: Shell, store: Store, in_writer: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._shell = shell
        self._store = store
        self._in_writer = in_writer
        self._wake = asyncio.Event()
        self._wake.set()
        self._sending = asyncio.Lock()

    async def settled(self) -> None:
        """Return when no row that a forget may have dropped is on its way any more."""
        async with self._sending:
            return

    def wake(self) -> None:
        """Rows were written."""
        self._wake.set()

    async def run(self) -> None:
        """Publish for ever; what is refused or unanswered stays and is tried again."""
        wait_s = limits.RETRY_FIRST_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (outcome := await self._pass()) is not None:
                if outcome:
                    wait_s = limits.RETRY_FIRST_S
                    continue
                metrics.retried.labels("persist").inc()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, limits.RETRY_LAST_S)

    async def _pass(self) -> bool | None:
        """Send the first rows: None if there are none, else whether all were acknowledged."""
        async with self._sending:
            rows = self._first_rows()
            return await self._publish(rows) if rows else None

    def _first_rows(self) -> list[tuple[bytes, OutboxRow]]:
        rows: list[tuple[bytes, OutboxRow]] = []
        for key, raw in self._store.scan("outbox", b""):
            rows.append((key, msgspec.msgpack.decode(raw, type=OutboxRow)))
            if len(rows) == _AT_ONCE:
                break
        metrics.outbox_rows.set(len(rows))
        return rows

    async def _publish(self, rows: list[tuple[bytes, OutboxRow]]) -> bool:
        results = await asyncio.gather(*(self._send(row) for _, row in rows), return_exceptions=True)
        done = [row for row, result in zip(rows, results, strict=True) if not isinstance(result, BaseException)]
        failed = [r for r in results if isinstance(r, BaseException)]
        for error in failed[:1]:
            self._shell.health.failed(error)
            self._shell.log.warning("outbox row not acknowledged", error=str(error), rows=len(failed))
        crashpoint("persist:before-outbox-clear")
        if done:
            await self._in_writer(lambda: self._remove([key for key, _ in done]))
        for _, row in done:
            await self._tell(row)
        if any(isinstance(error, NoStreamResponseError) for error in failed):
            await self._remake()
        return not failed

    async def _remake(self) -> None:
        try:
            await ensure(self._shell.nc, subjects.DEAD, self._shell.common)
        except (Retryable, Broken) as error:
            self._shell.health.failed(error)

    async def _send(self, row: OutboxRow) -> Any:
        return await self._shell.nc.jetstream().publish(row.subject, row.data, headers=row.headers, timeout=5)

    def _remove(self, keys: list[bytes]) -> None:
        batch = self._store.batch()
        for key in keys:
            batch.delete("outbox", key)
        self._store.write(batch, sync=True)

    async def _tell(self, row: OutboxRow) -> None:
        """Let the tenant's agents know; best effort, the dead letter itself is stored."""
        if row.tenant == subjects.NONE:
            return
        told = {"code": row.headers.get("Jetmem-Code", ""), "message": row.headers.get("Jetmem-Reason", ""),
                "field": row.headers.get("Jetmem-Field", ""), "subject": row.source, "seq": row.seq}  # fmt: skip
        try:
            await self._shell.nc.publish(subjects.notify(row.tenant, "dead_letter"), msgspec.json.encode(told))
        except nats.errors.Error as error:
            self._shell.health.failed(error)
