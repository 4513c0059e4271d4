"""The other stages, asked over the shell's connection."""

from __future__ import annotations

from typing import Any

import nats.errors
import nats.js.errors

from jetmem import flow
from jetmem.adapters.nats_connect import ApiError, api
from jetmem.adapters.nats_shell import Shell
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem_schemas import subjects
from jetmem_schemas.internal import (
    ActivityReply,
    ActivityRequest,
    AppliedReply,
    AppliedRequest,
    CoverReply,
    CoverRequest,
    EncodeReply,
    EncodeRequest,
    FetchReply,
    FetchRequest,
    FindReply,
    FindRequest,
    StageStatus,
    TimelineReply,
    TimelineRequest,
)
from jetmem_schemas.subjects import partition_of


class ShellStages:
    """`ports.Stages` over NATS."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def cover(self, tenant: str, request: CoverRequest, timeout_s: float) -> CoverReply:
        """Ask persist."""
        reply: CoverReply = await self._ask("persist", tenant, "cover", request, CoverReply, timeout_s)
        return reply

    async def fetch(self, request: FetchRequest, timeout_s: float) -> FetchReply:
        """Ask persist."""
        reply: FetchReply = await self._ask("persist", request.tenant, "fetch", request, FetchReply, timeout_s)
        return reply

    async def timeline(self, request: TimelineRequest, timeout_s: float) -> TimelineReply:
        """Ask persist."""
        reply: TimelineReply = await self._ask("persist", request.tenant, "timeline", request, TimelineReply, timeout_s)
        return reply

    async def sessions(self, request: ActivityRequest, timeout_s: float) -> ActivityReply:
        """Ask persist."""
        reply: ActivityReply = await self._ask("persist", request.tenant, "sessions", request, ActivityReply, timeout_s)
        return reply

    async def agents(self, request: ActivityRequest, timeout_s: float) -> ActivityReply:
        """Ask persist."""
        reply: ActivityReply = await self._ask("persist", request.tenant, "agents", request, ActivityReply, timeout_s)
        return reply

    async def erased(self, tenant: str, seq: int, timeout_s: float) -> int:
        """Ask persist."""
        request = {"tenant": tenant, "seq": seq}
        reply = await self._ask("persist", tenant, "forgotten", request, dict[str, Any], timeout_s)
        return int(reply["erased"])

    async def find(self, request: FindRequest, timeout_s: float) -> FindReply:
        """Ask index."""
        reply: FindReply = await self._ask("index", request.tenant, "find", request, FindReply, timeout_s)
        return reply

    async def applied(self, stage: str, request: AppliedRequest, timeout_s: float) -> AppliedReply:
        """Ask a projection."""
        reply: AppliedReply = await self._ask(stage, request.tenant, "applied", request, AppliedReply, timeout_s)
        return reply

    async def encode(self, request: EncodeRequest, timeout_s: float) -> EncodeReply:
        """Ask any replica of embed."""
        subject = subjects.service("embed", "any", "encode")
        reply: EncodeReply = await self._shell.ask(subject, request, EncodeReply, timeout_s)
        return reply

    async def status(self, stage: flow.Stage, tenant: str, timeout_s: float) -> StageStatus:
        """Ask the process that serves this tenant, or any replica of a stage without partitions."""
        place: int | str = "any" if stage.replicas else partition_of(tenant)
        subject = subjects.service(stage.name, place, "status")
        reply: StageStatus = await self._shell.ask(subject, {"tenant": tenant}, StageStatus, timeout_s)
        return reply

    async def own_status(self) -> StageStatus:
        """What this process says of itself."""
        health = self._shell.health
        good, detail = health.verdict()
        return StageStatus("query", f"query-{self._shell.common.shard}", good, detail, 0, health.last_error, {})

    async def dead_letters(self, tenant: str, timeout_s: float) -> int:
        """Count by subject in the state of DEAD."""
        wanted = {"subjects_filter": subjects.dead_filter(tenant)}
        try:
            subject = subjects.raw_stream_api("STREAM.INFO", subjects.DEAD)
            info = await api(self._shell.nc, subject, wanted, timeout_s)
        except (ApiError, Retryable) as error:
            raise RequestFailed("unavailable", "dead letters cannot be counted now") from error
        return sum(int(count) for count in (info["state"].get("subjects") or {}).values())

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> int:
        """Publish through JetStream, without `Nats-Msg-Id`: the id is in the body (decision 0011)."""
        try:
            ack = await self._shell.nc.jetstream().publish(subject, body, timeout=timeout_s)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise RequestFailed("unavailable", "the broker did not store the command") from error
        return int(ack.seq)

    async def _ask(self, stage: str, tenant: str, verb: str, request: Any, reply: Any, timeout_s: float) -> Any:
        return await self._shell.ask(
            subjects.service(stage, partition_of(tenant), verb), request, reply, max(timeout_s, 0.01)
        )
