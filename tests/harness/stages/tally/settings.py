"""Settings of tally."""

from __future__ import annotations

import msgspec


class TallySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How tally counts.

    Attributes:
        read_threads: Questions answered at once.
    """

    read_threads: int = 1
