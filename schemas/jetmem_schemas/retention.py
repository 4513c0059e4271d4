"""What `jetmem tenant set … --dry-run` asks index for. MessagePack, never seen by users."""

from __future__ import annotations

import msgspec

from jetmem_schemas.tenants import Retention


class RetentionRequest(msgspec.Struct, frozen=True):
    """What would a retention do to a tenant's nodes now? Nothing is changed."""

    tenant: str
    retention: Retention


class LevelRetention(msgspec.Struct):
    """Nodes of one level.

    Attributes:
        days: The limit; 0: none.
        indexed: In the index now.
        out: Not in the index now.
        leaving: Those of `indexed` that would leave at once.
        returning: Those of `out` that would come back.
        next_ms: When the first of those that would stay would leave, epoch ms; None: none ever would.
    """

    days: int = 0
    indexed: int = 0
    out: int = 0
    leaving: int = 0
    returning: int = 0
    next_ms: int | None = None


class RetentionReply(msgspec.Struct, frozen=True):
    """By level, from the root down."""

    levels: dict[str, LevelRetention]
