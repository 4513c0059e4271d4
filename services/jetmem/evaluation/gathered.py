"""Candidates of questions, taken once from the running service, so that rankings of them can be tried offline.

What is asked is what the query stage asks: the question's vector, the fusion's best, and beside them the record and the
vectors of a tenant. `ranking.rank` over these is what the service answers with the same options.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import nats
import numpy as np

from jetmem.domain import ranking
from jetmem.evaluation.locomo import Question
from jetmem.index.core import said_of
from jetmem.runtime import limits
from jetmem.runtime.corrections import corrected_id
from jetmem.runtime.errors import Broken
from jetmem_schemas import subjects
from jetmem_schemas.failures import ERROR_CODE_HEADER
from jetmem_schemas.internal import (
    EncodeReply,
    EncodeRequest,
    Entry,
    EntryVectorsReply,
    EntryVectorsRequest,
    FindReply,
    FindRequest,
    ScanReply,
    ScanRequest,
    decode_entry,
    encode,
)

T = TypeVar("T")
_ANSWER_S: Final = 20.0
#: Asks a stage about a tenant: stage, verb, tenant, request, what comes back.
Ask = Callable[[str, str, str, Any, type[Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """One question and its candidates.

    Attributes:
        ids: Of the candidates, best first as the fusion has them.
        candidates: What the options look at, in the same order.
    """

    question: Question
    ids: list[str]
    candidates: ranking.Candidates


@dataclass(frozen=True, slots=True)
class _Known:
    """One event of a tenant: its entry, what its author, its text and others say of its weight, its vector."""

    entry: Entry
    importance: float
    lasting: bool
    corrected: bool
    vector: bytes


async def gather(url: str, questions: Sequence[Question], step: Callable[[], None]) -> list[Gathered]:
    """Ask every question once, one after the other.

    Raises:
        Broken: A stage refuses, or answers without vectors.
    """
    nc = await nats.connect(url, allow_reconnect=False)

    async def ask(stage: str, verb: str, tenant: str, request: Any, kind: type[T]) -> T:
        place: int | str = "any" if stage == "embed" else subjects.partition_of(tenant)
        reply = await nc.request(subjects.service(stage, place, verb), encode(request), timeout=_ANSWER_S)
        if ERROR_CODE_HEADER in (reply.headers or {}):
            raise Broken(f"{stage} refused {verb}: {reply.data.decode(errors='replace')[:200]}")
        return msgspec.msgpack.decode(reply.data, type=kind)

    try:
        tenants = dict.fromkeys(each.tenant for each in questions)
        known = {tenant: await _known(ask, tenant) for tenant in tenants}
        return [await _gathered(ask, question, known[question.tenant], step) for question in questions]
    finally:
        await nc.close()


async def _known(ask: Ask, tenant: str) -> dict[str, _Known]:
    """Every event of a tenant that has text."""
    entries = await _entries(ask, tenant)
    corrected = {corrected_id(entry) for entry in entries}
    held = [(entry, said) for entry in entries if (said := said_of(entry)) is not None]
    vectors: list[bytes] = []
    for part in _chunks([entry.rseq for entry, _ in held], limits.VECTORS_AT_ONCE):
        reply = await ask("index", "entry_vectors", tenant, EntryVectorsRequest(tenant, part), EntryVectorsReply)
        vectors += reply.vectors
    return {
        entry.id: _Known(
            entry,
            np.nan if said.importance is None else said.importance,
            ranking.lasting(said.text),
            entry.id in corrected,
            vector,
        )
        for (entry, said), vector in zip(held, vectors, strict=True)
    }


async def _entries(ask: Ask, tenant: str) -> list[Entry]:
    found: list[Entry] = []
    after = after_seq = 0
    while True:
        reply = await ask("persist", "scan", tenant, ScanRequest(after, after_seq), ScanReply)
        entries = [decode_entry(raw) for raw in reply.entries]
        if not entries:
            return found
        found += [entry for entry in entries if entry.tenant == tenant]
        after, after_seq = entries[-1].rseq, entries[-1].seq


def _chunks(values: list[int], size: int) -> Iterator[list[int]]:
    return (values[start : start + size] for start in range(0, len(values), size))


async def _gathered(ask: Ask, question: Question, known: dict[str, _Known], step: Callable[[], None]) -> Gathered:
    made = await ask("embed", "encode", question.tenant, EncodeRequest([question.question]), EncodeReply)
    request = FindRequest(question.tenant, question.question, "hybrid", ranking.CANDIDATES, made.vectors[0], made.model)
    reply = await ask("index", "find", question.tenant, request, FindReply)
    if reply.missing:
        raise Broken(f"index answers without {', '.join(reply.missing)}")
    step()
    events = [known[found.id] for found in reply.hits]
    dimensions = len(made.vectors[0]) // 4
    nothing = bytes(4 * dimensions)
    raw = b"".join(each.vector or nothing for each in events)
    candidates = ranking.Candidates(
        score=np.array([found.score for found in reply.hits], dtype=np.float64),
        ts=np.array([each.entry.ts for each in events], dtype=np.int64),
        order=np.array([each.entry.rseq for each in events], dtype=np.int64),
        importance=np.array([each.importance for each in events], dtype=np.float64),
        lasting=np.array([each.lasting for each in events], dtype=np.bool_),
        corrected=np.array([each.corrected for each in events], dtype=np.bool_),
        likeness=ranking.likeness(np.frombuffer(raw, dtype=np.float32).reshape(len(events), dimensions)),
    )
    return Gathered(question, [found.id for found in reply.hits], candidates)
