"""What an operator's command asks learn for, to share counts with others. MessagePack, never seen by users."""

from __future__ import annotations

import msgspec

#: Procedures of one reply; with the longest names some 500 kB.
PAGE: int = 500


class ExportRequest(msgspec.Struct, frozen=True):
    """Counts of a tenant's procedures, in pages; with `start` 0 they are taken anew, else those of `version` go on.

    `source` is what they are to be called, `epsilon` the privacy loss of a run (0: exact).
    """

    tenant: str
    source: str
    epsilon: float = 0.0
    version: int = 0
    start: int = 0


class ExportReply(msgspec.Struct, frozen=True):
    """Procedures with runs and successes, by name. `version` is the last entry counted, `left_out` are too many."""

    version: int
    procedures: list[tuple[str, float, float]]
    more: bool = False
    left_out: int = 0
