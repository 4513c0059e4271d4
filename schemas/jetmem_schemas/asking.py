"""What all questions and answers of `requests` and `procedures` have in common: their bounds, `Request`, `Reply`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, TypeAlias

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
#: A time in a question; see `Request`.
Moment: TypeAlias = (
    Annotated[datetime, Meta(description="RFC 3339; without an offset the tenant's clock")] | int | float
)
_DEGRADED: Final = (
    "what the answer lacks or has too old: `record`, `text`, `vector`, `toc`, `procedures`, `tasks`; and, about "
    "procedures, `model` and `words` while those of the tenant are made for the first time since a start or a forget"
)
Few = Annotated[list[Annotated[str, Meta(max_length=128)]], Meta(max_length=64)]


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What every question may say: read what I wrote (`after`, a PubAck's `seq`), wait up to `wait_ms`.

    A time in a question is RFC 3339, epoch ms, or without an offset (`2026-01-15T00:00:00`) the clock where the tenant
    is: as its `timezone` was set, else in that of the installation.
    """

    after: Annotated[int, Meta(ge=0, le=SEQ_MAX)] = 0
    wait_ms: Annotated[int, Meta(ge=0, le=WAIT_MS_MAX)] = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer says: up to which MEMORY `seq` each arm is fresh, what was degraded, how long it took.

    Times in it are RFC 3339 in UTC. `timezone` is where people read them, and where the question's times were taken to
    be: the tenant's, an IANA name; of a `route` for a tenant that set none the offset of `now`, like UTC+02:00.
    """

    fresh: dict[str, int]
    degraded: Annotated[list[str], Meta(description=_DEGRADED)]
    stale: bool
    took_ms: float
    timezone: Annotated[str, Meta(description="where times are read; what is in the reply is UTC")] = "UTC"
