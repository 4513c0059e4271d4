"""A table of contents for fake stages: segments of events, and days, weeks, months and years above them."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest

from harness.fake_stages import FakeStages
from jetmem.adapters.tantivy_text import analyze
from jetmem.domain import calendar, walk
from jetmem.query.discovery import Tally
from jetmem.query.handler import Query
from jetmem.query.ports import Zones
from jetmem.query.settings import QuerySettings
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import toc

TALKS = {
    "2025-12-30T09:00": ["the boiler is cold", "call the plumber", "he comes on friday"],
    "2026-01-05T10:00": ["tea with lemon", "lemon cake for Ann"],
    "2026-01-06T10:00": ["the build is broken", "fixed the build with a pin", "ship it"],
    "2026-02-10T08:00": ["a trip to Lisbon", "the hotel has a garden"],
}


def at(text: str) -> int:
    """Epoch ms of `2026-01-15T09:30`, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def plant(stages: FakeStages, tenant: str, segments: dict[str, Sequence[str]]) -> list[str]:
    """Add events and the nodes above them.

    Args:
        stages: Where.
        tenant: Whose.
        segments: By the time of their first event, the texts, a minute apart; each is a session of its own.

    Returns:
        The ids of the segments, in order of time. Events are `<n>-<place>`, n the place of the segment.
    """
    known: dict[str, toc.Node] = {}
    for number, (begin, texts) in enumerate(segments.items()):
        start = at(begin)
        for place, text in enumerate(texts):
            stages.add(tenant, f"{number}-{place}", text, at_ms=start + place * 60_000, session=f"s{number}")
        node = _segment(calendar.NodeId(date.fromisoformat(begin[:10]), 4, f"{number:026d}"), number, start, texts)
        known[node.id] = node
    own = list(known)
    for depth in (3, 2, 1, 0):
        above: dict[str, list[toc.Node]] = {}
        for node in known.values():
            parent = calendar.parent_of(calendar.parse(node.id))
            if parent is not None and parent.depth == depth:
                above.setdefault(str(parent), []).append(node)
        known |= {id_: _rolled_up(id_, children) for id_, children in above.items()}
    stages.nodes_held |= {id_: [node] for id_, node in known.items()}
    return own


def _segment(id_: calendar.NodeId, number: int, start: int, texts: Sequence[str]) -> toc.Node:
    grips = []
    for place, text in enumerate(texts):
        event = f"{number}-{place}"
        grips.append(
            toc.Grip(
                id=toc.grip_id(str(id_), text[:200], event, event),
                excerpt=text[:200],
                first=event,
                last=event,
                ts=datetime.fromtimestamp(start / 1000 + 60 * place, UTC),
            )
        )
    return toc.Node(
        id=str(id_),
        version=10,
        title=texts[0],
        summary=" ".join(texts),
        bullets=[toc.Bullet(text=texts[0], grips=[grips[0].id])],
        grips=grips,
        keywords=["tea"],
        terms=walk.sketch_of(word for text in texts for word in analyze(text)),
        start=datetime.fromtimestamp(start / 1000, UTC),
        end=datetime.fromtimestamp(start / 1000 + 60 * (len(texts) - 1), UTC),
        events=len(texts),
        agents=["alice"],
        session=f"s{number}",
        salience=0.5,
        sources=[(1, 9)],
    )


def _rolled_up(id_: str, children: Sequence[toc.Node]) -> toc.Node:
    ordered = sorted(children, key=lambda node: str(node.start))
    return toc.Node(
        id=id_,
        version=10,
        level=calendar.parse(id_).level,
        title=ordered[0].title,
        summary=ordered[0].summary,
        bullets=[ordered[0].bullets[0]],
        terms=walk.merged([node.terms for node in ordered]),
        children=[node.id for node in ordered],
        start=ordered[0].start,
        end=max((node.end for node in ordered), key=str),
        events=sum(node.events for node in ordered),
        agents=["alice"],
        sources=[(1, 9)],
    )


def ask(
    stages: FakeStages, verb: str, tenant: str = "acme", *, zones: Zones | None = None, **request: Any
) -> dict[str, Any]:
    query = Query(stages, QuerySettings(), stages.clock, Tally(), zones=zones)
    _, _, body, _ = asyncio.run(query.answer(f"mem.{tenant}.query.{verb}", json.dumps(request).encode()))
    reply: dict[str, Any] = json.loads(body)
    assert {"fresh", "degraded", "stale", "took_ms"} <= set(reply)
    return reply


def refused(stages: FakeStages, verb: str, **request: Any) -> tuple[str, str]:
    with pytest.raises(RequestFailed) as caught:
        ask(stages, verb, **request)
    return caught.value.code, caught.value.field


def ids(reply: dict[str, Any], name: str = "nodes") -> list[str]:
    return [each["id"] for each in reply[name]]


def segments(stages: FakeStages) -> list[str]:
    return sorted(id_ for id_ in stages.nodes_held if ":segment:" in id_)
