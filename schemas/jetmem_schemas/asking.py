"""What all questions and answers of `requests` and `procedures` have in common: their bounds, `Request`, `Reply`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jetmem_schemas.subjects import TOKEN_PATTERN

LIMIT_MAX: Final = 1000
QUERY_CHARS_MAX: Final = 8192
WAIT_MS_MAX: Final = 60_000
CURSOR_CHARS_MAX: Final = 512
REQUEST_BYTES_MAX: Final = 256 * 1024
#: Stream sequences are unsigned 64-bit; no stream ever gets this far.
SEQ_MAX: Final = 2**63 - 1

Limit = Annotated[int, Meta(ge=1, le=LIMIT_MAX)]
Token = Annotated[str, Meta(pattern=TOKEN_PATTERN)]
Cursor = Annotated[str, Meta(max_length=CURSOR_CHARS_MAX)]
Few = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=64)]


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What every question may say: read what I wrote (`after`, a PubAck's `seq`), wait up to `wait_ms`."""

    after: Annotated[int, Meta(ge=0, le=SEQ_MAX)] = 0
    wait_ms: Annotated[int, Meta(ge=0, le=WAIT_MS_MAX)] = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer says: up to which MEMORY `seq` each arm is fresh, what was degraded, how long it took."""

    fresh: dict[str, int]
    degraded: list[str]
    stale: bool
    took_ms: float
