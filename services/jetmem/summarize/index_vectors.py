"""Vectors of what was said, asked of index."""

from __future__ import annotations

from collections.abc import Sequence

from jetmem.adapters.nats_shell import Shell
from jetmem_schemas import subjects
from jetmem_schemas.internal import EntryVectorsReply, EntryVectorsRequest


class IndexVectors:
    """`ports.EntryVectors` over the shell's connection."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def of(self, tenant: str, rseqs: Sequence[int]) -> EntryVectorsReply:
        """Ask index."""
        subject = subjects.service("index", subjects.partition_of(tenant), "entry_vectors")
        reply: EntryVectorsReply = await self._shell.ask(
            subject, EntryVectorsRequest(tenant, list(rseqs)), EntryVectorsReply
        )
        return reply
