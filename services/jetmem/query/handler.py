"""Gather, decide, answer: one coroutine for each verb."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec

from jetmem.query import contents, core, topics
from jetmem.query.core import Standing
from jetmem.query.discovery import Tally
from jetmem.query.forgetting import forget
from jetmem.query.patience import Patience, cover
from jetmem.query.placing import Placing
from jetmem.query.ports import Stages, Zones
from jetmem.query.procedures import ProcedureAnswers
from jetmem.query.progress import status
from jetmem.query.routing import route
from jetmem.query.searching import search
from jetmem.query.settings import QuerySettings
from jetmem.query.zones import FixedZones, placed, whose
from jetmem.runtime import limits, metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed, invariant
from jetmem_schemas.asking import Reply
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.internal import (
    Activity,
    ActivityReply,
    ActivityRequest,
    FetchedItem,
    FetchReply,
    FetchRequest,
    TimelineReply,
    TimelineRequest,
)
from jetmem_schemas.requests import (
    VERBS,
    Agents,
    AgentsReply,
    Browse,
    BrowseReply,
    EventsReply,
    Expand,
    ExpandReply,
    ForgetReply,
    ForgetRequest,
    Get,
    Route,
    RouteReply,
    Search,
    SearchReply,
    Sessions,
    SessionsReply,
    Status,
    StatusReply,
    Timeline,
    Toc,
    TocReply,
    Topic,
    TopicReply,
    Topics,
    TopicsReply,
)
from jetmem_schemas.shown import AgentItem, SessionItem

_encode = msgspec.json.Encoder().encode
#: `get` asks persist for so many at once; 1,000 ids of long events would make it read for nothing.
_GET_AT_ONCE: Final = 200
_MINUTE_MS: Final = 60_000
T = TypeVar("T")
Verb = Callable[[str, Any, Standing, Patience], Awaitable[Reply]]


class Query:
    """Answers questions. Keeps nothing between them but counts for service discovery."""

    def __init__(
        self, stages: Stages, settings: QuerySettings, clock: Clock, tally: Tally, *, zones: Zones | None = None
    ) -> None:
        self._stages = stages
        self._settings = settings
        self._clock = clock
        self._tally = tally
        self._zones = zones or FixedZones()
        self._placing = Placing()
        self._working = asyncio.Semaphore(limits.REQUESTS_AT_ONCE)
        self._waiting: Counter[str] = Counter()
        self._verbs: dict[str, Verb] = {
            "search": self._search,
            "get": self._get,
            "expand": self._expand,
            "timeline": self._timeline,
            "sessions": self._sessions,
            "agents": self._agents,
            "toc": self._toc,
            "browse": self._browse,
            "route": self._route,
            "topics": self._topics,
            "topic": self._topic,
            "status": self._status,
            "forget": self._forget,
            **ProcedureAnswers(stages, settings).verbs(),
        }
        invariant(set(self._verbs) == set(VERBS), "every verb of the contract is answered, and no other")

    async def answer(self, subject: str, payload: bytes) -> tuple[str, str, bytes, dict[str, str]]:
        """Answer one raw request, as `Shell.respond` wants it.

        Raises:
            RequestFailed: Refused or not answerable; its texts fit a header.
        """
        began = self._clock.monotonic()
        code = "internal"
        try:
            body = await self._answer(subject, payload)
            code = "ok"
        except (SchemaError, RequestFailed) as error:
            code = error.code
            raise core.one_line(error) from error
        finally:
            if code != "ok":
                metrics.operations.labels(core.verb_label(subject), code).inc()
            self._tally.count(core.verb_label(subject), code, self._clock.monotonic() - began)
        return "ok", core.verb_label(subject), body, {}

    async def _answer(self, subject: str, payload: bytes) -> bytes:
        tenant, verb, request = core.parse(subject, payload)
        async with self._turn(tenant, waits=isinstance(request, ForgetRequest) or bool(request.after)):
            patience = Patience(self._clock, request.wait_ms, self._settings.service_timeout_s)
            zone = whose(self._zones, tenant, request)
            standing = Standing(request.after, str(zone))
            reply = await self._verbs[verb](tenant, placed(request, zone), standing, patience)
        for arm in reply.degraded:
            metrics.degraded.labels(arm).inc()
        if reply.stale:
            metrics.stale.labels(verb).inc()
        outcome = "stale" if reply.stale else "degraded" if reply.degraded else "ok"
        metrics.operations.labels(verb, outcome).inc()
        return _encode(reply)

    @asynccontextmanager
    async def _turn(self, tenant: str, *, waits: bool) -> AsyncIterator[None]:
        """Questions are worked on a few at a time; who waits for others to catch up keeps nobody from his turn.

        Raises:
            RequestFailed: `busy`: too many of this tenant's requests wait already.
        """
        if not waits:
            async with self._working:
                yield
            return
        if self._waiting[tenant] >= limits.REQUESTS_WAITING_MAX:
            raise RequestFailed(
                "busy", f"{limits.REQUESTS_WAITING_MAX} requests of this tenant wait already; ask again"
            )
        self._waiting[tenant] += 1
        try:
            yield
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    async def _persist(self, verb: str, tenant: str, request: Any, reply: type[T], patience: Patience) -> T:
        return await self._stages.ask("persist", verb, tenant, request, reply, patience.timeout_s())

    async def _search(self, tenant: str, request: Search, standing: Standing, patience: Patience) -> SearchReply:
        return await search(self._stages, self._settings, self._placing, tenant, request, standing, patience)

    async def _status(self, tenant: str, request: Status, standing: Standing, patience: Patience) -> StatusReply:
        return await status(self._stages, tenant, request, standing, patience)

    async def _forget(self, tenant: str, request: ForgetRequest, standing: Standing, patience: Patience) -> ForgetReply:
        return await forget(self._stages, self._clock, self._settings, tenant, request, standing, patience)

    async def _get(self, tenant: str, request: Get, standing: Standing, patience: Patience) -> EventsReply:
        """Events by id, in the order asked; `missing` speaks of this page only."""
        ids = list(dict.fromkeys(request.ids))
        place = core.place_of(request.cursor, core.digest_of(tenant, "get", request))
        await cover(self._stages, tenant, standing, patience)
        asked = ids[place.at : place.at + _GET_AT_ONCE]
        reply = await self._persist("fetch", tenant, FetchRequest(tenant, asked), FetchReply, patience)
        standing.seen("record", reply.checkpoint)
        items = [core.item(each.entry) for each in reply.items]
        count = core.fitting(items)
        held = {each.id for each in items[:count]}
        whole = count == len(items) and not reply.cut
        seen = len(asked) if whole else asked.index(items[count - 1].id) + 1
        done = place.at + seen
        return EventsReply(
            **standing.common(patience.took_ms()),
            events=items[:count],
            missing=[id_ for id_ in asked[:seen] if id_ not in held],
            cursor=core.cursor_to(place.digest, done) if done < len(ids) else msgspec.UNSET,
        )

    async def _toc(self, tenant: str, request: Toc, standing: Standing, patience: Patience) -> TocReply:
        return await contents.table(self._stages, tenant, request, standing, patience)

    async def _browse(self, tenant: str, request: Browse, standing: Standing, patience: Patience) -> BrowseReply:
        return await contents.browse(self._stages, tenant, request, standing, patience)

    async def _route(self, tenant: str, request: Route, standing: Standing, patience: Patience) -> RouteReply:
        stages, settings, placing = self._stages, self._settings, self._placing
        return await route(stages, settings, placing, self._clock, self._zones, tenant, request, standing, patience)

    async def _topics(self, tenant: str, request: Topics, standing: Standing, patience: Patience) -> TopicsReply:
        return await topics.listed(self._stages, tenant, request, standing, patience)

    async def _topic(self, tenant: str, request: Topic, standing: Standing, patience: Patience) -> TopicReply:
        return await topics.opened(self._stages, tenant, request, standing, patience)

    async def _expand(self, tenant: str, request: Expand, standing: Standing, patience: Patience) -> ExpandReply:
        if request.id is None:
            return await contents.expand_grip(self._stages, tenant, request, standing, patience)
        await cover(self._stages, tenant, standing, patience)
        within_ms = request.within_minutes * _MINUTE_MS
        asked = FetchRequest(tenant, [request.id], request.before_events, request.after_events, within_ms)
        reply = await self._persist("fetch", tenant, asked, FetchReply, patience)
        standing.seen("record", reply.checkpoint)
        if not reply.items:
            raise RequestFailed("not_found", "nothing is recorded under this id", "id")
        found: FetchedItem = reply.items[0]
        event = core.item(found.entry)
        before, after = core.around(event, [core.item(e) for e in found.before], [core.item(e) for e in found.after])
        return ExpandReply(
            **standing.common(patience.took_ms()),
            event=event,
            before=before,
            after=after,
            events=[*before, event, *after],
        )

    async def _timeline(self, tenant: str, request: Timeline, standing: Standing, patience: Patience) -> EventsReply:
        f = core.filters_of(request)
        place = core.place_of(request.cursor, core.digest_of(tenant, "timeline", request))
        await cover(self._stages, tenant, standing, patience)
        asked = TimelineRequest(
            tenant, request.limit, request.order == "desc", f.agent, f.session, f.author, f.kinds, f.roles, f.tags,
            f.since, f.until, place.key,
        )  # fmt: skip
        reply = await self._persist("timeline", tenant, asked, TimelineReply, patience)
        items = [core.item(entry) for entry in reply.entries]
        count = core.fitting(items)
        if count < len(items):
            # persist alone can say where the page after a shorter one begins.
            shorter = msgspec.structs.replace(asked, limit=count)
            reply = await self._persist("timeline", tenant, shorter, TimelineReply, patience)
            items = [core.item(entry) for entry in reply.entries]
        standing.seen("record", reply.checkpoint)
        cursor = core.cursor_to(place.digest, key=reply.cursor) if reply.cursor else msgspec.UNSET
        return EventsReply(**standing.common(patience.took_ms()), events=items, cursor=cursor)

    async def _sessions(self, tenant: str, request: Sessions, standing: Standing, patience: Patience) -> SessionsReply:
        page, cursor = await self._activity("sessions", tenant, request, standing, patience)
        found = [
            SessionItem(
                id=each.session,
                agent=each.agent,
                events=each.events,
                first=core.time_text(each.first),
                last=core.time_text(each.last),
            )
            for each in page
        ]
        return SessionsReply(**standing.common(patience.took_ms()), sessions=found, cursor=cursor)

    async def _agents(self, tenant: str, request: Agents, standing: Standing, patience: Patience) -> AgentsReply:
        page, cursor = await self._activity("agents", tenant, request, standing, patience)
        found = [
            AgentItem(
                id=each.agent,
                events=each.events,
                sessions=each.sessions,
                first=core.time_text(each.first),
                last=core.time_text(each.last),
            )
            for each in page
        ]
        return AgentsReply(**standing.common(patience.took_ms()), agents=found, cursor=cursor)

    async def _activity(
        self, verb: str, tenant: str, request: Sessions | Agents, standing: Standing, patience: Patience
    ) -> tuple[list[Activity], str | msgspec.UnsetType]:
        since, until = core.span_of(request.since, request.until)
        place = core.place_of(request.cursor, core.digest_of(tenant, verb, request))
        await cover(self._stages, tenant, standing, patience)
        agent = request.agent or "" if isinstance(request, Sessions) else ""
        asked = ActivityRequest(tenant, request.limit, agent, since, until, place.key)
        reply = await self._persist(verb, tenant, asked, ActivityReply, patience)
        standing.seen("record", reply.checkpoint)
        cursor = core.cursor_to(place.digest, key=reply.cursor) if reply.cursor else msgspec.UNSET
        return reply.items, cursor
