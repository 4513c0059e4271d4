"""The outbox: what must be published as a consequence, until the broker has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats.errors
from nats.js.errors import APIError, NoStreamResponseError

from jetmem.adapters.nats_connect import NOT_FOUND, ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure, next_message, stream_info
from jetmem.domain import keys
from jetmem.persist.moments import first_at
from jetmem.persist.record import OutboxRow
from jetmem.runtime import limits, metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.store import Store, Work
from jetmem_schemas import subjects

Row = tuple[bytes, OutboxRow]
#: Rows published before their acknowledgements are awaited.
_AT_ONCE = 64


class Outbox:
    """Publishes rows in order of their number and removes what is acknowledged. Starts with what was left.

    The broker drops a letter that it got less than two minutes ago; what was sent earlier, without an answer, is
    looked up in DEAD before it is sent again. That can only be rows of the last pass, which are the first still here.

    Attributes:
        stuck: Rows that wait since the last pass failed; 0 while passes succeed.
    """

    def __init__(
        self,
        shell: Shell,
        store: Store,
        in_writer: Work,
        in_reader: Work,
    ) -> None:
        self.stuck = 0
        self._shell = shell
        self._store = store
        self._in_writer = in_writer
        self._in_reader = in_reader
        self._in_doubt = True  # the process before this one may have died between sending and clearing
        self._wake = asyncio.Event()
        self._wake.set()
        self._sending = asyncio.Lock()

    async def settled(self) -> None:
        """Return when no row that a forget may have dropped is on its way any more."""
        async with self._sending:
            return

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[None]:
        """No letter is sent inside."""
        async with self._sending:
            yield

    def wake(self) -> None:
        """Rows were written."""
        self._wake.set()

    def tenants(self) -> set[str]:
        """Whose rows wait."""
        return {msgspec.msgpack.decode(raw, type=OutboxRow).tenant for _, raw in self._store.scan("outbox", b"")}

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
            rows, waiting = await self._in_reader(self._first_rows)
            metrics.outbox_rows.set(waiting)
            done = await self._publish(rows) if rows else None
            self.stuck = waiting if done is False else 0
            return done

    def _first_rows(self) -> tuple[list[Row], int]:
        """The first rows, and how many there are about: the numbers between have rows unless a forget took some."""
        rows: list[Row] = []
        for key, raw in self._store.scan("outbox", b""):
            rows.append((key, msgspec.msgpack.decode(raw, type=OutboxRow)))
            if len(rows) == _AT_ONCE:
                break
        if len(rows) < _AT_ONCE:
            return rows, len(rows)
        last = next(key for key, _ in self._store.scan("outbox", b"", back=True))
        return rows, keys.from_u64(last) - keys.from_u64(rows[0][0]) + 1

    async def _publish(self, rows: list[Row]) -> bool:
        if self._in_doubt:
            try:
                stored = await self._stored(rows)
            except (ApiError, Retryable) as error:
                self._failed(error, len(rows))
                return False
            self._in_doubt = False
            if stored:
                await self._clear(stored)
                return True
        results = await asyncio.gather(*(self._send(row) for _, row in rows), return_exceptions=True)
        done = [row for row, result in zip(rows, results, strict=True) if not isinstance(result, BaseException)]
        failed = [r for r in results if isinstance(r, BaseException)]
        # a refusal stored nothing; without an answer nobody knows
        self._in_doubt = any(not isinstance(error, APIError | NoStreamResponseError) for error in failed)
        if failed:
            self._failed(failed[0], len(failed))
        crashpoint("persist:before-outbox-clear")
        await self._clear(done)
        if any(isinstance(error, NoStreamResponseError) for error in failed):
            await self._remake()
        return not failed

    async def _stored(self, rows: list[Row]) -> list[Row]:
        """Those that DEAD holds already: no letter is older than the message that it carries."""
        try:
            state = (await stream_info(self._shell.nc, subjects.DEAD))["state"]
        except ApiError as error:
            if error.code == NOT_FOUND:
                return []
            raise
        unseen = {row.headers["Nats-Msg-Id"]: (key, row) for key, row in rows}
        oldest = min(row.at for _, row in rows)
        seq = await first_at(self._shell.nc, subjects.DEAD, oldest, max(1, state["first_seq"]), state["last_seq"] + 1)
        stored: list[Row] = []
        while unseen and (letter := await next_message(self._shell.nc, subjects.DEAD, seq)):
            known = unseen.pop(letter.headers.get("Nats-Msg-Id", ""), None)
            stored += [known] if known else []
            seq = letter.seq + 1
        return stored

    async def _clear(self, done: list[Row]) -> None:
        if done:
            await self._in_writer(lambda: self._remove([key for key, _ in done]))
        for _, row in done:
            await self._tell(row)

    def _failed(self, error: BaseException, count: int) -> None:
        self._shell.health.failed(error)
        self._shell.log.warning("outbox row not acknowledged", error=str(error), rows=count)

    async def _remake(self) -> None:
        try:
            await ensure(self._shell.nc, subjects.DEAD, self._shell.common)
        except (Retryable, Broken) as error:
            self._shell.health.failed(error)

    async def _send(self, row: OutboxRow) -> Any:
        return await self._shell.nc.jetstream().publish(row.subject, row.data, headers=row.headers, timeout=5)

    def _remove(self, done: list[bytes]) -> None:
        batch = self._store.batch()
        for key in done:
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
