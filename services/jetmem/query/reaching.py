"""The tier below the indexes: events of the segments that a walk down the table of contents opens.

An event is ranked by its segment, by its own words and by those of the turns around it, as the word index does it
(decision 0005). Measured on LoCoMo dev (997 questions, words only): recall at 10 of the evidence turns 0.767 with 3
opened segments, 0.779 with 5, 0.781 with 8; the word index alone has 0.754 to 0.769.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from jetmem.adapters.tantivy_text import analyze
from jetmem.domain.walk import Card, Question
from jetmem.query.contents import Nodes, end_of, start_of
from jetmem.query.core import Standing
from jetmem.query.patience import Patience
from jetmem.query.ports import Stages
from jetmem.query.walking import Limits, Walked, Walker
from jetmem_schemas.internal import Entry, FetchedItem, Filters, Found, TimelineReply, TimelineRequest, decode_entry
from jetmem_schemas.toc import Node

ARM: Final = "toc"
#: Segments whose events are read: those of a search's first page are nearly always in the first five.
SEGMENTS: Final = 5
#: Events of one segment; 4,000 tokens are some 100 to 300.
_EVENTS_MAX: Final = 500
#: Weight of the segment beside the turn's words and its window's; recall at 10 is 0.778 with 1, 0.775 with 2.
_W_SEGMENT: Final = 0.5
#: Turns to each side that make a window.
_AROUND: Final = 2


class Reached(msgspec.Struct, frozen=True):
    """An event, why it was ranked so, and the segment it was read from."""

    found: Found
    item: FetchedItem
    segment: str


class Opened(msgspec.Struct, frozen=True):
    """A segment that a walk opened, as a hit."""

    found: Found
    node: Node


def opened(walked: Walked, filters: Filters) -> list[Opened]:
    """What a walk opened and has any of the words, best first."""
    return [
        Opened(Found(node.id, round(min(1.0, score), 6), [ARM], {"words": score}, node=True), node)
        for node, score in walked.opened
        if score > 0 and (not filters.kinds or node.kind in filters.kinds)
    ]


async def reach(
    stages: Stages, tenant: str, query: str, filters: Filters, limits: Limits, standing: Standing, patience: Patience
) -> tuple[list[Reached], Walked]:
    """Events for a question, best first, without any index.

    Raises:
        RequestFailed: persist does not answer.
    """
    words = analyze(query)
    walked = await Walker(Nodes(stages, tenant, standing, patience), words, limits).run()
    reading = (_events(stages, tenant, node, filters, standing, patience) for node, _ in walked.opened)
    events = await asyncio.gather(*reading)
    segments = [(node.id, score, held) for (node, score), held in zip(walked.opened, events, strict=True)]
    return ranked(walked.question, segments), walked


def ranked(question: Question, segments: Sequence[tuple[str, float, Sequence[bytes]]]) -> list[Reached]:
    """Rank the events of opened segments, each once; overlaps count for the better segment."""
    found: dict[str, Reached] = {}
    for segment, score, encoded in segments:
        entries = [decode_entry(each) for each in encoded]
        words = [analyze(_text(entry)) for entry in entries]
        for place, entry in enumerate(entries):
            near = [word for each in words[max(0, place - _AROUND) : place + _AROUND + 1] for word in each]
            scores = {"segment": score, "turn": _score(question, words[place]), "window": _score(question, near)}
            total = (_W_SEGMENT * score + scores["turn"] + scores["window"]) / (_W_SEGMENT + 2)
            each = Reached(
                Found(entry.id, round(min(1.0, total), 6), [ARM], scores), FetchedItem(encoded[place]), segment
            )
            if entry.id not in found or found[entry.id].found.score < total:
                found[entry.id] = each
    return sorted(found.values(), key=lambda each: -each.found.score)


def _score(question: Question, words: Sequence[str]) -> float:
    return question.score(Card("", True, Counter(words)))


class _Words(msgspec.Struct):
    text: str = ""
    author: str = ""


_words = msgspec.json.Decoder(_Words).decode


def _text(entry: Entry) -> str:
    said = _words(entry.body)
    return f"{said.author} {said.text}"


async def _events(
    stages: Stages, tenant: str, node: Node, filters: Filters, standing: Standing, patience: Patience
) -> list[bytes]:
    """A segment's events that pass the filters, from the record."""
    f = filters
    since = max(start_of(node), f.since) if f.since is not None else start_of(node)
    until = end_of(node) + 1 if f.until is None else min(end_of(node) + 1, f.until)
    if f.session not in ("", node.session) or since >= until:
        return []
    # a segment is of one session of one agent: with both, only its own events are looked at
    agent = f.agent or (node.agents[0] if len(node.agents) == 1 else "")
    asked = TimelineRequest(
        tenant, _EVENTS_MAX, False, agent, node.session, f.author, f.kinds, f.roles, f.tags, since, until
    )
    reply = await stages.ask("persist", "timeline", tenant, asked, TimelineReply, patience.timeout_s())
    standing.seen("record", reply.checkpoint)
    return reply.entries
