"""What the owner of a partition does for the shard that is to have it: park, hand over rows, let go (`moving`)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec

from jetmem.adapters.nats_shell import Shell
from jetmem.persist import claiming
from jetmem.persist.copying import of_part, slice_of
from jetmem.persist.moving import Mover
from jetmem.persist.outbox import Outbox
from jetmem.persist.record import COPIED, Trimming
from jetmem.persist.shares import Shares
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem.runtime.store import Work
from jetmem_schemas import subjects
from jetmem_schemas.owning import CopyReply, CopyRequest, Released, ReleaseRequest, SafeReply, SafeRequest

#: Letters of a partition have so long to leave before it is parked; nothing is recorded meanwhile.
_EMPTY_S: Final = 2.0
_LOOK_S: Final = 0.02
_encode = msgspec.msgpack.Encoder().encode


class Giver:
    """Endpoints of the owner."""

    def __init__(
        self,
        shell: Shell,
        shares: Shares,
        mover: Mover,
        between: asyncio.Lock,
        outbox: Outbox,
        in_writer: Work,
        in_reader: Work,
    ) -> None:
        self._shell = shell
        self._shares = shares
        self._mover = mover
        self._between = between
        self._outbox = outbox
        self._in_writer = in_writer
        self._in_reader = in_reader

    async def copy(self, part: int, request: CopyRequest) -> CopyReply:
        """Rows of a partition; the first request parks it.

        Raises:
            RequestFailed: `unavailable`: it is not here, stays here, cannot be parked now, or is asked for otherwise.
        """
        self._check(part)
        if request.format != COPIED:
            raise RequestFailed("unavailable", f"persist-{request.to} is of a version that keeps its record otherwise")
        if not request.token:
            await self._register(part, request.store)
            await self._park(part)
        token = self._shares.parked.get(part)
        if token is None or request.token not in ("", token):
            return CopyReply("", b"", [], more=False, mismatch=True)
        record = self._shares.recorder.record
        rows, more = await self._in_reader(partial(slice_of, record.store, part, request.family, request.key))
        trimmed, trimming = await self._in_reader(lambda: (record.trimmed(), record.trimming()))
        parked = _encode(self._shares.reader(part).synced)
        return CopyReply(token, parked, rows, more, trimmed=trimmed, server=trimming.server, upto=trimming.upto)

    async def release(self, part: int, request: ReleaseRequest) -> Released:
        """Make the asker the owner, if it has what is parked here. From the first try on nothing is answered here.

        Raises:
            RequestFailed: `unavailable`; whether it is the owner is what the table says.
        """
        self._check(part)
        if self._shares.parked.get(part) != request.token:
            return Released(done=False)
        async with self._mover.looking:
            self._shares.closed.add(part)
            try:
                to = (part, request.to, request.store)
                table = await self._mover.owners.change(lambda table: claiming.released(self._mover.me, table, *to))
            except Retryable as error:  # the mover looks who is the owner
                raise RequestFailed("unavailable", str(error)) from error
            crashpoint("move:after-let-go")
            await self._in_writer(partial(self._shares.forsake, part))
        self._mover.given.set()
        self._shell.log.info("a partition was given away", partition=part, owner=table[part].owner)
        return Released(done=table[part].store == request.store)

    async def safe(self, part: int, request: SafeRequest) -> SafeReply:
        """How far a partition is on disk; takes note of a trim.

        Raises:
            RequestFailed: `unavailable`: it is not here.
        """
        if part not in self._shares.owned or part in self._shares.closed:
            raise RequestFailed("unavailable", f"partition {part} is not here")
        if request.note:
            trimming = Trimming(request.server, request.upto)
            await self._in_writer(partial(self._shares.note_trimming, request.trimmed, trimming))
        return SafeReply(self._shares.seq(part))

    def _check(self, part: int) -> None:
        me = self._mover.me
        if part not in self._shares.owned:
            raise RequestFailed("unavailable", f"partition {part} is not here")
        if me.wants(part):
            raise RequestFailed(
                "unavailable", f"persist-{me.shard} runs with --shards {me.shards}, so that it keeps partition {part}"
            )

    async def _register(self, part: int, store: str) -> None:
        """Note, before it gets anything, that another store may hold some of it: erasures wait for that one too."""
        try:
            self._mover.table = await self._mover.owners.change(lambda table: claiming.holding(table, part, store))
        except Retryable as error:
            raise RequestFailed("unavailable", str(error)) from error

    async def _park(self, part: int) -> None:
        async with self._between:
            if part not in self._shares.owned:
                return
            await self._empty_outbox(part)  # of one that was parked already too: it may have been read on since it came
            if part in self._shares.parked:
                return
            await self._in_writer(partial(self._shares.park, part))
            self._mover.reading.changed()
        self._shell.log.info("a partition is parked", partition=part, seq=self._shares.seq(part))

    async def _empty_outbox(self, part: int) -> None:
        """Letters go from here, so that no two stores send them."""
        try:
            async with asyncio.timeout(_EMPTY_S):
                while any(of_part(part, tenant) for tenant in await self._in_reader(self._outbox.tenants)):
                    self._outbox.wake()
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise RequestFailed("unavailable", f"letters of partition {part} wait for {subjects.DEAD}") from error
