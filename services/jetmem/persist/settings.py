"""Settings of persist."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem.runtime.settings import Seconds, Threads


class PersistSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How persist trims, purges, and erases what expires.

    Attributes:
        keep_hours: Recorded messages stay in MEMORY this long, for a projection or an audit to look back.
        trim_bytes_min: … and longer, until so many bytes can go at once; each trim erases some 8 MiB slowly.
        trim_every_s: How often trimming is considered.
        full_share: Above this share of MEMORY's `max_bytes`, recorded messages go before `keep_hours` is over.
        purge_delay_s: A forget's files are rewritten this long after it, so that several share one rewriting.
        expire_every_s: How often events past their `expires_at` are forgotten, which rewrites files; 0 for never.
        accept_gap: Start although MEMORY no longer holds what the checkpoint expects (data was lost).
        read_threads: Questions answered at once.
    """

    keep_hours: Annotated[float, Meta(ge=0, le=87_600)] = 24.0
    trim_bytes_min: Annotated[int, Meta(ge=0, le=2**50)] = 256 * 1024 * 1024
    trim_every_s: Seconds = 60.0
    full_share: Annotated[float, Meta(gt=0, le=1)] = 0.8
    purge_delay_s: Annotated[float, Meta(ge=0, le=86_400)] = 5.0
    expire_every_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    accept_gap: bool = False
    read_threads: Threads = 4
