"""The table of contents over time: nodes, their bullets, and grips that link a bullet to the very words.

A node is published by `summarize` on `mem.<tenant>.derived._.node`, recorded by persist (the newest version of an id
wins, older ones stay readable), indexed by index, read by `toc`, `browse` and `expand`.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import Id, Time, decode_json, epoch_ms
from jetmem_schemas.subjects import NODE, NONE, memory

Level = Literal["year", "month", "week", "day", "segment"]
#: How a node's words were chosen: among what was said by words or by vectors, or told by an endpoint.
MadeBy = Literal["words", "vectors", "endpoint"]
#: From the root down.
LEVELS: Final[tuple[Level, ...]] = ("year", "month", "week", "day", "segment")
NodeKind = Literal["observation", "preference", "procedure", "constraint", "definition"]
#: Of a grip's excerpt; longer words are found in the event itself.
EXCERPT_CHARS_MAX: Final = 200
_SEGMENT: Final = "toc:segment:"
_GRIP: Final = "grip:"
#: One group a level, in the order of `LEVELS`.
_NODE_ID: Final = re.compile(
    r"toc:(?:(year):\d{4}|(month):\d{4}-\d{2}|(week):\d{4}-W\d{2}|(day):\d{4}-\d{2}-\d{2}"
    r"|(segment):\d{4}-\d{2}-\d{2}:[A-Za-z0-9_.-]+)",
    re.ASCII,
)
#: Of a node that is gone: what may hold nobody's words.
_WORDLESS: Final = ("id", "version", "seq", "gone", "level", "start", "end", "sources")
Rseq = Annotated[int, Meta(ge=0, le=2**63 - 1)]


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
        version: The `rseq` that it covers, taken when its inputs were read; at least 1.
        seq: MEMORY sequence of the entry `version`, by which persist knows a node made from another log (one of the
            two was restored from an older copy); 0: not said.
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
        by: How its words were chosen.
        sources: Ranges of `rseq`, first and last, that hold all events it was made from, and maybe others.
    """

    id: Id
    version: Rseq
    seq: Rseq = 0
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
    by: MadeBy = "words"
    sources: list[tuple[Rseq, Rseq]] = []


def place_of(id_: str) -> tuple[Level, date, str] | None:
    """Level, first day and, of a segment, the name that a node id holds; None if no calendar has such a node."""
    found = _NODE_ID.fullmatch(id_)
    if not found or not found.lastindex:
        return None
    level = LEVELS[found.lastindex - 1]
    _, _, said, *name = id_.split(":", 3)
    try:
        match level:
            case "year":
                first = date(int(said), 1, 1)
            case "month":
                first = date(int(said[:4]), int(said[5:]), 1)
            case "week":
                first = date.fromisocalendar(int(said[:4]), int(said[6:]), 1)
            case _:
                first = date.fromisoformat(said)
    except ValueError:
        return None
    return level, first, "".join(name)


def level_of(id_: str) -> Level | None:
    """The level that a node id names; None if this is no id of one."""
    place = place_of(id_)
    return place[0] if place else None


_decode: Final = msgspec.json.Decoder(Node).decode


def decode_node(payload: bytes) -> Node:
    """Decode and check one published node.

    Raises:
        SchemaError: `bad_utf8`, `bad_json`, `too_deep`, `bad_field`, `missing_field`, `bad_time`.
    """
    node = decode_json(payload, _decode)
    level = level_of(node.id)
    if level is None:
        raise SchemaError("bad_field", "id must look like toc:day:2026-01-15", "id")
    if level != node.level and not node.gone:
        raise SchemaError("bad_field", f"level is {node.level}, the id says {level}", "level")
    if node.version < 1:
        raise SchemaError("bad_field", "version must be the number of an entry, 1 or greater", "version")
    for field, time in (("start", node.start), ("end", node.end)):
        if time is not None:
            epoch_ms(time, field)
    if node.gone:
        _check_gone(node)
    return node


def _check_gone(node: Node) -> None:
    """What ends a node outlives a forget of its events, so it may hold none of their words."""
    bare = Node(**{name: getattr(node, name) for name in _WORDLESS})
    if node != bare:
        raise SchemaError("bad_field", f"a node that is gone has no more than {', '.join(_WORDLESS)}", "gone")


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
    return memory(tenant, "derived", NONE, NODE)


def met(sources: list[tuple[int, int]], rseqs: list[int]) -> bool:
    """Whether any of these entries may be what a node was made from."""
    return any(first <= rseq <= last for first, last in sources for rseq in rseqs)
