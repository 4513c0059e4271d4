"""Dead letters that a person took care of: dropped, or published again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from jetmem.adapters.nats_connect import ApiError, server_id
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import next_message, overwrite, stream_info
from jetmem.persist.record import Due, copy_key, due, letter_key
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.store import Store, Work
from jetmem_schemas import subjects
from jetmem_schemas.internal import DropLetter, LetterDropped

_encode = msgspec.msgpack.Encoder().encode


class Origin(NamedTuple):
    """The refused message that a letter carries; `epoch` counts the streams that MEMORY was."""

    seq: int
    at: int
    epoch: int
    source: str
    id: str

    @property
    def copy(self) -> bytes:
        """Its `purge` key."""
        return copy_key(self.seq, self.at)

    @property
    def tenant(self) -> str:
        """Whose message it was; `_` if that cannot be told."""
        return subjects.tenant_of(self.source)


def origin_of(headers: Mapping[str, str]) -> Origin:
    """Read what a letter's headers say of its origin."""
    seq, at, epoch = (_number(headers.get(f"Jetmem-{name}", "")) for name in ("Seq", "Time", "Epoch"))
    return Origin(seq, at, epoch, headers.get("Jetmem-Subject", ""), headers.get("Jetmem-Id", ""))


class Letters:
    """Erases letters one by one, each with the refused message in MEMORY: without it nobody would find that one."""

    def __init__(
        self,
        shell: Shell,
        store: Store,
        in_writer: Work,
        outbox_settled: Callable[[], Awaitable[None]],
        keeps: Callable[[str], bool],
    ) -> None:
        self._shell = shell
        self._store = store
        self._in_writer = in_writer
        self._outbox_settled = outbox_settled
        self._keeps = keeps

    async def drop(self, part: int, request: DropLetter) -> LetterDropped:
        """Erase one letter from DEAD at once, its origin from MEMORY with the next purge.

        The purge rows come first: what a kill leaves, of us or of the broker, is work for the next purge.
        """
        await self._outbox_settled()  # a letter whose row is still there would come back
        try:
            server = server_id(self._shell.nc)  # first: if the broker is another one by then, nobody trusts its answer
            found = await next_message(self._shell.nc, subjects.DEAD, request.seq)
            if found is None or found.seq != request.seq:
                return LetterDropped(dropped=False)
            origin = origin_of(found.headers)
            created = (await stream_info(self._shell.nc, subjects.DEAD))["created"]
            letter = Due(origin.tenant, server, stream=created)
            await self._in_writer(lambda: self._purge_later(request.seq, letter, origin))
            await overwrite(self._shell.nc, subjects.DEAD, request.seq)
        except ApiError as error:
            raise RequestFailed("unavailable", f"DEAD: {error}") from error
        return LetterDropped(dropped=True)

    def _purge_later(self, seq: int, letter: Due, origin: Origin) -> None:
        if not self._keeps(letter.tenant):
            raise RequestFailed("unavailable", f"what is of {letter.tenant} is at another shard, or on its way")
        batch = self._store.batch()
        batch.put("purge", letter_key(seq), _encode(letter))
        if self._store.get("purge", origin.copy) is None:  # one that is there may have been asked for
            batch.put("purge", origin.copy, due(origin.tenant))
        self._store.write(batch, sync=True)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
