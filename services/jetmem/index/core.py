"""What index decides of one fact, without I/O."""

from __future__ import annotations

from typing import Final

import msgspec

from jetmem_schemas import toc
from jetmem_schemas.events import Time
from jetmem_schemas.internal import Entry

_DAY_MS: Final = 86_400_000


class Said(msgspec.Struct, frozen=True):
    """The fields of an event that index reads; persist has checked them."""

    text: str = ""
    author: str = ""
    kind: str = "message"
    role: str = "user"
    tags: list[str] = []
    importance: float | None = None


class _Line(msgspec.Struct, frozen=True):
    text: str


class Told(msgspec.Struct, frozen=True):
    """The fields of a node that index reads; persist has checked them."""

    gone: bool = False
    level: str = "segment"
    title: str = ""
    summary: str = ""
    bullets: list[_Line] = []
    keywords: list[str] = []
    start: Time | None = None
    end: Time | None = None
    agents: list[str] = []
    session: str = ""
    kind: str = "observation"
    open: bool = False
    pinned: bool = False
    sources: list[tuple[int, int]] = []

    @property
    def text(self) -> str:
        """What it is found by: each thing that it says once, the shortest telling first."""
        more = [line.text for line in self.bullets if line.text not in self.summary]
        return "\n".join(filter(None, (self.title, self.summary, *more, ", ".join(self.keywords))))

    def newest(self, rseq: int) -> int:
        """The last entry that it was made of; its own, `rseq`, if it does not say."""
        return min(rseq, max((last for _, last in self.sources), default=rseq))


_told = msgspec.json.Decoder(Told).decode
_said = msgspec.json.Decoder(Said).decode


def said_of(entry: Entry) -> Said | None:
    """What an entry says, or None if there is nothing to find by: other kinds, blanks, events without text."""
    if entry.kind != "event":
        return None
    said = _said(entry.body)
    return said if said.text.strip() else None


def told_of(entry: Entry) -> Told | None:
    """What a node tells, or None if it is to be found no more: it is gone, or says nothing, or is something else."""
    if entry.kind != "derived" or toc.level_of(entry.id) is None:
        return None
    told = _told(entry.body)
    return None if told.gone or not told.text else told


def leaves_at(days: int, arrived: int) -> int | None:
    """When a node leaves the index, epoch ms; None: never.

    Args:
        days: The limit of its level; 0 for none.
        arrived: When the newest of what it was made of came, so that being made again changes nothing; 0 if that is
            not known.
    """
    return arrived + days * _DAY_MS if days and arrived else None
