"""Rows of `purge`: messages of MEMORY and letters of DEAD that are to be erased, and what nobody knows to be erased.

nats-server notes that a message is gone before it overwrites it. Killed between the two it has the bytes after its next
start and finds nothing to erase. That a message is gone proves something only if nobody had asked, or the process that
was asked still lives; else its row is held until the file went with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from jetmem.adapters.nats_connect import api, server_id
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure, next_message, overwrite, stream_info
from jetmem.domain import keys
from jetmem.persist.handler import Recorder
from jetmem.persist.moments import go_epoch_ms
from jetmem.persist.record import Due, Trimming, due_row, is_letter
from jetmem.runtime.errors import Retryable
from jetmem.runtime.store import Work
from jetmem_schemas import subjects

_CHUNK: Final = 200
_SEQ_BYTES: Final = 8
_encode = msgspec.msgpack.Encoder().encode


class Row(NamedTuple):
    """One row; `at` is the broker's time of a message of MEMORY, None in rows of older stores and of letters."""

    key: bytes
    due: Due
    stream: str
    seq: int
    at: int | None


class Place(NamedTuple):
    """How a stream is while rows of it are worked off, by one process of the broker."""

    server: str
    created: str
    first: int
    trimmed: int = 0
    trimming: Trimming = Trimming()


class Copies:
    """Works off `purge` rows; everything it does can be done again."""

    def __init__(
        self,
        shell: Shell,
        recorder: Recorder,
        in_writer: Work,
        in_reader: Work,
        outbox_silent: Callable[[], AbstractAsyncContextManager[Any]],
        keeps: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._shell = shell
        self._recorder = recorder
        self._store = recorder.record.store
        self._in_writer = in_writer
        self._in_reader = in_reader
        self._outbox_silent = outbox_silent
        self._keeps = keeps

    async def erase(self) -> set[str]:
        """Erase what is due; returns the tenants of whose messages nobody knows whether they are erased."""
        while rows := await self._in_reader(self._due):
            for stream in (subjects.MEMORY, subjects.DEAD):
                mine = [row for row in rows if row.stream == stream]
                if mine:
                    await self._erase(stream, mine)
        held = await self._in_reader(self._held)
        freed = await self._freed(held) if held else []
        if freed:
            await self._in_writer(partial(self._write, freed))
        return {row.due.tenant for row in held if row not in freed} - {""}

    async def _erase(self, stream: str, rows: list[Row]) -> None:
        place = await self._place(stream)
        found = await asyncio.gather(*(self._is_there(row, place) for row in rows))
        if server_id(self._shell.nc) != place.server:
            raise Retryable("the broker was started again while it was asked what is gone")
        there = [row for row, is_there in zip(rows, found, strict=True) if is_there]
        gone = [row for row, is_there in zip(rows, found, strict=True) if not is_there]
        lost = [row for row in gone if _in_doubt(row, place)]
        synced = self._recorder.synced
        if any(row.seq == synced.seq and row.at in (None, synced.at) for row in rows if row.stream == subjects.MEMORY):
            await self._in_writer(partial(self._recorder.mark_erased, synced.seq))
        asked = [_with(row, server=place.server) for row in there if row.due.server != place.server]
        # durable before the broker is asked: whoever finds it gone later knows of whom it was asked
        if asked or gone:
            held = [_with(row, held=True) for row in lost]
            await self._in_writer(partial(self._write, [r for r in gone if r not in lost], asked + held))
        there = [row for row in there if self._keeps(row.due.tenant)]  # parked meanwhile, it was not noted
        self._tell(lost)
        erased = await asyncio.gather(*(overwrite(self._shell.nc, stream, row.seq) for row in there))
        # gone meanwhile, by somebody else: looked at again
        await self._in_writer(partial(self._write, [r for r, ok in zip(there, erased, strict=True) if ok]))

    async def _place(self, stream: str) -> Place:
        server = server_id(self._shell.nc)
        if stream == subjects.DEAD:  # removed by hand, it would stop every purge
            info = await ensure(self._shell.nc, subjects.DEAD, self._shell.common)
            return Place(server, info["created"], info["state"]["first_seq"])
        info = await stream_info(self._shell.nc, stream)
        record = self._recorder.record
        trimmed, trimming = await self._in_reader(lambda: (record.trimmed(), record.trimming()))
        return Place(server, info["created"], info["state"]["first_seq"], trimmed, trimming)

    async def _is_there(self, row: Row, place: Place) -> bool:
        """Whether a row's message can be read; another one is not it: a stream made anew counts from 1 again."""
        if row.seq < place.first or row.due.stream not in ("", place.created):
            return False
        found = await next_message(self._shell.nc, row.stream, row.seq)
        return found is not None and found.seq == row.seq and (row.at is None or go_epoch_ms(found.time) == row.at)

    def _tell(self, lost: list[Row]) -> None:
        for tenant in {row.due.tenant for row in lost}:
            row = next(row for row in lost if row.due.tenant == tenant)
            self._shell.log.warning(
                "the broker ended while it erased; nobody knows what its file keeps until the file goes",
                tenant=tenant, stream=row.stream, seq=row.seq,
                messages=sum(row.due.tenant == tenant for row in lost),
            )  # fmt: skip

    async def _freed(self, held: list[Row]) -> list[Row]:
        """Held rows whose files are gone by now."""
        trimmed = await self._in_reader(self._recorder.record.trimmed)
        freed = [row for row in held if row.stream == subjects.MEMORY and row.seq < trimmed]
        letters = [row for row in held if row.stream == subjects.DEAD]
        return freed + (await self._freed_letters(letters) if letters else [])

    async def _freed_letters(self, letters: list[Row]) -> list[Row]:
        """DEAD is not trimmed, but once nothing is in it, its files can be made anew."""
        async with self._outbox_silent():
            info = await ensure(self._shell.nc, subjects.DEAD, self._shell.common)
            if not info["state"]["messages"]:
                upto = {"seq": info["state"]["last_seq"] + 1}
                await api(self._shell.nc, subjects.raw_stream_api("STREAM.PURGE", subjects.DEAD), upto)
                return letters
        return [row for row in letters if row.due.stream != info["created"]]

    def _due(self) -> list[Row]:
        rows: list[Row] = []
        for key, raw in self._store.scan("purge", b""):
            row = _row(key, raw)
            if not row.due.held and self._keeps(row.due.tenant):
                rows.append(row)
            if len(rows) == _CHUNK:
                break
        return rows

    def _held(self) -> list[Row]:
        rows = (_row(*each) for each in self._store.scan("purge", b""))
        return [row for row in rows if row.due.held and self._keeps(row.due.tenant)]

    def _write(self, done: list[Row], changed: list[Row] | None = None) -> None:
        batch = self._store.batch()
        for row in done:
            if self._keeps(row.due.tenant):
                batch.delete("purge", row.key)
        for row in changed or ():
            if self._keeps(row.due.tenant):
                batch.put("purge", row.key, _encode(row.due))
        if len(batch):
            self._store.write(batch, sync=True)


def _in_doubt(row: Row, place: Place) -> bool:
    """Whether the file may still have what is gone: asked for, but not of the process that says so."""
    if row.due.stream not in ("", place.created) or (row.stream == subjects.MEMORY and row.seq < place.trimmed):
        return False
    trimming = row.stream == subjects.MEMORY and row.seq < place.trimming.upto
    asked = row.due.server or (place.trimming.server if trimming else "")
    return asked not in ("", place.server)


def _with(row: Row, **changes: Any) -> Row:
    return row._replace(due=msgspec.structs.replace(row.due, **changes))


def _row(key: bytes, raw: bytes) -> Row:
    if is_letter(key):
        return Row(key, due_row(raw), subjects.DEAD, keys.from_u64(key[_SEQ_BYTES:]), None)
    at = keys.from_time(key[_SEQ_BYTES:]) if len(key) > _SEQ_BYTES else None
    return Row(key, due_row(raw), subjects.MEMORY, keys.from_u64(key[:_SEQ_BYTES]), at)
