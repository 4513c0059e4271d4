"""The other shards, as far as a trim of MEMORY concerns them: all must have read what goes, and note what is done."""

from __future__ import annotations

import asyncio
from typing import Final

from jetmem.adapters.nats_shell import Shell
from jetmem.persist.moving import Mover
from jetmem.persist.record import Trimming
from jetmem.persist.shares import Shares
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem_schemas import subjects
from jetmem_schemas.owning import SafeReply, SafeRequest

#: Whoever has it trims.
_FIRST: Final = 0
_ASK_S: Final = 5.0
_ALL: Final = 2**63 - 1


class Neighbours:
    """`trim.OtherShards` by partition: whoever answers for one speaks for its store."""

    def __init__(self, shell: Shell, shares: Shares, mover: Mover) -> None:
        self._shell = shell
        self._shares = shares
        self._mover = mover

    def first(self) -> bool:
        """One shard's timer trims for all."""
        return _FIRST in self._shares.owned

    async def safe(self) -> int:
        """The least of what others and parked partitions have on disk."""
        shares = self._shares
        parked = [shares.seq(part) for part in shares.parked]
        theirs = [part for part in range(subjects.PARTITIONS) if part not in shares.owned]
        asked = await asyncio.gather(*(self._ask(part, SafeRequest()) for part in theirs))
        return min([*parked, *(reply.seq for reply in asked)], default=_ALL)

    async def note(self, trimmed: int, trimming: Trimming) -> None:
        """Told once to each store, by a partition of its."""
        stores = {line.store: part for part, line in enumerate(self._mover.table) if line.store != self._mover.me.store}
        request = SafeRequest(True, trimmed, trimming.server, trimming.upto)
        await asyncio.gather(*(self._ask(part, request) for part in stores.values()))

    async def _ask(self, part: int, request: SafeRequest) -> SafeReply:
        try:
            reply: SafeReply = await self._shell.ask(
                subjects.service("persist", part, "safe"), request, SafeReply, _ASK_S
            )
        except RequestFailed as error:
            raise Retryable(f"MEMORY is not trimmed: partition {part}: {error}") from error
        return reply
