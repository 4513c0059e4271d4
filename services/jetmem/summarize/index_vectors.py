"""Vectors of what was said, asked of index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from jetmem.adapters.nats_shell import Shell
from jetmem.domain.extract import Floats
from jetmem.runtime import limits
from jetmem.summarize.ports import EntryVectors
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


class Fetched(NamedTuple):
    """Vectors of one model by their entries' numbers. Of entries up to `upto` there are no more than these."""

    model: str
    held: dict[int, Floats]
    upto: int

    def whole(self, rseqs: Sequence[int]) -> bool:
        """Whether all of these that ever get a vector have it."""
        return max(rseqs) <= self.upto or all(rseq in self.held for rseq in rseqs)


async def fetched(ask: EntryVectors, tenant: str, rseqs: Sequence[int]) -> Fetched | None:
    """Vectors of any number of entries, at least one; None while index changes its model, or is of another age than we.

    Raises:
        RequestFailed: index does not answer.
    """
    most = limits.VECTORS_AT_ONCE
    wanted = sorted(set(rseqs))
    replies = [await ask(tenant, wanted[start : start + most]) for start in range(0, len(wanted), most)]
    models = {reply.model for reply in replies}
    raws = [raw for reply in replies for raw in reply.vectors]
    if len(models) != 1 or len(raws) != len(wanted):
        return None
    held = {rseq: np.frombuffer(raw, np.float32) for rseq, raw in zip(wanted, raws, strict=True) if raw}
    return Fetched(models.pop(), held, min(reply.at.rseq for reply in replies))
