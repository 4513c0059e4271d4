"""Where events stand in the table of contents: what query asks summarize. MessagePack, never seen by users."""

from __future__ import annotations

import msgspec


class SegmentsRequest(msgspec.Struct, frozen=True):
    """Asks which segments these entries are in."""

    tenant: str
    rseqs: list[int]


class SegmentsReply(msgspec.Struct, frozen=True):
    """Ids of segments in the order asked, "" where none is recorded."""

    segments: list[str]
