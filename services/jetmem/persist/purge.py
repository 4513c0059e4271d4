"""After `applied`, `purged`: no file keeps what was erased.

The MEMORY copies go by secure delete (their blocks are overwritten, `copies.py`), matching dead letters too, then the
store's files are rewritten. Each forget's row says how far it is: under `unpurged` while there is work, then, without
its body, under `forgets` for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import groupby
from typing import Any

import msgspec

from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure, next_message
from jetmem.domain import keys
from jetmem.persist.copies import Copies
from jetmem.persist.core import covers_dead
from jetmem.persist.handler import Recorder
from jetmem.persist.letters import Origin, origin_of
from jetmem.persist.outbox import Outbox
from jetmem.persist.record import Due, ForgetRow, due, forget_row, letter_key
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Retryable
from jetmem.runtime.store import Work
from jetmem_schemas import subjects
from jetmem_schemas.events import Forget
from jetmem_schemas.internal import Activity, ForgetState
from jetmem_schemas.subjects import partition_of

_encode = msgspec.msgpack.Encoder().encode


def _every(_: str) -> bool:
    return True


def _none(_: str) -> bool:
    return False


class Purge:
    """Works off `purge` rows and unpurged forgets; everything it does can be done again.

    `keeps` says of a tenant whether its rows are ours to work off, `shared` whether another store's files may still
    hold some of its: what is forgotten is not purged then. A partition may be parked at any time, so both are asked
    again where rows are written, on the writer thread.
    """

    def __init__(
        self,
        shell: Shell,
        settings: PersistSettings,
        recorder: Recorder,
        in_writer: Work,
        in_reader: Work,
        outbox: Outbox,
        keeps: Callable[[str], bool] = _every,
        shared: Callable[[str], bool] = _none,
    ) -> None:
        self._shell = shell
        self._settings = settings
        self._recorder = recorder
        self._store = recorder.record.store
        self._in_writer = in_writer
        self._in_reader = in_reader
        self._outbox_settled = outbox.settled
        self._copies = Copies(shell, recorder, in_writer, in_reader, outbox.silent, keeps)
        self._keeps = keeps
        self._shared = shared
        self._rewritten: set[bytes] = set()  # forgets that wait for nothing but what is held

    async def run(self) -> None:
        """Purge for ever, some seconds after each forget, so that several share one rewriting."""
        while True:
            await asyncio.sleep(self._settings.purge_delay_s)
            try:
                await self.once()
            except (Retryable, ApiError) as error:
                self._shell.health.failed(error)

    async def once(self) -> int:
        """Erase every copy that is due; returns how many forgets became `purged`.

        Those of a tenant of whose messages nobody knows whether they are erased wait; their letters are looked for and
        the files are rewritten once, not each time.
        """
        held = await self._copies.erase()
        waiting = await self._in_reader(self._unpurged)
        new = [(key, row) for key, row in waiting if key not in self._rewritten]
        if new:
            await self._outbox_settled()
            for tenant, rows in groupby(sorted((row for _, row in new), key=_tenant), _tenant):
                await self._note_dead(tenant, list(rows))
            held = await self._copies.erase()
            await asyncio.to_thread(self._store.compact)
        held |= {row.tenant for _, row in waiting if self._shared(row.tenant)}
        ready = [(key, row) for key, row in waiting if row.tenant not in held]
        if ready:
            await self._in_writer(lambda: self._mark(ready))
        self._rewritten = {key for key, row in waiting if row.tenant in held}
        return len(ready)

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
        rows = ((key, forget_row(raw)) for key, raw in self._store.scan("unpurged", b""))
        return [(key, row) for key, row in rows if self._keeps(row.tenant)]

    def _mark(self, waiting: list[tuple[bytes, ForgetRow]]) -> None:
        batch = self._store.batch()
        for key, row in waiting:
            if self._keeps(row.tenant) and not self._shared(row.tenant):
                batch.delete("unpurged", key)
                batch.put("forgets", key, _encode(msgspec.structs.replace(row, body=b"", purged=True)))
        self._store.write(batch, sync=True)

    async def _note_dead(self, tenant: str, rows: list[ForgetRow]) -> None:
        """Note the letters that forgets of a tenant cover, said before them, and their copies in MEMORY.

        Before any is erased: one that is gone would not be found again, and nobody would ask for its bytes. All letters
        are looked at once, not once for each forget: many may have waited for another store to drop what it has.
        """
        forgets = [(row, msgspec.json.decode(row.body, type=Forget)) for row in rows]
        # removed by hand, it would stop every purge
        created = (await ensure(self._shell.nc, subjects.DEAD, self._shell.common))["created"]
        noted: list[tuple[bytes, bytes]] = []
        seq = 1
        while found := await next_message(self._shell.nc, subjects.DEAD, seq, subjects.dead_filter(tenant)):
            origin = origin_of(found.headers)
            said = (origin.source, origin.id, found.data, origin.at)
            if any(_before(origin, row) and covers_dead(forget, *said) for row, forget in forgets):
                noted += [(letter_key(found.seq), _encode(Due(tenant, stream=created))), (origin.copy, due(tenant))]
            seq = found.seq + 1
        if noted:
            await self._in_writer(lambda: self._note(noted, tenant))

    def _note(self, rows: list[tuple[bytes, bytes]], tenant: str) -> None:
        if not self._keeps(tenant):
            return
        batch = self._store.batch()
        for key, value in rows:
            if self._store.get("purge", key) is None:  # one that is there may have been asked for
                batch.put("purge", key, value)
        self._store.write(batch, sync=True)


def _tenant(row: ForgetRow) -> str:
    return row.tenant


def _before(origin: Origin, row: ForgetRow) -> bool:
    """Whether a refused message was said before a forget; read again, after a loss, it has a later epoch."""
    if origin.epoch == row.epoch:
        return origin.seq < row.seq
    return origin.epoch < row.epoch or origin.at < row.at
