"""What query needs of the other stages and of the broker."""

from __future__ import annotations

from datetime import tzinfo
from typing import Any, Protocol, TypeVar

from jetmem_schemas.internal import StageStatus

T = TypeVar("T")


class Stages(Protocol):
    """The other stages as seen from here; see `stages.ShellStages`.

    Every call answers within `timeout_s` or raises `RequestFailed`: `unavailable` when nobody listens, `timeout`,
    or the code that the other stage gave.
    """

    async def ask(self, stage: str, verb: str, tenant: str, request: Any, reply: type[T], timeout_s: float) -> T:
        """Ask the process of a stage that serves this tenant, or any replica; what it can be asked is in `internal`."""

    async def own_status(self) -> StageStatus:
        """How this process is doing."""

    async def dead_letters(self, tenant: str, timeout_s: float) -> int:
        """How many dead letters of this tenant are stored."""

    async def last_seq(self, timeout_s: float) -> int:
        """The sequence of MEMORY's last message, of all tenants."""

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> int:
        """Publish to MEMORY once; returns the sequence. A failure may still have stored it."""


class Zones(Protocol):
    """Whose days a tenant's days are."""

    def own(self, tenant: str) -> tzinfo | None:
        """What the tenant set; None if nothing."""

    @property
    def default(self) -> tzinfo:
        """Of tenants that set none."""
