"""A run as the learning rules see it."""

from __future__ import annotations

import hashlib

import msgspec


class Ran(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One recorded run.

    `seq` is its number in the partition's log, `at_ms` its time in epoch milliseconds, not later than it came,
    `arrived_ms` the broker's when it came, 0 where that is not known.
    """

    id: str
    seq: int
    at_ms: int
    procedure: str
    success: bool
    agent: str = ""
    session: str = ""
    task: str = ""
    context: dict[str, str] = {}
    steps: tuple[str, ...] = ()
    reward: float | None = None
    duration_ms: float | None = None
    cost: float | None = None
    failure: str = ""
    lessons: tuple[str, ...] = ()
    arrived_ms: int = 0


def draw(text: str) -> int:
    """A number below 2**63 that looks random and is the same everywhere: what samples by least hash go by."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
