"""What makes a node better than its words alone, and whether it still fits; pure.

A node is made by words at once. Vectors of a segment's events, what an endpoint told of it, or what another life of
this store had recorded of it come later; each is used only for the very inputs that it was made for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, get_args

import msgspec
import numpy as np

from jetmem.domain import summaries
from jetmem.domain.calendar import NodeId
from jetmem.domain.extract import Bullet, Floats, Grip, Vectors
from jetmem.domain.lanes import Segment
from jetmem.domain.summaries import Summary
from jetmem.summarize import core
from jetmem.summarize.rows import NodeRow, VectorsRow, encode
from jetmem_schemas import toc

_DIGEST_BYTES: Final = 16
#: What is worth more stands later.
_RANK: Final[tuple[toc.MadeBy, ...]] = get_args(toc.MadeBy)
#: What of a node is words that were chosen; the rest follows from its events alone.
_CHOSEN: Final = {
    "title": "", "summary": "", "bullets": [], "grips": [], "keywords": [], "kind": "observation", "salience": 0.0,
}  # fmt: skip


class Told(msgspec.Struct, frozen=True):
    """What an endpoint says of a node: `bullets` in order of time, at least one, each with a grip that was found."""

    title: str
    bullets: list[Bullet]


class Better(NamedTuple):
    """What came for a node of this `content`: vectors of its events with their model, or what was told of it."""

    content: bytes
    model: str = ""
    vectors: Vectors | None = None
    told: Told | None = None


def segment_content(segment: Segment, corrected: Collection[str]) -> bytes:
    """Of what a segment tells: its events and those `corrected`, whosever its days are and whether it is open."""
    return blake2b(encode((segment.items, sorted(corrected))), digest_size=_DIGEST_BYTES).digest()


def segment_inputs(content: bytes, zone: str) -> bytes:
    """Of what a segment's words are made: its content, and its tenant's zone for the date words."""
    return blake2b(encode((content, zone)), digest_size=_DIGEST_BYTES).digest()


def rollup_content(children: Iterable[Summary | None]) -> bytes:
    """Of what a node above segments tells: its children's bullets, whatever else of them changed."""
    told = blake2b(digest_size=_DIGEST_BYTES)
    for child in children:
        told.update(encode(child.bullets if child is not None else []))
    return told.digest()


def told_before(row: NodeRow | None, content: Callable[[], bytes]) -> Better | None:
    """What an endpoint told of a node, if it still has the same content."""
    if row is None or row.summary is None or row.by != "endpoint" or row.content != (now := content()):
        return None
    return Better(now, told=Told(row.summary.title, row.summary.bullets))


def rollup_inputs(children: Sequence[tuple[NodeId, NodeRow]]) -> bytes:
    """Of what a node above segments is made: what its children say, and their vectors once none lacks them."""
    told = blake2b(digest_size=_DIGEST_BYTES)
    lacks = any(row.lacks for _, row in children)
    for child, row in children:
        told.update(encode((str(child), row.digest, lacks or row.meaning)))
    return told.digest()


def meaning(row: VectorsRow) -> bytes:
    """Digest of a row of vectors; never b"", though it be empty: nobody need ask again."""
    return blake2b(encode(row), digest_size=_DIGEST_BYTES).digest()


def kept(summary: Summary, model: str, vectors: Vectors) -> VectorsRow:
    """The vectors that a node above will need: those of the bullets' first events."""
    ids = [each for each in _firsts(summary.bullets) if each in vectors]
    halves = np.array([vectors[each] for each in ids], dtype=np.float16)
    return VectorsRow(model, ids, halves.tobytes())


def joined(needed: Collection[str], rows: Iterable[VectorsRow | None]) -> tuple[str, dict[str, Floats]]:
    """The vectors of these events among rows, all of one model: the one that most are of."""
    held: defaultdict[str, dict[str, Floats]] = defaultdict(dict)
    for row in rows:
        if row is None or not row.ids:
            continue
        matrix = np.frombuffer(row.halves, dtype=np.float16).reshape(len(row.ids), -1).astype(np.float32)
        held[row.model].update((each, matrix[n]) for n, each in enumerate(row.ids) if each in needed)
    return max(held.items(), key=lambda each: (len(each[1]), each[0]), default=("", {}))


def needed(made: Iterable[Summary]) -> set[str]:
    """First events of all bullets."""
    return {first for summary in made for first in _firsts(summary.bullets)}


def _firsts(bullets: Iterable[Bullet]) -> list[str]:
    return list(dict.fromkeys(bullet.grips[0].first for bullet in bullets))


def with_told(summary: Summary, told: Told) -> Summary:
    """A summary in the words of an endpoint; keywords, terms and the rest stay those of the events."""
    return msgspec.structs.replace(
        summary,
        title=told.title,
        summary=" ".join(bullet.text for bullet in told.bullets[: summaries.SUMMARY_BULLETS]),
        bullets=told.bullets,
        kind=summaries.kind_of([bullet.grips[0].excerpt for bullet in told.bullets]),
    )


def frame(node: toc.Node) -> bytes:
    """Digest of what of a node follows from its events, however its words were chosen."""
    return core.digest(msgspec.structs.replace(node, **_CHOSEN))


def worth(body: bytes | None, old: NodeRow | None) -> toc.Node | None:
    """A node that another life recorded, if it may be worth more than what we made last."""
    theirs = core.full(body) if body else None
    if theirs is None or (old and old.summary and _RANK.index(old.by) >= _RANK.index(theirs.by)):
        return None
    return theirs


def adopted(
    theirs: toc.Node, said: toc.Node, draft: NodeRow, below: Sequence[NodeRow], corrected: Collection[str]
) -> NodeRow | None:
    """The node in the words that another life recorded, if they are of the same events and better chosen.

    Args:
        theirs: As it is recorded.
        said: What we would publish.
        draft: Our row of that.
        below: Rows of its children, which must have all its grips; none of a segment.
        corrected: Of a segment, ids of events that must not be quoted.
    """
    if draft.summary is None or frame(theirs) != frame(said):
        return None
    if theirs.by != "endpoint" and (draft.meaning or draft.by == "endpoint" or (theirs.by == "words" and not below)):
        return None
    grips = _grips_of(below) if below else {grip.id: _grip(grip) for grip in theirs.grips}
    if not all(grips.get(name) for bullet in theirs.bullets for name in bullet.grips):
        return None
    if any(grips[name].first in corrected for bullet in theirs.bullets for name in bullet.grips):
        return None
    bullets = [Bullet(bullet.text, [grips[name] for name in bullet.grips]) for bullet in theirs.bullets]
    summary = msgspec.structs.replace(
        draft.summary,
        bullets=bullets,
        **{name: getattr(theirs, name) for name in ("title", "summary", "keywords", "kind", "salience")},
    )
    used = dict.fromkeys(name for bullet in theirs.bullets for name in bullet.grips)
    rows = [(grips[name].excerpt, grips[name].first, grips[name].last, name) for name in used]
    lacks = theirs.by == "vectors" or (draft.lacks and theirs.by != "endpoint")
    content = rollup_content(row.summary for row in below) if below and theirs.by == "endpoint" else draft.content
    return msgspec.structs.replace(
        draft, summary=summary, grips=rows, by=theirs.by, meaning=b"", lacks=lacks, content=content
    )


def _grip(grip: toc.Grip) -> Grip:
    return Grip(grip.excerpt, grip.first, grip.last, int(grip.ts) if isinstance(grip.ts, int | float) else 0)


def _grips_of(below: Iterable[NodeRow]) -> dict[str, Grip]:
    found = {}
    for row in below:
        names = {(excerpt, first, last): name for excerpt, first, last, name in row.grips}
        for bullet in row.summary.bullets if row.summary else ():
            found.update({names[grip.excerpt, grip.first, grip.last]: grip for grip in bullet.grips})
    return found
