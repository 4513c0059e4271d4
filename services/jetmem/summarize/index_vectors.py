"""Vectors of what was said, asked of index."""

from __future__ import annotations

from typing import Final

from jetmem.adapters.nats_shell import Shell
from jetmem_schemas import subjects
from jetmem_schemas.internal import EntryVectorsReply, EntryVectorsRequest

#: Longer than an index takes that imports meanwhile; nothing waits for it.
_WAIT_S: Final = 10.0


class IndexVectors:
    """`ports.EntryVectors` over the shell's connection."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def __call__(self, tenant: str, rseqs: list[int]) -> EntryVectorsReply:
        """Ask index."""
        subject = subjects.service("index", subjects.partition_of(tenant), "entry_vectors")
        reply: EntryVectorsReply = await self._shell.ask(
            subject, EntryVectorsRequest(tenant, rseqs), EntryVectorsReply, _WAIT_S
        )
        return reply
