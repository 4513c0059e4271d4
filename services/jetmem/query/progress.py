"""`status`: how far each stage is for one tenant. A stage that does not answer is `down`, never an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from jetmem import flow
from jetmem.query.core import Standing, wholly_late
from jetmem.query.patience import Patience, cover
from jetmem.query.ports import Stages
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import subjects
from jetmem_schemas.internal import AppliedReply, AppliedRequest, Counts, StageStatus
from jetmem_schemas.requests import Status, StatusReply
from jetmem_schemas.shown import StageItem

#: Answers for itself.
_SELF: Final = "query"
#: Shorter than an answer's patience: a supervisor asks this while stages start.
_STATUS_S: Final = 1.5

#: Vectors of a backlog come by the second.
_POLL_S: Final = 0.1


async def status(stages: Stages, tenant: str, request: Status, standing: Standing, patience: Patience) -> StatusReply:
    """Answer from whoever answers; with `after`, first wait until every arm has it, vectors included."""
    await _barrier(stages, tenant, standing, patience)
    others = [stage for stage in flow.STAGES if stage.name != _SELF]
    asking = asyncio.gather(*(_ask(stages, stage, tenant, patience) for stage in others))
    answers, dead = await asyncio.gather(asking, _dead_letters(stages, tenant, patience))
    asked = list(zip(others, answers, strict=True))
    record: Counts = {}
    for stage, answer in asked:
        if answer is None:
            standing.without(stage.arms)
            continue
        if stage.reads == subjects.MEMORY:
            record = answer.counts
        for arm in stage.arms:
            if f"{arm}_seq" in answer.counts:
                standing.seen(arm, int(answer.counts[f"{arm}_seq"]))
    items = [_item(stage.name, answer) for stage, answer in asked]
    items.append(_item(_SELF, await stages.own_status()))
    return StatusReply(
        **standing.common(patience.took_ms()),
        stages=items,
        events=int(record.get("events", 0)),
        sessions=int(record.get("sessions", 0)),
        agents=int(record.get("agents", 0)),
        purging=_purging(asked, int(record.get("forgot_seq", 0))),
        pending_vectors=sum(int(answer.counts.get("pending_vectors", 0)) for answer in answers if answer),
        dead_letters=dead,
    )


def _purging(asked: Sequence[tuple[flow.Stage, StageStatus | None]], forgot_seq: int) -> int:
    """Erasures that some stage's files may still hold: also where it is down, or behind the last forget."""
    purging = 0
    for stage, answer in asked:
        held = answer.counts if answer else {}
        reached = [int(held[f"{arm}_seq"]) for arm in stage.arms if f"{arm}_seq" in held]
        behind = stage.store and (answer is None or (bool(reached) and max(reached) < forgot_seq))
        purging += int(held.get("purging", 0)) or int(bool(behind and forgot_seq))
    return purging


async def _barrier(stages: Stages, tenant: str, standing: Standing, patience: Patience) -> None:
    try:
        covered = await cover(stages, tenant, standing, patience)
    except RequestFailed:
        standing.late(["record"])
        return
    if covered is None or not covered.covered:
        return
    projections = flow.projections()
    request = AppliedRequest(tenant, covered.rseq, 0)
    replies = await asyncio.gather(*(applied(stages, stage.name, request, patience) for stage in projections))
    for stage, reply in zip(projections, replies, strict=True):
        if reply is None:
            standing.late(stage.arms)
            continue
        late = wholly_late(reply, covered.rseq)
        for arm, head in reply.at.items():
            standing.arm_at(arm, head.seq, late=arm in late)
        standing.late(late)


async def awaited(
    stages: Stages, stage: str, tenant: str, standing: Standing, patience: Patience, arms: Sequence[str] | None = None
) -> int:
    """The entry that covers `after`, once a projection has it or the time for that is up; 0 without `after`.

    With `arms`, only those of it are waited for.

    Raises:
        RequestFailed: persist does not answer.
    """
    covered = await cover(stages, tenant, standing, patience)
    if covered is None or not covered.covered:
        return 0
    await applied(stages, stage, AppliedRequest(tenant, covered.rseq, 0), patience, arms)
    return covered.rseq


async def applied(
    stages: Stages, stage: str, request: AppliedRequest, patience: Patience, arms: Sequence[str] | None = None
) -> AppliedReply | None:
    """Ask until every arm, or each of `arms`, has it, nothing pending, or the wait is over; the last reply counts."""
    reply: AppliedReply | None = None
    while True:
        asked = msgspec.structs.replace(request, wait_ms=patience.wait_ms())
        try:
            timeout_s = patience.timeout_s(waiting=True, reserve_s=_STATUS_S)
            reply = await stages.ask(stage, "applied", request.tenant, asked, AppliedReply, timeout_s)
        except RequestFailed:
            if not patience.wait_ms():
                return reply
        if reply is not None:
            late = wholly_late(reply, request.rseq)
            if not (late if arms is None else set(late) & set(arms)):
                return reply
        if not patience.wait_ms():
            return reply
        await asyncio.sleep(_POLL_S)


async def _ask(stages: Stages, stage: flow.Stage, tenant: str, patience: Patience) -> StageStatus | None:
    timeout_s = min(_STATUS_S, patience.timeout_s())
    try:
        async with asyncio.timeout(timeout_s):
            return await stages.ask(stage.name, "status", tenant, {"tenant": tenant}, StageStatus, timeout_s)
    except (RequestFailed, TimeoutError):
        return None


async def _dead_letters(stages: Stages, tenant: str, patience: Patience) -> int | None:
    try:
        return await stages.dead_letters(tenant, min(_STATUS_S, patience.timeout_s()))
    except RequestFailed:
        return None


def _item(name: str, answer: StageStatus | None) -> StageItem:
    """What a tenant may see: not an error's words, which may hold another tenant's, nor how much of all waits."""
    if answer is None:
        return StageItem(id=name, stage=name, state="down", detail="no answer")
    working = "behind" if answer.lag else "ok"
    detail = answer.detail.partition(":")[0]
    if answer.counts.get("paused"):
        working, detail = "paused", f"{answer.counts.get('pending_nodes', 0)} nodes wait" if answer.healthy else detail
    return StageItem(
        id=answer.instance,
        stage=answer.stage,
        state=working if answer.healthy else "degraded",
        detail=detail,
        last_error=answer.last_error.partition(":")[0],
    )
