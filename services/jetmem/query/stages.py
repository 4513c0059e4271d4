"""The other stages, asked over the shell's connection."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import nats.errors
import nats.js.errors

from jetmem import flow
from jetmem.adapters.nats_connect import ApiError, api
from jetmem.adapters.nats_shell import Shell
from jetmem.runtime.errors import RequestFailed, Retryable
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus

T = TypeVar("T")
_LEAST_S: Final = 0.01


class ShellStages:
    """`ports.Stages` over NATS."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def ask(self, stage: str, verb: str, tenant: str, request: Any, reply: type[T], timeout_s: float) -> T:
        """Ask over the shell's connection."""
        place: int | str = "any" if flow.stage(stage).replicas else subjects.partition_of(tenant)
        subject = subjects.service(stage, place, verb)
        answer: T = await self._shell.ask(subject, request, reply, max(timeout_s, _LEAST_S))
        return answer

    async def own_status(self) -> StageStatus:
        """What this process says of itself."""
        return self._shell.status({})

    async def dead_letters(self, tenant: str, timeout_s: float) -> int:
        """Count by subject in the state of DEAD."""
        wanted = {"subjects_filter": subjects.dead_filter(tenant)}
        try:
            subject = subjects.raw_stream_api("STREAM.INFO", subjects.DEAD)
            info = await api(self._shell.nc, subject, wanted, timeout_s)
        except (ApiError, Retryable) as error:
            raise RequestFailed("unavailable", "dead letters cannot be counted now") from error
        return sum(int(count) for count in (info["state"].get("subjects") or {}).values())

    async def last_seq(self, timeout_s: float) -> int:
        """As the state of MEMORY says."""
        try:
            info = await api(
                self._shell.nc, subjects.raw_stream_api("STREAM.INFO", subjects.MEMORY), timeout_s=timeout_s
            )
        except (ApiError, Retryable) as error:
            raise RequestFailed("unavailable", "the broker does not say where MEMORY ends") from error
        return int(info["state"]["last_seq"])

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> int:
        """Publish through JetStream, without `Nats-Msg-Id`: the id is in the body (decision 0011)."""
        try:
            ack = await self._shell.nc.jetstream().publish(subject, body, timeout=timeout_s)
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
            raise RequestFailed("unavailable", "the broker did not store the command") from error
        return int(ack.seq)
