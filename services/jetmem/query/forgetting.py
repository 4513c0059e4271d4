"""`forget`: publish the command, wait until no query returns what it erased, say so; later, say how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec
from ulid import ULID

from jetmem import flow
from jetmem.query.core import Standing, wholly_late
from jetmem.query.patience import Patience
from jetmem.query.ports import Stages
from jetmem.query.settings import QuerySettings
from jetmem.runtime import limits
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import subjects
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import Forget, check_forget, epoch_ms
from jetmem_schemas.internal import AppliedReply, AppliedRequest, CoverReply, CoverRequest, ForgetState, StageStatus
from jetmem_schemas.requests import ForgetReply, ForgetRequest

T = TypeVar("T")
#: One attempt to publish; an acknowledgement includes an fsync.
_PUBLISH_S: Final = 2.0
#: One ask of a stage that is waited for; then it is asked again, for it may have been restarted.
_ASK_S: Final = 2.0


def command_of(request: ForgetRequest, id_: str) -> Forget:
    """The message to publish.

    Raises:
        SchemaError: `empty_forget`, `bad_field`, `bad_time`: it selects nothing, or in two ways.
    """
    command = Forget(
        ids=request.ids,
        agent=request.agent,
        session=request.session,
        author=request.author,
        before=request.before,
        all=request.all,
        reason=request.reason,
        id=id_,
    )
    check_forget(command)
    if command.before is not None:
        epoch_ms(command.before, "before")
    return command


async def forget(
    stages: Stages,
    clock: Clock,
    settings: QuerySettings,
    tenant: str,
    request: ForgetRequest,
    standing: Standing,
    patience: Patience,
) -> ForgetReply:
    """Erase, and wait; or, asked with `seq`, say how far an earlier forget is.

    The command is ordered with what it erases: once published it is applied, whether or not anyone waits.

    Raises:
        SchemaError: The command selects nothing; nothing is published.
        RequestFailed: `unavailable`: no acknowledgement. The command may have been stored; asking again is safe.
            Asked with `seq`: `not_found`, or persist cannot be asked.
    """
    if request.seq is not None:
        return await _state_of(stages, tenant, request, request.seq, standing, patience)
    command = command_of(request, str(ULID()))
    seq = await _publish(stages, clock, settings, tenant, command)
    projections = flow.projections()
    deadline = clock.monotonic() + max(settings.forget_wait_s, request.wait_ms / 1000)
    standing.after = seq
    covered = await _recorded(stages, clock, deadline, tenant, seq)
    if covered is None:
        return _reply(standing, patience, "accepted", seq, 0, ["persist", *(stage.name for stage in projections)])
    standing.covered(covered)
    asked = AppliedRequest(tenant, covered.rseq, 0)
    answers = await asyncio.gather(*(_applied(stages, clock, deadline, stage.name, asked) for stage in projections))
    erased = await _count(stages, settings, tenant, seq)
    waiting = _waiting(standing, covered, answers)
    return _reply(standing, patience, "accepted" if waiting else "applied", seq, erased, waiting)


async def _state_of(
    stages: Stages, tenant: str, request: ForgetRequest, seq: int, standing: Standing, patience: Patience
) -> ForgetReply:
    """Asks each stage once, after `wait_ms` for persist to reach it; nothing is published."""
    if request != ForgetRequest(seq=seq, after=request.after, wait_ms=request.wait_ms):
        raise SchemaError("bad_field", "seq asks how far a forget is and goes with no selector", "seq")
    standing.after, projections = 0, flow.projections()
    asked_at = CoverRequest(seq, patience.wait_ms())
    covered = await stages.ask("persist", "cover", tenant, asked_at, CoverReply, patience.timeout_s(waiting=True))
    standing.seen("record", covered.checkpoint)
    if not covered.covered:  # persist cannot tell yet what it will find there
        if await _beyond(stages, seq, patience):
            message = "the stream has no message of this sequence; the answer of a forget names its own, as seq"
            raise RequestFailed("not_found", message, "seq")
        return _reply(standing, patience, "accepted", seq, 0, ["persist", *(stage.name for stage in projections)])
    known = await _known(stages, tenant, seq, patience.timeout_s())
    if not known.known:
        raise RequestFailed("not_found", "no forget of this tenant is recorded under this sequence", "seq")
    asked = AppliedRequest(tenant, covered.rseq, 0)
    answers = await asyncio.gather(*(_applied_now(stages, stage.name, asked, patience) for stage in projections))
    waiting = _waiting(standing, covered, answers)
    # asked for after `applied`: what a projection has applied and not yet purged, it counts
    clean = [not waiting and await _rewritten(stages, stage, tenant, patience) for stage in projections if stage.store]
    state = "purged" if known.purged and all(clean) else "applied"
    return _reply(standing, patience, "accepted" if waiting else state, seq, known.erased, waiting)


async def _beyond(stages: Stages, seq: int, patience: Patience) -> bool:
    """Whether MEMORY ends before a sequence; not so long as the broker does not say."""
    try:
        return await stages.last_seq(patience.timeout_s()) < seq
    except RequestFailed:
        return False


async def _applied_now(stages: Stages, stage: str, asked: AppliedRequest, patience: Patience) -> AppliedReply | None:
    try:
        reply = await stages.ask(stage, "applied", asked.tenant, asked, AppliedReply, patience.timeout_s())
    except RequestFailed:
        return None
    return None if reply.late else reply


async def _rewritten(stages: Stages, stage: flow.Stage, tenant: str, patience: Patience) -> bool:
    try:
        timeout_s = patience.timeout_s()
        status = await stages.ask(stage.name, "status", tenant, {"tenant": tenant}, StageStatus, timeout_s)
    except RequestFailed:
        return False
    return status.counts.get("purging") == 0


def _waiting(standing: Standing, covered: CoverReply, answers: Sequence[AppliedReply | None]) -> list[str]:
    """Projections that have yet to apply it; takes in where the others are."""
    waiting: list[str] = []
    projections = flow.projections()
    for stage, answer in zip(projections, answers, strict=True):
        if answer is None:
            waiting.append(stage.name)
            standing.late(list(stage.arms))
            continue
        # Erased everywhere, but what an arm lacks of earlier events may be on its way: no claim beyond its own then.
        behind = wholly_late(answer, covered.rseq)
        for arm, head in answer.at.items():
            standing.arm_at(arm, head.seq, late=arm in behind)
    return waiting


def _reply(
    standing: Standing, patience: Patience, state: str, seq: int, erased: int, waiting: list[str]
) -> ForgetReply:
    if waiting:
        standing.late(["record"] if "persist" in waiting else [])
    return ForgetReply(**standing.common(patience.took_ms()), state=state, seq=seq, erased=erased, waiting=waiting)


async def _publish(stages: Stages, clock: Clock, settings: QuerySettings, tenant: str, command: Forget) -> int:
    """Publish under one id until it is acknowledged: what was stored twice is applied once."""
    subject = subjects.memory(tenant, "forget", command.agent or subjects.NONE, command.session or subjects.NONE)
    body = msgspec.json.encode(command)
    deadline = clock.monotonic() + settings.service_timeout_s

    async def attempt(left_s: float) -> int:
        return await stages.publish(subject, body, min(_PUBLISH_S, left_s))

    seq = await _until(clock, deadline, attempt)
    if seq is None:
        raise RequestFailed("unavailable", "the broker did not acknowledge the forget; ask again, that is safe")
    return seq


async def _recorded(stages: Stages, clock: Clock, deadline: float, tenant: str, seq: int) -> CoverReply | None:
    async def attempt(left_s: float) -> CoverReply | None:
        wait_s = min(_ASK_S, left_s)
        request = CoverRequest(seq, int(wait_s * 1000))
        reply = await stages.ask("persist", "cover", tenant, request, CoverReply, wait_s + 1)
        return reply if reply.covered else None

    return await _until(clock, deadline, attempt)


async def _applied(
    stages: Stages, clock: Clock, deadline: float, stage: str, request: AppliedRequest
) -> AppliedReply | None:
    async def attempt(left_s: float) -> AppliedReply | None:
        wait_s = min(_ASK_S, left_s)
        asked = msgspec.structs.replace(request, wait_ms=int(wait_s * 1000))
        reply = await stages.ask(stage, "applied", request.tenant, asked, AppliedReply, wait_s + 1)
        return None if reply.late else reply

    return await _until(clock, deadline, attempt)


async def _count(stages: Stages, settings: QuerySettings, tenant: str, seq: int) -> int:
    try:
        return (await _known(stages, tenant, seq, settings.service_timeout_s)).erased
    except RequestFailed:
        return 0


async def _known(stages: Stages, tenant: str, seq: int, timeout_s: float) -> ForgetState:
    """What persist knows of a forget."""
    return await stages.ask("persist", "forgotten", tenant, {"tenant": tenant, "seq": seq}, ForgetState, timeout_s)


async def _until(clock: Clock, deadline: float, attempt: Callable[[float], Awaitable[T | None]]) -> T | None:
    """Try until there is a result or the time is up; a stage that is down may come back in time."""
    while (left_s := deadline - clock.monotonic()) > 0:
        try:
            result = await attempt(left_s)
        except RequestFailed:
            result = None
        if result is not None:
            return result
        await asyncio.sleep(min(limits.RETRY_FIRST_S, max(0.0, left_s)))
    return None
