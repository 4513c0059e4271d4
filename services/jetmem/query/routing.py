"""`route`: take a question for what it is, try the strategies that fit, say which won and why.

Searching within a question's time first: on the 126 questions of LoCoMo dev that name one (now being the end of 2023),
recall at 10 by a walk is 0.835 against 0.813 at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from jetmem.query import core
from jetmem.query.contents import Nodes, fresh, node_item
from jetmem.query.core import Standing
from jetmem.query.explaining import Cut, Strategy, explained
from jetmem.query.intents import Intended, intended
from jetmem.query.patience import Patience, cover
from jetmem.query.placing import Placing
from jetmem.query.ports import Stages, Zones
from jetmem.query.searching import search
from jetmem.query.settings import QuerySettings
from jetmem.query.times import Span
from jetmem.query.walking import Limits, Walked, Walker
from jetmem.query.zones import here
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.asking import Moment
from jetmem_schemas.events import epoch_ms
from jetmem_schemas.requests import Hit, Route, RouteReply, Search
from jetmem_schemas.shown import NodeItem, Tried

#: What `search` answers by when the strategy wanted cannot be; in the order in which it tries.
_NAMES: Final = {"toc": "a walk down the table of contents", "recent": "the most recent events", "none": "nothing"}
_STOPS: Final = {
    "segments": "enough segments were opened",
    "nodes": "the budget of nodes was used up",
    "ms": "the time was up",
    "done": "nothing was left to open",
}


@dataclass(slots=True)
class _Way:
    """One route on its way."""

    stages: Stages
    settings: QuerySettings
    placing: Placing
    tenant: str
    request: Route
    intended: Intended
    standing: Standing
    patience: Patience
    over_at_ms: float
    tried: list[Tried] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    nodes: list[NodeItem] = field(default_factory=list)
    widened: bool = False
    fell: str = ""
    cut: Cut | None = None

    def note(self, strategy: str, found: int, began_ms: float, why: str) -> None:
        took_ms = round(self.patience.took_ms() - began_ms, 3)
        self.tried.append(Tried(strategy=strategy, found=found, took_ms=took_ms, why=why))


async def route(
    stages: Stages,
    settings: QuerySettings,
    placing: Placing,
    clock: Clock,
    zones: Zones,
    tenant: str,
    request: Route,
    standing: Standing,
    patience: Patience,
) -> RouteReply:
    """Answer `route`.

    Raises:
        SchemaError: `bad_time`.
        RequestFailed: persist does not answer.
    """
    now = here(zones, tenant, _now(request.now, clock))
    meant = intended(request.query, now)
    way = _Way(stages, settings, placing, tenant, request, meant, standing, patience, request.budget.ms)
    strategy = await _by(way)
    span = meant.span
    return RouteReply(
        **standing.common(patience.took_ms()),
        intent=meant.intent,
        strategy=strategy,
        tried=way.tried,
        explanation=explained(
            meant, strategy, way.tried, now.tzinfo or UTC, fell=way.fell, widened=way.widened, cut=way.cut
        ),
        hits=way.hits[: core.fitting(way.hits)],
        nodes=way.nodes[: core.fitting(way.nodes)],
        since=_text(span.since if span else None),
        until=_text(span.until if span else None),
        widened=way.widened,
        cut=msgspec.UNSET if way.cut is None else way.cut,
    )


def _now(asked: Moment | None, clock: Clock) -> datetime:
    if isinstance(asked, datetime):
        epoch_ms(asked, "now")
        return asked
    ms = clock.now_ms() if asked is None else epoch_ms(asked, "now")
    return datetime.fromtimestamp(ms / 1000, UTC)


def _text(ms: int | None) -> str | msgspec.UnsetType:
    return msgspec.UNSET if ms is None else core.time_text(ms)


async def _by(way: _Way) -> Strategy:
    """Try what the intent asks for, in order, until something is found."""
    if way.intended.explores:
        if await _contents(way, way.intended.about, way.intended.span):
            return "toc"
        # the time may be misunderstood, or misremembered; who asks for a time alone is told that it holds nothing
        if way.intended.span is not None and way.intended.about and await _contents(way, way.intended.words, None):
            way.widened = True
            return "toc"
    mode: Literal["text", "hybrid"] = "text" if way.intended.quoted else "hybrid"
    if way.intended.span is not None:
        found = await _searched(way, mode, within=True)
        if found != "none" or not way.intended.about:
            return found
        way.widened = True
    return await _searched(way, mode, within=False)


async def _contents(way: _Way, words: Sequence[str], span: Span | None) -> bool:
    """Nodes of the table of contents: those that cover a time if that is all one asks for, else by a walk."""
    began = way.patience.took_ms()
    covered = await cover(way.stages, way.tenant, way.standing, way.patience)
    await fresh(way.stages, way.tenant, way.standing, covered, way.patience)
    limits = Limits(
        segments=way.request.limit,
        nodes=way.request.budget.nodes,
        over=lambda: way.patience.took_ms() >= way.over_at_ms or way.patience.left_s() <= 0,
        since=span.since if span else None,
        until=span.until if span else None,
    )
    walker = Walker(Nodes(way.stages, way.tenant, way.standing, way.patience), words, limits)
    try:
        walked = await (walker.run() if words or span is None else walker.cover())
    except RequestFailed as error:
        way.note("toc", 0, began, f"the table of contents does not answer: {error.code}")
        return False
    if words:  # of what has none of the words, nothing is to be told
        way.nodes = [node_item(node, score=score) for node, score in walked.opened if score > 0]
    else:
        way.nodes = [node_item(node) for node, _ in walked.opened[: way.request.limit]]
    way.note("toc", len(way.nodes), began, _why_walked(walked) + _where(way, span))
    way.cut = _cut(walked, 0 if words else len(walked.opened) - len(way.nodes)) if way.nodes else None
    return bool(way.nodes)


def _cut(walked: Walked, left_out: int) -> Cut | None:
    """What kept a walk, or a list of all that a time holds, from its end."""
    match walked.stopped:
        case "nodes" | "ms":
            return "nodes" if walked.stopped == "nodes" else "ms"
        case "done" if left_out:
            return "limit"
        case _:
            return None


def _where(way: _Way, span: Span | None) -> str:
    """Which of its two times a question was tried with, as words."""
    if way.intended.span is None:
        return ""
    return ", within the time" if span is not None else ", at any time"


def _why_walked(walked: Walked) -> str:
    if not walked.read:
        return "the table of contents is empty"
    return f"{walked.read} nodes read, {len(walked.opened)} opened; {_STOPS[walked.stopped]}"


async def _searched(way: _Way, mode: Literal["text", "hybrid"], *, within: bool) -> Strategy:
    """Events by the best tier that answers, within the question's time or at any."""
    began = way.patience.took_ms()
    span = way.intended.span if within else None
    query = way.intended.rest if span is not None and way.intended.about else way.request.query
    asked: dict[str, Any] = {"query": query, "mode": mode, "limit": way.request.limit}
    if span is not None:
        if span.since is not None and span.until is not None and span.since >= span.until:
            return "none"
        asked |= {"since": span.since, "until": span.until}
    own = Search(**asked, after=way.request.after, wait_ms=way.request.wait_ms)
    reply = await search(way.stages, way.settings, way.placing, way.tenant, own, way.standing, way.patience)
    where = _where(way, span).removeprefix(", ")
    fell = "" if reply.mode == mode else f"{mode} did not answer, {_NAMES.get(reply.mode, reply.mode)} did"
    nothing = "" if reply.hits else "nothing found"
    way.note(reply.mode, len(reply.hits), began, ", ".join(filter(None, (fell, nothing, where))) or "as intended")
    way.hits, way.fell = reply.hits, "" if reply.mode == mode else reply.mode
    strategy: Any = reply.mode if reply.hits else "none"
    won: Strategy = strategy
    return won
