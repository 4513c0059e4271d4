"""Partitions come and go: what this shard should have, by `--shards`, is copied from whoever owns it.

Nobody starts empty where an owner stood. The owner parks the partition: it reads no further, and answers as of then.
The new one copies every row, in slices, and asks it to let go; that changes the table of owners, by compare-and-set,
and only then the new one reads on behind the owner's last message and answers. A process that is killed anywhere finds
in its store and in the table how far it was (decision 0025).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_reader import OrderedReader
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import next_message, stream_info
from jetmem.adapters.part_owners import OwnersTable
from jetmem.persist import claiming
from jetmem.persist.copying import BEGINNING, Place
from jetmem.persist.handler import Recorder
from jetmem.persist.places import Places
from jetmem.persist.record import COPIED, Checkpoint, Trimming
from jetmem.persist.shares import Copying, Shares
from jetmem.runtime import metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Broken, RequestFailed, Retryable
from jetmem.runtime.scraping import at_scrape
from jetmem.runtime.store import Work
from jetmem_schemas import subjects
from jetmem_schemas.owning import NOBODY, CopyReply, CopyRequest, Owners, Released, ReleaseRequest

#: The table is looked at this often while something moves, …
_MOVING_S: Final = 0.5
#: … and so often while nothing does: another store with our ordinal is noticed within it.
_LOOK_S: Final = 5.0
#: One slice, or a partition's parking, which waits for the purge of a moment.
_COPY_S: Final = 10.0
_ASK_S: Final = 2.0
_REACH_S: Final = 2.0


class Reading(Protocol):
    """Whoever reads MEMORY for all partitions that ride."""

    def changed(self) -> None:
        """Other partitions ride than before; called while no batch is recorded."""

    async def reached(self, seq: int, wait_s: float) -> bool:
        """Whether it has read up to `seq`, within so many seconds."""


class Mover:
    """Claims at start, then takes what should be here, catches up with what is parked, drops what was given away.

    Attributes:
        me: Who we are.
        table: The owners as they were last read.
        waiting: What this process still waits for, in words; "" for nothing.
        looking: Held while the table is read and believed, or a partition let go.
        reading: Whoever reads MEMORY.
        given: Set when a partition was let go: from then on its new owner alone answers on its subject.
    """

    def __init__(
        self,
        shell: Shell,
        shares: Shares,
        between: asyncio.Lock,
        in_writer: Work,
        places: Places,
        reading: Reading,
        *,
        accept_gap: bool = False,
    ) -> None:
        self.me = claiming.Me(shell.common.shard, shell.common.shards, shares.store_id)
        self.owners = OwnersTable(shell)
        self.table: Owners = []
        self.waiting = ""
        self.looking = asyncio.Lock()
        self.reading = reading
        self.given = asyncio.Event()
        self._shell = shell
        self._shares = shares
        self._between = between
        self._in_writer = in_writer
        self._places = places
        self._accept_gap = accept_gap
        at_scrape(self)

    def shares(self, tenant: str) -> bool:
        """Whether another store's files may still hold some of a tenant's."""
        return bool(self.table) and bool(self.table[subjects.partition_of(tenant)].left)

    def observe(self) -> None:
        """Say what becomes of each partition that is here or should be; from any thread."""
        shares, wanted = self._shares, filter(self.me.wants, range(subjects.PARTITIONS))
        states = {
            "served": len(shares.riding),
            "parked": len(shares.parked),
            "copying": len(shares.copying),
            "wanted": sum(part not in shares.owned and part not in shares.copying for part in wanted),
        }
        for state, count in states.items():
            metrics.partitions.labels(self._shell.stage, self.me.shard, state).set(count)

    async def claim(self) -> None:
        """Find out what is ours. Before anything is read or answered.

        Raises:
            Retryable: Shard 0 has not made the table yet, or the broker did not answer.
            Broken: See `claiming.standing`.
        """
        await self.owners.prepare()
        shares, me = self._shares, self.me
        recorded = bool(shares.recorder.synced.seq)
        if not await self.owners.read():
            if me.shard:
                raise Retryable("waiting for persist-0, which makes the table of owners")
            made = claiming.first_table(me, shares.owned, recorded=recorded)
            await self.owners.change(lambda table: table or made)
        silent = await self._silent()
        self.table = await self.owners.change(lambda table: claiming.claimed(me, table, shares.owned, silent))
        now = claiming.standing(me, self.table, shares.owned)
        for part in now.lost:
            await self._in_writer(partial(shares.forsake, part))
            self.table = await self.owners.change(partial(claiming.holding, part=part, store=me.store))
        new = {part: moves for part, moves in now.mine.items() if part not in shares.owned}
        empty = {part: moves for part, moves in new.items() if shares.owned and part not in shares.copying}
        await self._in_writer(partial(shares.own, {p: m for p, m in new.items() if p not in empty}))
        if empty:
            self._shell.log.warning("named the owner of what is not here", partitions=sorted(empty))
            await self._in_writer(partial(shares.own_from_the_start, empty))
        crashpoint("move:after-own")

    async def _silent(self) -> list[int]:
        """Partitions of our ordinal whose store does not answer, if ours can take its place: all is read again."""
        if self._shares.owned:
            return []
        rivals = claiming.others(self.me, await self.owners.read())
        info = await stream_info(self._shell.nc, subjects.MEMORY)
        whole = info["state"]["first_seq"] <= 1 or bool(self._shares.recorder.synced.seq)
        for part in rivals[:1] if whole or self._accept_gap else ():
            try:
                await self._ask(part, "status", {}, Any, _ASK_S)
            except RequestFailed as error:
                if error.code == "unavailable":
                    self._shell.log.warning("another store of this shard is gone, this one takes its place")
                    return rivals
        return []

    # --- the loop

    async def run(self) -> None:
        """Move for ever; what cannot be had now is tried again."""
        while True:
            ready = self._shell.health.ready  # until then what answers is started by the shell
            try:
                self.waiting = await self._once() if ready else ""
            except (Retryable, RequestFailed, ApiError) as error:
                self._shell.health.failed(error)
                self.waiting = str(error)
            self._shell.health.note = self.waiting
            await asyncio.sleep(_LOOK_S if ready and not self.waiting else _MOVING_S)

    async def leave(self) -> None:
        """Answer no more for what was let go, at once: the next round of `run` may be long."""
        while True:
            await self.given.wait()
            self.given.clear()
            await self._places.keep(self._shares.owned)

    async def _once(self) -> str:
        """One round; what is still to come, in words."""
        await self._look()
        for part in self._coming():
            await self._catch_up(part)
        left = await self._take_all()
        await self._drop()
        left += [f"partition {part} is read up to where the others are" for part in self._coming()]
        leaving = [part for part in self._shares.owned if not self.me.wants(part)]
        if leaving:
            left.append(f"{len(leaving)} partitions wait to be taken by others")
        return left[0] if left else ""

    def _coming(self) -> list[int]:
        return [part for part in sorted(self._shares.parked) if self.me.wants(part)]

    async def _look(self) -> None:
        """Read the table; it says whose a partition is that was being let go when something failed.

        Raises:
            Broken: It is gone, or names another owner of what is recorded here.
        """
        async with self.looking:
            self.table = await self.owners.read()
            if not self.table:
                raise Broken("the table of owners was removed from the broker; start all shards of persist again")
            for part in list(self._shares.closed):
                if self.table[part].store == self.me.store:
                    self._shares.closed.discard(part)
                else:
                    await self._in_writer(partial(self._shares.forsake, part))
            lost = claiming.standing(self.me, self.table, self._shares.owned).lost
            if lost:
                raise Broken(f"partition {min(lost)} is another's by the table of owners; this process must not go on")
        await self._places.keep(self._shares.owned)

    # --- coming

    async def _take_all(self) -> list[str]:
        left: list[str] = []
        for part, line in enumerate(self.table):
            if not self.me.wants(part) or part in self._shares.owned:
                continue
            if line.owner == NOBODY:
                left.append(f"nobody says that it has partition {part}")
                continue
            try:
                await self._take(part, line.owner)
            except (RequestFailed, Retryable) as error:
                self._shell.health.failed(error)
                left.append(f"partition {part} is at persist-{line.owner}: {error}")
        return left

    async def _take(self, part: int, owner: int) -> None:
        """Copy a partition, have its owner let go, and read on.

        Raises:
            RequestFailed: Its owner does not answer, or wants to keep it.
            Retryable: The broker does not answer.
        """
        copying = self._shares.copying.get(part)
        if copying is None:
            await self._drop_all(part)
            self._shell.log.info("copying a partition", partition=part, owner=owner)
        while copying is None or not copying.whole:
            copying = await self._slice(part, copying)
            if copying is None:
                return
        if self.table[part].store != self.me.store:
            await self._ask_for(part, copying.token)
        if self.table[part].store == self.me.store:
            await self._in_writer(partial(self._shares.own, {part: self.table[part].moves}))
            crashpoint("move:after-own")
            await self._catch_up(part)

    async def _ask_for(self, part: int, token: str) -> None:
        """Have its owner let a partition go; the table says whether it has, an answer may be lost."""
        crashpoint("move:before-release")
        request = ReleaseRequest(self.me.shard, self.me.store, token)
        reply: Released = await self._ask(part, "release", request, Released, _COPY_S)
        crashpoint("move:after-release")
        self.table = await self.owners.read()
        if not reply.done and self.table[part].store != self.me.store:  # its owner has another state than ours by now
            await self._in_writer(partial(self._shares.forsake, part))

    async def _slice(self, part: int, copying: Copying | None) -> Copying | None:
        """One slice further; None if the owner's state is not the one that was begun with."""
        at = copying or Copying("", Checkpoint())
        request = CopyRequest(self.me.shard, self.me.store, at.token, at.source, at.key, COPIED)
        reply: CopyReply = await self._ask(part, "copy", request, CopyReply, _COPY_S)
        if reply.mismatch:
            await self._in_writer(partial(self._shares.forsake, part))
            return None
        parked = msgspec.msgpack.decode(reply.parked, type=Checkpoint)
        source, key = reply.rows[-1][:2] if reply.rows else (at.source, at.key)
        now = Copying(reply.token, parked, source, key, whole=not reply.more)
        told = reply.trimmed, Trimming(reply.server, reply.upto)
        await self._in_writer(partial(self._shares.take, part, now, reply.rows, *told))
        metrics.rows_copied.inc(len(reply.rows))
        self._shell.health.progressed(self._shell.health.lag)
        if now.whole:
            crashpoint("move:after-whole")
        return now

    async def _ask(self, part: int, verb: str, request: Any, reply: Any, timeout_s: float) -> Any:
        return await self._shell.ask(subjects.service("persist", part, verb), request, reply, timeout_s)

    async def _catch_up(self, part: int) -> None:
        """Record what came since a partition was parked, then let it ride and answer for it.

        All but the last of it is read beside the others, which notice nothing.
        """
        mine, reader = self._shares.recorder, self._shares.reader(part)
        await self._same_stream(part, reader)
        if not await self.reading.reached(reader.synced.seq, _REACH_S):
            return  # whoever gave it is far ahead of us; next round
        await self._in_writer(partial(self._shares.renew, part))
        await self._read_up_to(reader, mine.synced.seq)
        async with self._between:
            await self._read_up_to(reader, mine.synced.seq)
            crashpoint("move:after-catch-up")
            await self._in_writer(partial(self._shares.unpark, part))
            self.reading.changed()
        await self._places.begin(part)
        metrics.partitions_come.inc()
        self._shell.log.info("a partition is here", partition=part, seq=mine.synced.seq)

    async def _same_stream(self, part: int, reader: Recorder) -> None:
        info = await stream_info(self._shell.nc, subjects.MEMORY)
        at, now = reader.synced, self._shares.recorder.synced
        if at.created != now.created:
            if not self._accept_gap:
                raise Broken(f"partition {part} is of a MEMORY made {at.created}, the record of one made {now.created}")
            await self._in_writer(partial(reader.begin_at, now.created, 0, now.epoch))
        first = info["state"]["first_seq"]
        if first > reader.synced.seq + 1 and not self._accept_gap:
            raise Broken(
                f"MEMORY begins at {first}, but partition {part} is recorded up to {reader.synced.seq} only: what lies "
                f"between is lost; restore its store, or start with JETMEM_PERSIST_ACCEPT_GAP=true if that is known"
            )

    async def _read_up_to(self, reader: Recorder, goal: int) -> None:
        reads = OrderedReader(self._shell.nc, subjects.MEMORY, reader.synced.seq)
        try:
            while reader.synced.seq < goal:
                found = await next_message(self._shell.nc, subjects.MEMORY, reader.synced.seq + 1)
                if found is None or found.seq > goal:
                    at = reader.synced
                    await self._in_writer(partial(reader.begin_at, at.created, goal, at.epoch))
                    return
                messages = [each for each in await reads.fetch() if each.seq <= goal]
                step = partial(next, reader.steps(messages), None)
                while await self._in_writer(step) is not None:
                    self._shell.health.progressed(max(1, goal - reader.synced.seq))
        finally:
            await reads.close()

    # --- going

    async def _drop(self) -> None:
        """Delete what others have now, rewrite the files, and only then say that nothing is left here."""
        held = [
            part for part, line in enumerate(self.table)
            if self.me.store in line.left and part not in self._shares.owned
            and not (self.me.wants(part) and part in self._shares.copying)
        ]  # fmt: skip
        if not held:
            return
        for part in held:
            await self._drop_all(part)
        crashpoint("move:after-drop")
        await asyncio.to_thread(self._shares.recorder.record.store.compact)
        self.table = await self.owners.change(lambda table: claiming.rid(table, held, self.me.store))

    async def _drop_all(self, part: int) -> None:
        """Delete what there is of a partition, in turns of the writer."""
        await self._in_writer(partial(self._shares.forsake, part))
        end: Place | None = BEGINNING
        while end is not None:
            end = await self._in_writer(partial(self._shares.drop_some, part, end))
            self._shell.health.progressed(self._shell.health.lag)
