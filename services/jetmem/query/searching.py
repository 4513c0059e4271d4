"""`search`: encode the question beside waiting for the record, find, fetch, answer; or the next tier.

Nodes of the table of contents are hits like events where they are asked for: found by index, read from persist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from jetmem.adapters.tantivy_text import analyze
from jetmem.query import contents, core
from jetmem.query.core import Place, Standing
from jetmem.query.encoding import encode
from jetmem.query.highlights import Marker, marker
from jetmem.query.mentions import settle
from jetmem.query.patience import Patience, cover
from jetmem.query.placing import Placing
from jetmem.query.ports import Stages
from jetmem.query.reaching import SEGMENTS, Opened, Reached, opened, reach
from jetmem.query.settings import QuerySettings
from jetmem.query.walking import Limits, Walker
from jetmem.runtime import limits
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.asking import LIMIT_MAX
from jetmem_schemas.internal import (
    CoverReply,
    CoverRequest,
    EncodeReply,
    FetchedItem,
    FetchReply,
    FetchRequest,
    Filters,
    FindReply,
    FindRequest,
    Found,
    TimelineReply,
    TimelineRequest,
    decode_entry,
)
from jetmem_schemas.ranking import Rank
from jetmem_schemas.requests import Hit, Search, SearchReply
from jetmem_schemas.toc import Node

#: Kept back from a slow index, so that the next tier can still answer.
_NEXT_TIER_S: Final = 1.5
#: An index whose hits persist mostly no longer holds is asked for more this often.
_ROUNDS_MAX: Final = 3
_RECENT: Final = "recent"
#: A walk stops there, so that the last tier can still answer; 300 nodes are read in some 50 ms.
_WALK_NODES: Final = 600
_WALK_S: Final = 1.0
_LAST_TIER_S: Final = 0.5
#: Deep pages open more segments, one for so many hits.
_HITS_OF_SEGMENT: Final = 20
#: Cursor of a page that a walk answered; the other keys are persist's, which are longer.
_WALKED: Final = b"toc"


@dataclass(slots=True)
class _Ask:
    """One search on its way."""

    tenant: str
    request: Search
    rank: Rank
    filters: Filters
    place: Place
    standing: Standing
    patience: Patience
    placing: Placing


@dataclass(slots=True)
class _Page:
    """Held hits, each with its place in the ranking; `at` is the first place not looked at."""

    at: int
    held: list[tuple[int, Found, FetchedItem | Node]] = field(default_factory=list)
    bytes: int = 0
    full: bool = False


async def search(
    stages: Stages, settings: QuerySettings, placing: Placing,
    tenant: str, request: Search, standing: Standing, patience: Patience,
) -> SearchReply:  # fmt: skip
    """Answer one search by the best tier that answers.

    Raises:
        SchemaError: A filter is wrong.
        RequestFailed: `bad_cursor`; persist does not answer; or a ranked page is continued without the index.
    """
    filters = core.filters_of(request)
    rank = core.rank_of(request.rank, settings)
    place = core.place_of(request.cursor, core.digest_of(tenant, "search", request))
    ask = _Ask(tenant, request, rank, filters, place, standing, patience, placing)
    if place.key:
        covered = await _covered(stages, ask)
        return await (_unranked(stages, ask, covered) if place.key == _WALKED else _recent(stages, ask))
    encoded, covered = await asyncio.gather(_encoded(stages, settings, tenant, request), _covered(stages, ask))
    if encoded is None and request.mode != "text":
        standing.without(["vector"])
    try:
        return await _ranked(stages, ask, encoded, covered)
    except _IndexDown as error:
        if place.at:
            raise RequestFailed("unavailable", "the index does not answer; ask again with the same cursor") from error
    return await _unranked(stages, ask, covered)


async def _covered(stages: Stages, ask: _Ask) -> CoverReply | None:
    """What persist says of `after`. Of nodes: once they tell of it, up to where index must have read to have them."""
    covered = await cover(stages, ask.tenant, ask.standing, ask.patience)
    if ask.request.target == "events":
        return covered
    await contents.fresh(stages, ask.tenant, ask.standing, covered, ask.patience)
    if covered is None or not covered.covered:
        return covered
    again = CoverRequest(ask.standing.after, 0)
    reply = await stages.ask("persist", "cover", ask.tenant, again, CoverReply, ask.patience.timeout_s())
    return msgspec.structs.replace(reply, rseq=reply.head.rseq)


async def _encoded(stages: Stages, settings: QuerySettings, tenant: str, request: Search) -> EncodeReply | None:
    return None if request.mode == "text" else await encode(stages, settings, tenant, request.query)


class _IndexDown(Exception):
    """The index does not answer: the next tier does."""


async def _find(
    stages: Stages, ask: _Ask, encoded: EncodeReply | None, covered: CoverReply | None, limit: int
) -> FindReply:
    mode = ask.request.mode if encoded else "text"
    request = FindRequest(
        ask.tenant,
        ask.request.query,
        mode,
        limit,
        encoded.vectors[0] if encoded else b"",
        encoded.model if encoded else "",
        ask.filters,
        covered.rseq if covered and covered.covered else 0,
        ask.patience.wait_ms(),
        ask.request.target,
        ask.rank,
    )
    timeout_s = ask.patience.timeout_s(waiting=True, reserve_s=_NEXT_TIER_S)
    try:
        async with asyncio.timeout(timeout_s):
            reply = await stages.ask("index", "find", ask.tenant, request, FindReply, timeout_s)
    except (RequestFailed, TimeoutError) as error:
        raise _IndexDown from error
    if core.mode_of(mode, reply.missing) == "none":
        raise _IndexDown
    return reply


async def _ranked(stages: Stages, ask: _Ask, encoded: EncodeReply | None, covered: CoverReply | None) -> SearchReply:
    """Answer from the index; what persist no longer holds is left out and made up for."""
    limit = core.find_limit(ask.place.at, ask.request.limit)
    first = await _find(stages, ask, encoded, covered, limit)
    shown = first.hits[ask.place.at : ask.place.at + ask.request.limit]
    filled = _filled(stages, ask, encoded, first, limit)
    (page, more), segments = await ask.placing.beside(stages, ask.tenant, shown, filled)
    wanted = ask.request.mode if encoded else "text"
    _note(ask.standing, wanted, first)
    return _reply(ask, core.mode_of(wanted, first.missing), page, segments, more=more)


async def _filled(
    stages: Stages, ask: _Ask, encoded: EncodeReply | None, reply: FindReply, limit: int
) -> tuple[_Page, bool]:
    """A page of what is held, and whether there is more; `reply` is of the first asking, for `limit` hits."""
    page = _Page(ask.place.at)
    for _ in range(_ROUNDS_MAX):
        await _fill(stages, ask, reply.hits, page)
        used_up = not page.full and page.at >= len(reply.hits) >= limit
        if not used_up or limit > core.OFFSET_MAX or ask.patience.left_s() <= _NEXT_TIER_S:
            break
        try:
            reply = await _find(stages, ask, encoded, None, limit * 4)
        except _IndexDown:
            break
        limit *= 4
    return page, len(page.held) > ask.request.limit or page.at < len(reply.hits) or len(reply.hits) >= limit


def _note(standing: Standing, wanted: str, reply: FindReply) -> None:
    arms = core.wanted_arms(wanted)
    standing.arm_at("text", reply.text.seq, late="text" in reply.late or "text" not in arms)
    standing.arm_at("vector", reply.vector.seq, late="vector" in reply.late or "vector" not in arms)
    standing.without([arm for arm in reply.missing if arm in arms])
    standing.late([arm for arm in reply.late if arm in arms])


async def _fill(stages: Stages, ask: _Ask, found: Sequence[Found], page: _Page) -> None:
    """Fetch on from `page.at` until the page and one more are held, or nothing is left."""
    wanted = ask.request.limit + 1
    step = wanted
    asked = False
    while not page.full and (page.at < len(found) or not asked):
        chunk = found[page.at : page.at + max(step, wanted - len(page.held))]
        events = [f.id for f in chunk if not f.node]
        told = [f.id for f in chunk if f.node]
        reply = await _fetch(stages, ask, events) if events or not told else None
        if reply is not None:
            bare, whole = partial(_fetch, stages, ask, around=0), partial(_fetch, stages, ask)
            chunk, reply = await settle(chunk, reply, bare, whole)
        nodes = await contents.Nodes(stages, ask.tenant, ask.standing, ask.patience).get(told)
        asked = True
        before = len(page.held)
        _take(page, chunk, reply, nodes)
        page.full = len(page.held) >= wanted or page.bytes > limits.REPLY_BYTES_MAX
        # Mostly erased: look further ahead each time instead of asking once for each.
        step = step * 2 if len(page.held) == before else max(wanted - len(page.held), core.FIND_SLACK)
        step = min(step, LIMIT_MAX)
        if ask.patience.left_s() <= 0:
            return


def _take(page: _Page, chunk: Sequence[Found], reply: FetchReply | None, nodes: Sequence[Node]) -> None:
    """Add what is held of a chunk; of a full reply of persist only up to its last event."""
    items: dict[tuple[bool, str], FetchedItem | Node] = {(True, node.id): node for node in nodes}
    if reply is not None:
        events = {decode_entry(each.entry).id: each for each in reply.items}
        items |= {(False, id_): each for id_, each in events.items()}
        if reply.cut and events:
            chunk = chunk[: 1 + max(n for n, found in enumerate(chunk) if not found.node and found.id in events)]
    for place, found in enumerate(chunk, page.at):
        each = items.get((found.node, found.id))
        if each is not None:
            page.held.append((place, found, each))
            page.bytes += _size(each)
    page.at += len(chunk)


def _size(each: FetchedItem | Node) -> int:
    if isinstance(each, Node):
        return len(each.title) + len(each.summary)
    return len(each.entry) + sum(map(len, each.before)) + sum(map(len, each.after))


async def _fetch(stages: Stages, ask: _Ask, ids: Sequence[str], *, around: int | None = None) -> FetchReply:
    near = ask.request.around if around is None else around
    request = FetchRequest(ask.tenant, list(ids), near, near)
    reply = await stages.ask("persist", "fetch", ask.tenant, request, FetchReply, ask.patience.timeout_s())
    ask.standing.seen("record", reply.checkpoint)
    return reply


def _hit(ask: _Ask, marks: Marker, found: Found, each: FetchedItem | Node, segment: str | None) -> Hit:
    explain = ask.request.explain
    if isinstance(each, Node):
        return contents.node_hit(found, each, marks, explain=explain)
    hit = core.hit(found, each.entry, each.before, each.after, marks, explain=explain)
    return msgspec.structs.replace(hit, segment=segment) if segment else hit


def _reply(ask: _Ask, mode: str, page: _Page, segments: Mapping[str, str], *, more: bool) -> SearchReply:
    marks = marker(ask.request.query)
    shown = page.held[: ask.request.limit]
    hits = [_hit(ask, marks, found, each, segments.get(found.id)) for _, found, each in shown]
    count = core.fitting(hits)
    upto = page.held[count][0] if count < len(page.held) else page.at
    goes_on = (more or count < len(page.held)) and upto <= core.OFFSET_MAX
    cursor = core.cursor_to(ask.place.digest, upto) if goes_on else msgspec.UNSET
    return _search_reply(ask, mode, hits[:count], cursor)


def _search_reply(ask: _Ask, mode: str, hits: list[Hit], cursor: str | msgspec.UnsetType) -> SearchReply:
    return SearchReply(**ask.standing.common(ask.patience.took_ms()), mode=mode, hits=hits, cursor=cursor)


async def _unranked(stages: Stages, ask: _Ask, covered: CoverReply | None) -> SearchReply:
    """The tiers without an index; the last one has no nodes."""
    ask.standing.without(core.wanted_arms(ask.request.mode))
    walked = await _walked(stages, ask, covered)
    if walked is None and ask.request.target == "nodes":
        return _search_reply(ask, contents.ARM, [], msgspec.UNSET)
    return walked or await _recent(stages, ask)


async def _walked(stages: Stages, ask: _Ask, covered: CoverReply | None) -> SearchReply | None:
    """Segments that a walk opens, or their events; None if it comes to nothing.

    Raises:
        RequestFailed: persist does not answer, and nodes are all that is asked for.
    """
    if ask.request.target == "events":
        await contents.fresh(stages, ask.tenant, ask.standing, covered, ask.patience)
    try:
        reached = await _reached(stages, ask)
    except RequestFailed:
        if ask.request.target == "nodes":
            raise
        return None
    page = reached[ask.place.at : ask.place.at + ask.request.limit]
    if not page:
        return None
    hits = await _walked_hits(stages, ask, page)
    count = core.fitting(hits)
    end = ask.place.at + count
    cursor = core.cursor_to(ask.place.digest, end, _WALKED) if end < len(reached) else msgspec.UNSET
    return _search_reply(ask, contents.ARM, hits[:count], cursor)


async def _reached(stages: Stages, ask: _Ask) -> list[Reached | Opened]:
    """What a walk comes to, best first.

    Raises:
        RequestFailed: persist does not answer.
    """
    until_s = ask.patience.left_s() - min(_WALK_S, ask.patience.left_s() - _LAST_TIER_S)
    end = ask.place.at + ask.request.limit
    target = ask.request.target
    limits = Limits(
        segments=end + 1 if target == "nodes" else max(SEGMENTS, -(-end // _HITS_OF_SEGMENT)),
        nodes=_WALK_NODES,
        over=lambda: ask.patience.left_s() <= until_s,
        since=ask.filters.since,
        until=ask.filters.until,
        agent=ask.filters.agent,
        session=ask.filters.session,
    )
    query = ask.request.query
    if target == "nodes":
        nodes = contents.Nodes(stages, ask.tenant, ask.standing, ask.patience)
        return [*opened(await Walker(nodes, analyze(query), limits).run(), ask.filters)]
    reached, walked = await reach(stages, ask.tenant, query, ask.filters, limits, ask.standing, ask.patience)
    if target == "events":
        return [*reached]
    return sorted([*reached, *opened(walked, ask.filters)], key=lambda each: -each.found.score)


async def _walked_hits(stages: Stages, ask: _Ask, page: Sequence[Reached | Opened]) -> list[Hit]:
    marks = marker(ask.request.query)
    near: dict[str, FetchedItem] = {}
    events = [each.found.id for each in page if isinstance(each, Reached)]
    if ask.request.around and events:
        reply = await _fetch(stages, ask, events)
        near = {decode_entry(each.entry).id: each for each in reply.items}
    return [
        _hit(ask, marks, each.found, near.get(each.found.id, each.item), each.segment)
        if isinstance(each, Reached)
        else _hit(ask, marks, each.found, each.node, None)
        for each in page
    ]


async def _recent(stages: Stages, ask: _Ask) -> SearchReply:
    """The last tier: the newest events that pass the filters, from persist."""
    ask.standing.without(core.wanted_arms(ask.request.mode))
    page = await _newest(stages, ask, ask.request.limit)
    hits = await _recent_hits(stages, ask, page.entries)
    count = core.fitting(hits)
    if count < len(page.entries):
        page = await _newest(stages, ask, count)
    cursor = core.cursor_to(ask.place.digest, key=page.cursor) if page.cursor else msgspec.UNSET
    return _search_reply(ask, _RECENT, hits[:count], cursor)


async def _newest(stages: Stages, ask: _Ask, limit: int) -> TimelineReply:
    f = ask.filters
    request = TimelineRequest(
        ask.tenant, limit, True, f.agent, f.session, f.author, f.kinds, f.roles, f.tags, f.since, f.until, ask.place.key
    )
    reply = await stages.ask("persist", "timeline", ask.tenant, request, TimelineReply, ask.patience.timeout_s())
    ask.standing.seen("record", reply.checkpoint)
    return reply


async def _recent_hits(stages: Stages, ask: _Ask, entries: list[bytes]) -> list[Hit]:
    marks = marker(ask.request.query)
    items = [FetchedItem(entry) for entry in entries]
    if ask.request.around and entries:
        reply = await _fetch(stages, ask, [decode_entry(entry).id for entry in entries])
        near = {decode_entry(each.entry).id: each for each in reply.items}
        items = [near.get(decode_entry(each.entry).id, each) for each in items]
    return [
        core.hit(Found(decode_entry(e.entry).id, 0.0, [_RECENT], {}), e.entry, e.before, e.after, marks, explain=False)
        for e in items
    ]
