"""`toc`, `browse`, `expand` of a grip: nodes of the table of contents as persist holds them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec

from jetmem import flow
from jetmem.query import core
from jetmem.query.core import Standing
from jetmem.query.highlights import Marker
from jetmem.query.patience import Patience, cover
from jetmem.query.ports import Stages
from jetmem.query.progress import applied
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import toc
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import epoch_ms
from jetmem_schemas.internal import (
    AppliedReply,
    AppliedRequest,
    CoverReply,
    FetchedItem,
    FetchReply,
    FetchRequest,
    Found,
    NodesReply,
    NodesRequest,
    TimelineReply,
    TimelineRequest,
    decode_entry,
)
from jetmem_schemas.requests import Browse, BrowseReply, Expand, ExpandReply, Hit, Item, Toc, TocReply
from jetmem_schemas.shown import BulletItem, GripItem, NodeItem

T = TypeVar("T")
SUMMARIZE: Final = "summarize"
ARM: Final = "toc"
#: What persist holds is answered at once: who makes it is asked for no longer than this how fresh it is.
_FRESH_S: Final = 0.3
#: Nodes asked for at once; a full reply is continued.
_AT_ONCE: Final = 500
#: Years looked for after those that fill a reply.
_YEARS_ON: Final = 256
#: Events of one grip that are shown; its bullet is one sentence or a few.
_GRIP_EVENTS_MAX: Final = 200
_MINUTE_MS: Final = 60_000
_LIKE: Final = {"node": "toc:day:2026-01-15", "grip": "those that bullets of nodes have"}
_node = msgspec.json.Decoder(toc.Node).decode


class Nodes:
    """Reads one tenant's nodes from persist for one answer; what is gone is left out."""

    def __init__(
        self, stages: Stages, tenant: str, standing: Standing, patience: Patience, *, brief: bool = False
    ) -> None:
        """`brief`: without their words and sources."""
        self._brief = brief
        self._stages = stages
        self._tenant = tenant
        self._standing = standing
        self._patience = patience

    async def years(self) -> list[toc.Node]:
        """The roots, in order of time."""
        reply = await self._ask(NodesRequest(self._tenant, brief=self._brief))
        years = [_node(each) for each in reply.nodes]
        if reply.cut and years:
            last = int(years[-1].id.rpartition(":")[2])
            later = range(last + 1, min(last + _YEARS_ON, 9999) + 1)
            years += await self.get([f"toc:year:{year:04}" for year in later])
        return sorted((year for year in years if not year.gone), key=lambda year: year.id)

    async def get(self, ids: Sequence[str], version: int = 0) -> list[toc.Node]:
        """Nodes by id in the order asked, the newest version unless another is asked for; those held."""
        found: list[toc.Node] = []
        left = list(ids)
        while left:
            asked = left[:_AT_ONCE]
            reply = await self._ask(NodesRequest(self._tenant, asked, version, self._brief))
            nodes = [_node(each) for each in reply.nodes]
            found += [node for node in nodes if not node.gone]
            seen = asked.index(nodes[-1].id) + 1 if reply.cut and nodes else len(asked)
            left = left[seen:]
        return found

    async def one(self, id_: str, version: int = 0, field: str = "node") -> toc.Node:
        """One node.

        Raises:
            RequestFailed: `not_found`.
        """
        found = await self.get([id_], version)
        if not found:
            raise RequestFailed("not_found", "the table of contents has no such node", field)
        return found[0]

    async def _ask(self, request: NodesRequest) -> NodesReply:
        timeout_s = self._patience.timeout_s()
        reply = await self._stages.ask("persist", "nodes", self._tenant, request, NodesReply, timeout_s)
        self._standing.seen("record", reply.at)
        return reply


async def fresh(
    stages: Stages, tenant: str, standing: Standing, covered: CoverReply | None, patience: Patience
) -> None:
    """Say how fresh the table of contents is; with `after`, wait until it covers that. It may be down: that is said."""
    rseq = covered.rseq if covered is not None and covered.covered else 0
    request = AppliedRequest(tenant, rseq, 0)
    reply = await (applied(stages, SUMMARIZE, request, patience) if rseq else _applied_now(stages, request))
    if reply is None:
        standing.without(flow.stage(SUMMARIZE).arms)
        return
    late = core.wholly_late(reply, rseq)
    for arm, head in reply.at.items():
        standing.arm_at(arm, head.seq, late=arm in late)
    standing.late(late)


async def _applied_now(stages: Stages, request: AppliedRequest) -> AppliedReply | None:
    try:
        async with asyncio.timeout(_FRESH_S):
            return await stages.ask(SUMMARIZE, "applied", request.tenant, request, AppliedReply, _FRESH_S)
    except (RequestFailed, TimeoutError):
        return None


async def _beside(
    stages: Stages, tenant: str, standing: Standing, patience: Patience, read: Callable[[], Awaitable[T]]
) -> T:
    """Read once `after` is covered; without it nothing is waited for, so that how fresh it is is asked beside it."""
    covered = await cover(stages, tenant, standing, patience)
    if covered is not None:
        await fresh(stages, tenant, standing, covered, patience)
        return await read()
    asking = asyncio.create_task(fresh(stages, tenant, standing, None, patience))
    try:
        return await read()
    finally:
        await asking


def check_node(id_: str, field: str = "node") -> None:
    """Refuse what names no node that could exist.

    Raises:
        SchemaError: `bad_field`.
    """
    if toc.level_of(id_) is None:
        raise SchemaError("bad_field", f"{field} must be an id like {_LIKE[field]}", field)


def node_item(node: toc.Node, *, explain: bool = False, score: float | None = None) -> NodeItem:
    """A node as replies show it."""
    return NodeItem(
        id=node.id,
        version=node.version,
        level=node.level,
        title=node.title,
        summary=node.summary,
        bullets=[BulletItem(text=bullet.text, grips=bullet.grips) for bullet in node.bullets],
        keywords=node.keywords,
        children=node.children,
        start=core.time_text(start_of(node)),
        end=core.time_text(end_of(node)),
        events=node.events,
        agents=node.agents,
        session=node.session,
        salience=node.salience,
        kind=node.kind,
        pinned=node.pinned,
        open=node.open,
        score=score,
        terms=node.terms if explain else {},
        sources=node.sources if explain else [],
    )


def node_hit(found: Found, node: toc.Node, marks: Marker, *, explain: bool) -> Hit:
    """A ranked node."""
    text = "\n".join(filter(None, (node.title, node.summary)))
    start, end = core.time_text(start_of(node)), core.time_text(end_of(node))
    return Hit(
        id=node.id,
        agent=node.agents[0] if len(node.agents) == 1 else "",
        session=node.session,
        ts=start,
        at=end,
        seq=node.seq,
        kind=node.kind,
        text=text,
        score=found.score,
        arms=found.arms,
        type="node",
        highlights=marks.ranges(text),
        explain=found.scores if explain else {},
        title=node.title,
        level=node.level,
        start=start,
        end=end,
        agents=node.agents,
    )


def start_of(node: toc.Node) -> int:
    """Time of its first event, epoch ms."""
    return 0 if node.start is None else epoch_ms(node.start)


def end_of(node: toc.Node) -> int:
    """Time of its last event, epoch ms."""
    return start_of(node) if node.end is None else epoch_ms(node.end)


async def table(stages: Stages, tenant: str, request: Toc, standing: Standing, patience: Patience) -> TocReply:
    """Answer `toc`.

    Raises:
        SchemaError: `bad_field`: no node id.
        RequestFailed: `not_found`.
    """
    if request.node is not None:
        check_node(request.node)
    nodes = Nodes(stages, tenant, standing, patience, brief=not request.explain)
    if request.node is None:
        found = await _beside(stages, tenant, standing, patience, nodes.years)
        years = [node_item(year, explain=request.explain) for year in found]
        return TocReply(**standing.common(patience.took_ms()), nodes=years)
    read = partial(nodes.one, request.node, request.version or 0)
    node = await _beside(stages, tenant, standing, patience, read)
    return TocReply(**standing.common(patience.took_ms()), node=node_item(node, explain=request.explain))


async def browse(stages: Stages, tenant: str, request: Browse, standing: Standing, patience: Patience) -> BrowseReply:
    """Answer `browse`.

    Raises:
        SchemaError: `bad_field`: no node id.
        RequestFailed: `not_found`, `bad_cursor`.
    """
    check_node(request.node)
    place = core.place_of(request.cursor, core.digest_of(tenant, "browse", request))
    nodes = Nodes(stages, tenant, standing, patience, brief=not request.explain)
    children = (await _beside(stages, tenant, standing, patience, partial(nodes.one, request.node))).children
    start = after_child(children, place.key.decode(errors="replace"), place.at)
    page = children[start : start + request.limit]
    items = [node_item(child, explain=request.explain) for child in await nodes.get(page)]
    count = core.fitting(items)
    end = start + (len(page) if count == len(items) else page.index(items[count].id))
    goes_on = end < len(children)
    cursor = core.cursor_to(place.digest, end, children[end - 1].encode()) if goes_on and end else msgspec.UNSET
    return BrowseReply(**standing.common(patience.took_ms()), nodes=items[:count], cursor=cursor)


def after_child(children: Sequence[str], last: str, at: int) -> int:
    """Where the page after child `last` begins; children may have come or gone since, then `at` must do."""
    if not last:
        return 0
    return children.index(last) + 1 if last in children else min(at, len(children))


async def expand_grip(
    stages: Stages, tenant: str, request: Expand, standing: Standing, patience: Patience
) -> ExpandReply:
    """Answer `expand` of a grip: its events, and what was said around them.

    Raises:
        SchemaError: `bad_field`: no grip id.
        RequestFailed: `not_found`: no such grip, or its events were erased.
    """
    segment = toc.segment_of(request.grip or "") or ""
    check_node(segment, "grip")
    nodes = Nodes(stages, tenant, standing, patience, brief=True)
    node = await _beside(stages, tenant, standing, patience, partial(nodes.one, segment, field="grip"))
    grip = next((each for each in node.grips if each.id == request.grip), None)
    if grip is None:
        raise RequestFailed("not_found", "the table of contents has no such grip", "grip")
    first, between, last = await _events_of(stages, tenant, request, grip, standing, patience)
    event = core.item(first.entry)
    ends = [] if grip.first == grip.last else [core.item(last.entry)]
    own = [core.item(each) for each in between] + ends
    before, after = core.around(event, [core.item(e) for e in first.before], own + [core.item(e) for e in last.after])
    events = [*before, event, *after]
    return ExpandReply(
        **standing.common(patience.took_ms()),
        event=event,
        before=before,
        after=_beyond(after, own),
        events=events,
        excerpt=grip.excerpt,
        grip=GripItem(id=grip.id, first=grip.first, last=grip.last, ts=core.time_text(epoch_ms(grip.ts))),
        node=node.id,
    )


def _beyond(after: Sequence[Item], own: Sequence[Item]) -> list[Item]:
    """What follows the grip's own events."""
    ids = {item.id for item in own}
    return [item for item in after if item.id not in ids]


async def _events_of(
    stages: Stages, tenant: str, request: Expand, grip: toc.Grip, standing: Standing, patience: Patience
) -> tuple[FetchedItem, list[bytes], FetchedItem]:
    """Its first event, those between, its last; the ends with their neighbours."""
    within_ms = request.within_minutes * _MINUTE_MS
    ends = list(dict.fromkeys((grip.first, grip.last)))
    asked = FetchRequest(tenant, ends, request.before_events, request.after_events, within_ms)
    reply = await stages.ask("persist", "fetch", tenant, asked, FetchReply, patience.timeout_s())
    standing.seen("record", reply.checkpoint)
    held = {decode_entry(each.entry).id: each for each in reply.items}
    if grip.first not in held or (grip.last not in held and not reply.cut):
        raise RequestFailed("not_found", "the events of this grip were erased", "grip")
    first, last = held[grip.first], held.get(grip.last, held[grip.first])
    if first is last:
        return first, [], last
    return first, await _between(stages, tenant, first, last, patience), last


async def _between(
    stages: Stages, tenant: str, first: FetchedItem, last: FetchedItem, patience: Patience
) -> list[bytes]:
    one, other = decode_entry(first.entry), decode_entry(last.entry)
    asked = TimelineRequest(
        tenant, _GRIP_EVENTS_MAX, False, one.agent, one.session, since=one.ts, until=other.ts + 1
    )  # fmt: skip
    reply = await stages.ask("persist", "timeline", tenant, asked, TimelineReply, patience.timeout_s())
    ids = [decode_entry(each).id for each in reply.entries]
    start = ids.index(one.id) + 1 if one.id in ids else 0
    end = ids.index(other.id) if other.id in ids else len(ids)
    return reply.entries[start:end]
