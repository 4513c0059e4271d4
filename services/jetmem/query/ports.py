"""What query needs of the other stages and of the broker."""

from __future__ import annotations

from typing import Protocol

from jetmem import flow
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


class Stages(Protocol):
    """The other stages as seen from here; see `stages.ShellStages`.

    Every call answers within `timeout_s` or raises `RequestFailed`: `unavailable` when nobody listens, `timeout`,
    or the code that the other stage gave.
    """

    async def cover(self, tenant: str, request: CoverRequest, timeout_s: float) -> CoverReply:
        """Which entry of the tenant's partition covers a MEMORY sequence."""

    async def fetch(self, request: FetchRequest, timeout_s: float) -> FetchReply:
        """Records by id; ids not held are absent."""

    async def timeline(self, request: TimelineRequest, timeout_s: float) -> TimelineReply:
        """Records by time."""

    async def sessions(self, request: ActivityRequest, timeout_s: float) -> ActivityReply:
        """Sessions, the latest first."""

    async def agents(self, request: ActivityRequest, timeout_s: float) -> ActivityReply:
        """Agents, the latest first."""

    async def erased(self, tenant: str, seq: int, timeout_s: float) -> int:
        """How many events the forget with this MEMORY sequence erased; 0 if it is not known."""

    async def find(self, request: FindRequest, timeout_s: float) -> FindReply:
        """Ranked candidates."""

    async def applied(self, stage: str, request: AppliedRequest, timeout_s: float) -> AppliedReply:
        """Wait until a projection has applied an entry."""

    async def encode(self, request: EncodeRequest, timeout_s: float) -> EncodeReply:
        """Vectors of a question."""

    async def status(self, stage: flow.Stage, tenant: str, timeout_s: float) -> StageStatus:
        """How the process of a stage that serves this tenant is doing."""

    async def own_status(self) -> StageStatus:
        """How this process is doing."""

    async def dead_letters(self, tenant: str, timeout_s: float) -> int:
        """How many dead letters of this tenant are stored."""

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> int:
        """Publish to MEMORY once; returns the sequence. A failure may still have stored it."""
