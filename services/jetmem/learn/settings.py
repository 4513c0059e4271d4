"""Settings of learn."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem.runtime.settings import Count, Threads


class LearnSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How learn holds what it answers from.

    Attributes:
        tasks_max: Tasks of a tenant that are compared with a question, the newest; 1.5 kB each in memory.
        board_bytes_max: Memory of what questions are answered from, over all tenants; the longest unasked go first.
        read_threads: Questions answered at once.
    """

    tasks_max: Count = 250_000
    board_bytes_max: Annotated[int, Meta(ge=1_000_000, le=1_000_000_000_000)] = 600_000_000
    read_threads: Threads = 2
