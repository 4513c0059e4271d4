"""Messages of MEMORY as persist reads them, without a broker."""

from typing import Any, NamedTuple

import msgspec

from jetmem_schemas.subjects import partition_of

AT = 1_760_000_000_000


class Said(NamedTuple):
    subject: str
    data: bytes
    seq: int
    at: int = AT
    headers: dict[str, str] = {}


def stored(tenant: str, kind: str, agent: str, session: str) -> str:
    """The subject under which MEMORY keeps what was published."""
    return f"memp.{partition_of(tenant)}.{tenant}.{kind}.{agent}.{session}"


def said(
    seq: int, body: Any, *, tenant="acme", kind="event", agent="alice", session="s1", at: int = AT, headers=None
) -> Said:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Said(stored(tenant, kind, agent, session), data, seq, at, headers or {})
