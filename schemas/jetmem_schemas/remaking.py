"""What operators' commands ask summarize for. MessagePack, never seen by users."""

from __future__ import annotations

import msgspec


class TenantsReply(msgspec.Struct, frozen=True):
    """Tenants of a partition of whom summarize holds something."""

    tenants: list[str]


class RemakeRequest(msgspec.Struct, frozen=True):
    """Make a tenant's nodes again, from a day on (`2026-01-15`; "": all); with `dry_run` only say what that does."""

    tenant: str
    first: str = ""
    dry_run: bool = False


class RemakeReply(msgspec.Struct, frozen=True):
    """It is noted and goes on by itself; `remaking` in the counts of `status` says how many nodes are left.

    Of a dry run: by level, nodes that would be made again, and those of them that would say something else, at most:
    one above a node that would counts as well. `paused`: nothing is made until the tenant is resumed.
    """

    paused: bool
    levels: dict[str, tuple[int, int]] = {}
