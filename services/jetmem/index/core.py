"""What index decides of one fact, without I/O."""

from __future__ import annotations

from typing import Final

import msgspec

from jetmem_schemas.internal import Entry

#: Numbers within a partition have 48 bits in the word index's key: 281 trillion events.
_NUMBER_BITS: Final = 48


class Said(msgspec.Struct, frozen=True):
    """The fields of an event that index reads; persist has checked them."""

    text: str = ""
    author: str = ""
    kind: str = "message"
    role: str = "user"
    tags: list[str] = []


_said = msgspec.json.Decoder(Said).decode


def said_of(entry: Entry) -> Said | None:
    """What an entry says, or None if there is nothing to find by: other kinds, blanks, events without text."""
    if entry.kind != "event":
        return None
    said = _said(entry.body)
    return said if said.text.strip() else None


def text_key(part: int, rseq: int) -> int:
    """The word index's key of an entry."""
    return (part << _NUMBER_BITS) | rseq


def number_of(key: int) -> int:
    """The entry's number of a word index's key."""
    return key & ((1 << _NUMBER_BITS) - 1)
