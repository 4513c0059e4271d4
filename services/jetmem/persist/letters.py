"""Dead letters that a person took care of: dropped, or published again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from jetmem.adapters.nats_connect import ApiError
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import erase, next_message
from jetmem.persist.record import copy_key
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.store import Store
from jetmem_schemas import subjects
from jetmem_schemas.internal import DropLetter, LetterDropped


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
        in_writer: Callable[[Callable[[], Any]], Awaitable[Any]],
        outbox_settled: Callable[[], Awaitable[None]],
    ) -> None:
        self._shell = shell
        self._store = store
        self._in_writer = in_writer
        self._outbox_settled = outbox_settled

    async def drop(self, part: int, request: DropLetter) -> LetterDropped:
        """Erase one letter from DEAD at once, its origin from MEMORY with the next purge.

        The purge row comes first: a kill between the two leaves a letter that can be dropped again.
        """
        await self._outbox_settled()  # a letter whose row is still there would come back
        try:
            found = await next_message(self._shell.nc, subjects.DEAD, request.seq)
            if found is None or found.seq != request.seq:
                return LetterDropped(dropped=False)
            origin = origin_of(found.headers)
            await self._in_writer(lambda: self._purge_later(origin))
            await erase(self._shell.nc, subjects.DEAD, request.seq)
        except ApiError as error:
            raise RequestFailed("unavailable", f"DEAD: {error}") from error
        return LetterDropped(dropped=True)

    def _purge_later(self, origin: Origin) -> None:
        batch = self._store.batch()
        batch.put("purge", origin.copy, b"")
        self._store.write(batch, sync=True)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
