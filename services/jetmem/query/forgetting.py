"""`forget`: publish the command, wait until no query returns what it erased, say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from ulid import ULID

from jetmem import flow
from jetmem.query.core import Standing
from jetmem.query.patience import Patience
from jetmem.query.ports import Stages
from jetmem.query.settings import QuerySettings
from jetmem.runtime import limits
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import subjects
from jetmem_schemas.events import Forget, check_forget, epoch_ms
from jetmem_schemas.internal import AppliedReply, AppliedRequest, CoverReply, CoverRequest
from jetmem_schemas.requests import ForgetReply, ForgetRequest

T = TypeVar("T")
PROJECTIONS: Final = tuple(stage for stage in flow.STAGES if stage.projects)
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
    stages: Stages, clock: Clock, settings: QuerySettings, tenant: str, request: ForgetRequest, patience: Patience
) -> ForgetReply:
    """Erase, and wait.

    The command is ordered with what it erases: once published it is applied, whether or not anyone waits.

    Raises:
        SchemaError: The command selects nothing; nothing is published.
        RequestFailed: `unavailable`: no acknowledgement. The command may have been stored; asking again is safe.
    """
    command = command_of(request, str(ULID()))
    seq = await _publish(stages, clock, settings, tenant, command)
    deadline = clock.monotonic() + max(settings.forget_wait_s, request.wait_ms / 1000)
    standing = Standing(seq)
    covered = await _recorded(stages, clock, deadline, tenant, seq)
    if covered is None:
        return _reply(standing, patience, "accepted", seq, 0, ["persist", *(stage.name for stage in PROJECTIONS)])
    standing.covered(covered)
    asked = AppliedRequest(tenant, covered.rseq, 0)
    answers = await asyncio.gather(*(_applied(stages, clock, deadline, stage.name, asked) for stage in PROJECTIONS))
    erased = await _count(stages, settings, tenant, seq)
    waiting: list[str] = []
    for stage, answer in zip(PROJECTIONS, answers, strict=True):
        if answer is None:
            waiting.append(stage.name)
            standing.late(list(stage.arms))
        elif stage.arms:
            standing.arm_at("text", answer.text.seq, late=False)
            # Erased there too, but vectors of earlier events may still be on their way: no claim beyond its own.
            standing.arm_at("vector", answer.vector.seq, late=True)
    return _reply(standing, patience, "accepted" if waiting else "applied", seq, erased, waiting)


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
        reply = await stages.cover(tenant, CoverRequest(seq, int(wait_s * 1000)), wait_s + 1)
        return reply if reply.covered else None

    return await _until(clock, deadline, attempt)


async def _applied(
    stages: Stages, clock: Clock, deadline: float, stage: str, request: AppliedRequest
) -> AppliedReply | None:
    async def attempt(left_s: float) -> AppliedReply | None:
        wait_s = min(_ASK_S, left_s)
        asked = msgspec.structs.replace(request, wait_ms=int(wait_s * 1000))
        reply = await stages.applied(stage, asked, wait_s + 1)
        return None if reply.late else reply

    return await _until(clock, deadline, attempt)


async def _count(stages: Stages, settings: QuerySettings, tenant: str, seq: int) -> int:
    try:
        return await stages.erased(tenant, seq, settings.service_timeout_s)
    except RequestFailed:
        return 0


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
