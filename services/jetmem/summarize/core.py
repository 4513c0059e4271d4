"""What summarize decides, without I/O: what of an event counts, what a node says, what it is published as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Final

import msgspec

from jetmem.domain import calendar, extract, segments
from jetmem.domain.calendar import NodeId
from jetmem.domain.extract import Said
from jetmem.domain.lanes import Item, Segment
from jetmem.domain.summaries import Summary
from jetmem.summarize.rows import EventRow, NodeRow
from jetmem_schemas import toc
from jetmem_schemas.internal import Entry

#: Ranges of numbers that a node says it was made from; what lies between near ones is taken for its own.
SOURCES_MAX: Final = 128
#: Children that a node lists (its schema's bound), and bullets of them that its own are chosen from: 1 s of work.
CHILDREN_MAX: Final = 10_000
CANDIDATES_MAX: Final = 4_000
#: Agents that a node names, so that it fits a message with all its children.
AGENTS_MAX: Final = 4_000
_TEXT_CHARS_MAX: Final = 2_000
_DIGEST_BYTES: Final = 16


class _Body(msgspec.Struct, frozen=True):
    """The fields of an event that summarize reads; persist has checked them."""

    text: str = ""
    author: str = ""
    kind: str = "message"
    role: str = "user"
    importance: float | None = None


class Recorded(msgspec.Struct, frozen=True):
    """What of a recorded node is always read."""

    id: str
    version: int
    gone: bool = False


_body = msgspec.json.Decoder(_Body).decode
_full = msgspec.json.Decoder(toc.Node).decode
recorded = msgspec.json.Decoder(Recorded).decode
_encode = msgspec.json.Encoder().encode


def event_of(entry: Entry) -> tuple[EventRow, Item]:
    """An event as it is kept, and as cuts see it."""
    body = _body(entry.body)
    said = Said(entry.id, entry.ts, body.text, body.author, body.role, body.kind, body.importance)
    kept = msgspec.structs.replace(said, text=extract.looked_at(said))
    item = Item(entry.ts, entry.rseq, entry.id, segments.tokens_of(body.text, body.kind))
    return EventRow(entry.agent, entry.session, kept), item


def ranges(numbers: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch, then the nearest ones until at most `SOURCES_MAX` are left."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(numbers):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    if len(joined) <= SOURCES_MAX:
        return joined
    gaps = sorted(range(1, len(joined)), key=lambda n: joined[n - 1][1] - joined[n][0])
    cuts = [0, *sorted(gaps[: SOURCES_MAX - 1]), len(joined)]
    return [(joined[a][0], joined[b - 1][1]) for a, b in pairwise(cuts)]


def segment_sources(segment: Segment, corrected: Mapping[str, int]) -> list[tuple[int, int]]:
    """Of what a segment's node is made: its events, and the entries that correct any, for without them it is another.

    So what is done to a node when a source is erased brings back what an erased event corrected.
    """
    return ranges((seq, seq) for seq in (*(item.seq for item in segment.items), *corrected.values()))


def segment_row(
    node: NodeId, place: bytes, segment: Segment, agent: str, summary: Summary, corrected: Mapping[str, int]
) -> NodeRow:
    """A segment's node, not yet published. `corrected`: its events that are, with the entries that correct them."""
    name = str(node)
    return NodeRow(
        version=0,
        place=place,
        summary=summary,
        grips=[
            (grip.excerpt, grip.first, grip.last, toc.grip_id(name, grip.excerpt, grip.first, grip.last))
            for grip in _grips(summary)
        ],
        start=segment.start,
        end=segment.end,
        events=len(segment.items) - segment.overlap,  # each counts once, so that sums are right
        agents=[agent],
        open=segment.open,
        sources=segment_sources(segment, corrected),
    )


def rollup_row(children: Sequence[NodeRow], summary: Summary) -> NodeRow:
    """The node above these, at least one, in order; not yet published. Its bullets' grips are theirs."""
    known = {(grip[0], grip[1], grip[2]): grip for child in reversed(children) for grip in child.grips}
    start, end = calendar.union((child.start, child.end) for child in children)
    return NodeRow(
        version=0,
        summary=summary,
        grips=[known[grip.excerpt, grip.first, grip.last] for grip in _grips(summary)],
        start=start,
        end=end,
        events=sum(child.events for child in children),
        agents=sorted({agent for child in children for agent in child.agents})[:AGENTS_MAX],
        open=any(child.open for child in children),
        sources=ranges(each for child in children for each in child.sources),
    )


def trimmed(children: Sequence[NodeRow]) -> list[Summary]:
    """Their summaries, with fewer bullets each where there are so many that choosing among them would take seconds."""
    made = [child.summary for child in children if child.summary is not None]
    total = sum(len(summary.bullets) for summary in made)
    if total <= CANDIDATES_MAX:
        return made
    each = max(1, CANDIDATES_MAX // len(made))
    if len(made) > CANDIDATES_MAX:
        told = sorted(range(len(made)), key=lambda n: -made[n].salience)[:CANDIDATES_MAX]
        keep = set(told)
        return [
            msgspec.structs.replace(summary, bullets=summary.bullets[:1] if n in keep else [])
            for n, summary in enumerate(made)
        ]
    return [msgspec.structs.replace(summary, bullets=summary.bullets[:each]) for summary in made]


def _grips(summary: Summary) -> list[extract.Grip]:
    """Each once, in order."""
    every = [grip for bullet in summary.bullets for grip in bullet.grips]
    return list({(grip.excerpt, grip.first, grip.last): grip for grip in every}.values())


def published(node: NodeId, row: NodeRow, seq: int, children: Sequence[str], session: str) -> toc.Node:
    """A node as it is published; gone if the row holds nothing. `seq`: MEMORY sequence of the row's version."""
    summary = row.summary
    if summary is None:
        return toc.Node(id=str(node), version=row.version, seq=seq, gone=True, level=node.level)
    ids = {(excerpt, first, last): name for excerpt, first, last, name in row.grips}
    is_segment = node.level == "segment"
    return toc.Node(
        id=str(node),
        version=row.version,
        seq=seq,
        level=node.level,
        title=summary.title,
        summary=summary.summary,
        bullets=[
            toc.Bullet(text=b.text[:_TEXT_CHARS_MAX], grips=[ids[g.excerpt, g.first, g.last] for g in b.grips])
            for b in summary.bullets
        ],
        grips=[
            toc.Grip(id=ids[g.excerpt, g.first, g.last], excerpt=g.excerpt, first=g.first, last=g.last, ts=g.ts)
            for g in (_grips(summary) if is_segment else [])
        ],
        keywords=summary.keywords,
        terms=summary.sketch,
        children=list(children[-CHILDREN_MAX:]),
        start=row.start,
        end=row.end,
        events=row.events,
        agents=row.agents,
        session=session,
        salience=summary.salience,
        kind=summary.kind,
        open=row.open,
        by=row.by,
        sources=row.sources,
    )


def encoded(node: toc.Node) -> bytes:
    """The message's body."""
    return _encode(node)


def digest(node: toc.Node) -> bytes:
    """Of what a node says, whatever its version, and however its words were chosen."""
    bare = msgspec.structs.replace(node, version=0, seq=0, by="words")
    return blake2b(_encode(bare), digest_size=_DIGEST_BYTES).digest()


def full(body: bytes) -> toc.Node | None:
    """A recorded node; None if it is none of ours."""
    try:
        return _full(body)
    except msgspec.DecodeError:
        return None


def digest_of(body: bytes) -> bytes:
    """The digest of a recorded one; b"" if it is none of ours."""
    node = full(body)
    return digest(node) if node else b""
