"""The table of contents over time: nodes, their bullets, and grips that link a bullet to the very words.

A node is published by `summarize` on `mem.<tenant>.derived._.node`, recorded by persist (the newest version of an id
wins, older ones stay readable), indexed by index, read by `toc`, `browse` and `expand`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from jetmem_schemas.events import Id, Time
from jetmem_schemas.subjects import memory

Level = Literal["year", "month", "week", "day", "segment"]
#: From the root down.
LEVELS: Final[tuple[Level, ...]] = ("year", "month", "week", "day", "segment")
NodeKind = Literal["observation", "preference", "procedure", "constraint", "definition"]
#: Of a grip's excerpt; longer words are found in the event itself.
EXCERPT_CHARS_MAX: Final = 200
_SEGMENT: Final = "toc:segment:"
_GRIP: Final = "grip:"
Rseq = Annotated[int, Meta(ge=0, lt=2**63)]


class Grip(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a bullet comes from: a literal piece of one event, and the events from `first` to `last` it stands for."""

    id: Id
    excerpt: Annotated[str, Meta(max_length=EXCERPT_CHARS_MAX)]
    first: Id
    last: Id
    ts: Time


class Bullet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a summary; `grips` are ids, at least one."""

    text: Annotated[str, Meta(max_length=2_000)]
    grips: Annotated[list[Id], Meta(min_length=1, max_length=64)]


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of one node.

    Attributes:
        id: `toc:<level>:<period>`, of a segment `toc:segment:<day>:<name>`.
        version: The `rseq` that it covers, taken when its inputs were read.
        gone: It is no more; nothing but `id` and `version` is read.
        level: Year, month, ISO week, day or segment.
        title: A few words.
        summary: The bullets as one text.
        bullets: In order of time.
        grips: Of a segment: what its bullets, and those of its parents, point to.
        keywords: The best of `terms` as one writes them.
        terms: Stemmed words with their counts, so that a walk loses almost nothing of the text.
        children: Ids, in order of time; of a segment none.
        start: Time of its first event.
        end: Time of its last event.
        events: How many it covers.
        agents: Who took part, sorted.
        session: Of a segment: its session.
        salience: 0..1.
        kind: What most of it is.
        pinned: Kept whatever a retention says.
        open: Provisional: more is expected.
        sources: Ranges of `rseq`, first and last, that hold all events it was made from, and maybe others.
    """

    id: Id
    version: Rseq
    gone: bool = False
    level: Level = "segment"
    title: Annotated[str, Meta(max_length=300)] = ""
    summary: Annotated[str, Meta(max_length=20_000)] = ""
    bullets: Annotated[list[Bullet], Meta(max_length=64)] = []
    grips: Annotated[list[Grip], Meta(max_length=256)] = []
    keywords: Annotated[list[str], Meta(max_length=64)] = []
    terms: dict[str, int] = {}
    children: Annotated[list[Id], Meta(max_length=10_000)] = []
    start: Time | None = None
    end: Time | None = None
    events: Annotated[int, Meta(ge=0)] = 0
    agents: list[str] = []
    session: str = ""
    salience: Annotated[float, Meta(ge=0, le=1)] = 0.0
    kind: NodeKind = "observation"
    pinned: bool = False
    open: bool = False
    sources: list[tuple[Rseq, Rseq]] = []


def grip_id(segment: str, excerpt: str, first: str, last: str) -> str:
    """The id of a segment's grip: the same whenever it is made of the same words.

    Args:
        segment: `toc:segment:<day>:<name>`.
        excerpt: The grip's.
        first: Its first event.
        last: Its last event.
    """
    said = "\0".join((excerpt, first, last)).encode()
    name = hashlib.blake2b(said, digest_size=4).hexdigest()
    return f"{_GRIP}{segment.removeprefix(_SEGMENT)}:{name}"


def segment_of(grip: str) -> str | None:
    """The node that holds a grip; None if this is no id of one."""
    place, colon, name = grip.removeprefix(_GRIP).rpartition(":")
    return f"{_SEGMENT}{place}" if colon and name and grip.startswith(_GRIP) and ":" in place else None


def derived_subject(tenant: str) -> str:
    """Where nodes of a tenant are published."""
    return memory(tenant, "derived", "_", "node")


def met(sources: list[tuple[int, int]], rseqs: list[int]) -> bool:
    """Whether any of these entries may be what a node was made from."""
    return any(first <= rseq <= last for first, last in sources for rseq in rseqs)
