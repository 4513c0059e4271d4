"""What index decides of one fact, without I/O."""

from __future__ import annotations

import msgspec

from jetmem_schemas.internal import Entry


class Said(msgspec.Struct, frozen=True):
    """The fields of an event that index reads; persist has checked them."""

    text: str = ""
    author: str = ""
    kind: str = "message"
    role: str = "user"
    tags: list[str] = []
    importance: float | None = None


_said = msgspec.json.Decoder(Said).decode


def said_of(entry: Entry) -> Said | None:
    """What an entry says, or None if there is nothing to find by: other kinds, blanks, events without text."""
    if entry.kind != "event":
        return None
    said = _said(entry.body)
    return said if said.text.strip() else None
