"""How a projection hears RECORD and asks persist, over NATS."""

from __future__ import annotations

import msgspec

from jetmem.adapters.nats_reader import OrderedReader
from jetmem.adapters.nats_shell import Shell
from jetmem_schemas import subjects
from jetmem_schemas.internal import Facts, Heads, ScanReply, ScanRequest

_facts = msgspec.msgpack.Decoder(Facts).decode
_heads = msgspec.msgpack.Decoder(Heads).decode


class RecordWire:
    """Reads RECORD from now on; whatever was before, `scan` has."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._reader: OrderedReader | None = None

    async def fetch(self, *, wait: bool) -> list[Facts | Heads]:
        """Announcements since the last call; see `runtime.projection.Wire`."""
        if self._reader is None:
            self._reader = OrderedReader(self._shell.nc, subjects.RECORD, 0, from_now=True)
        messages = await self._reader.fetch(wait=wait)
        return [_heads(m.data) if m.subject == subjects.RECORD_HEADS else _facts(m.data) for m in messages]

    async def scan(self, part: int, request: ScanRequest) -> ScanReply:
        """A slice of the log from persist."""
        reply: ScanReply = await self._shell.ask(subjects.service("persist", part, "scan"), request, ScanReply)
        return reply
