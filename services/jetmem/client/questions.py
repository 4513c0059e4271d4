"""The query verbs, typed: one method each, and iterators that follow the cursor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final, Literal, TypeVar

import msgspec
from nats.aio.msg import Msg

from jetmem.client.errors import ClientError, Refused, RequestRefused, TimedOut, Unavailable, of_reply
from jetmem.client.link import Link, Lost
from jetmem_schemas import requests, subjects
from jetmem_schemas.asking import Reply
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import decode_json
from jetmem_schemas.failures import ERROR_CODE_HEADER, ERROR_HEADER, Failure
from jetmem_schemas.procedure_replies import (
    InsightsReply,
    PatternsReply,
    PredictReply,
    ProcedureReply,
    ProceduresReply,
    RecommendReply,
    RelatedReply,
)
from jetmem_schemas.procedures import PatternItem, ProcedureItem
from jetmem_schemas.shown import AgentItem, NodeItem, SessionItem, TopicItem

R = TypeVar("R", bound=Reply)
After = int | Literal["mine"]
#: Longer than any stage is given to answer; on top of `wait_ms`.
ANSWER_S: Final = 10.0
#: A forget is answered after 15 s at most (`query.forget_wait_s`), plus what publishing and counting may take.
FORGET_ANSWER_S: Final = 30.0
#: How long read-your-writes waits when the caller does not say.
MINE_WAIT_MS: Final = 5_000
_MAYBE_FORGOTTEN: Final = (
    "; whether the forget was recorded is not known: it is safe to run it again, or ask `jetmem status` what is being "
    "purged, or `jetmem forget --state SEQ` if its sequence is known"
)
_encode: Final = msgspec.json.Encoder().encode
_failure: Final = msgspec.json.Decoder(Failure).decode


class Questions:
    """Asks as one tenant. Filters and limits of each verb are the fields of its Struct in `jetmem_schemas.requests`.

    Those of the verbs about procedures are in `jetmem_schemas.procedures`.

    Every verb takes `after` (a MEMORY sequence, or `"mine"` for what this client published last), `wait_ms` and
    `timeout_s`. All raise `RequestRefused`, `Unavailable` (of which `Busy` is one), `TimedOut`,
    `PermissionDenied`.
    """

    def __init__(self, link: Link, tenant: str, *, read_your_writes: bool, answer_s: float) -> None:
        self._link = link
        self._tenant = tenant
        self._read_your_writes = read_your_writes
        self._answer_s = answer_s
        self._last_seq = 0

    @property
    def last_seq(self) -> int:
        """MEMORY sequence of what this client published last; 0 before that."""
        return self._last_seq

    async def search(self, query: str, **fields: Any) -> requests.SearchReply:
        """Ranked events, or with `target` nodes of the table of contents or both; fields of `requests.Search`."""
        return await self._typed("search", {"query": query, **fields}, requests.SearchReply)

    async def get(self, *ids: str, **fields: Any) -> requests.EventsReply:
        """Events by id; those not held are in `missing`."""
        return await self._typed("get", {"ids": list(ids), **fields}, requests.EventsReply)

    async def expand(
        self, event_id: str | None = None, *, grip: str | None = None, **fields: Any
    ) -> requests.ExpandReply:
        """One event, or those of a grip, with what came before and after; fields of `requests.Expand`."""
        return await self._typed("expand", {"id": event_id, "grip": grip, **fields}, requests.ExpandReply)

    async def toc(self, node: str | None = None, **fields: Any) -> requests.TocReply:
        """The years of the table of contents in `nodes`, or one `node`; fields of `requests.Toc`."""
        return await self._typed("toc", {"node": node, **fields}, requests.TocReply)

    async def browse(self, node: str, **fields: Any) -> requests.BrowseReply:
        """One page of a node's children; fields of `requests.Browse`."""
        return await self._typed("browse", {"node": node, **fields}, requests.BrowseReply)

    async def route(self, query: str, **fields: Any) -> requests.RouteReply:
        """Events or nodes by the strategy that suits the question, and why; fields of `requests.Route`."""
        return await self._typed("route", {"query": query, **fields}, requests.RouteReply)

    async def topics(self, **fields: Any) -> requests.TopicsReply:
        """One page of topics, the most important first; fields of `requests.Topics`."""
        return await self._typed("topics", fields, requests.TopicsReply)

    async def topic(self, topic_id: str, **fields: Any) -> requests.TopicReply:
        """One topic with a page of its segments, and related topics; fields of `requests.Topic`."""
        return await self._typed("topic", {"id": topic_id, **fields}, requests.TopicReply)

    async def recommend(self, task: str, **fields: Any) -> RecommendReply:
        """Procedures for a task, best first; fields of `procedures.Recommend`."""
        return await self._typed("recommend", {"task": task, **fields}, RecommendReply)

    async def predict(self, task: str, procedure: str, **fields: Any) -> PredictReply:
        """How likely a procedure is to succeed at a task; fields of `procedures.Predict`."""
        return await self._typed("predict", {"task": task, "procedure": procedure, **fields}, PredictReply)

    async def procedure(self, name: str, **fields: Any) -> ProcedureReply:
        """One procedure with its statistics."""
        return await self._typed("procedure", {"id": name, **fields}, ProcedureReply)

    async def procedures(self, **fields: Any) -> ProceduresReply:
        """One page of procedures; fields of `procedures.Procedures`."""
        return await self._typed("procedures", fields, ProceduresReply)

    async def related(self, name: str, **fields: Any) -> RelatedReply:
        """Neighbours of a procedure, the strongest first; fields of `procedures.Related`."""
        return await self._typed("related", {"id": name, **fields}, RelatedReply)

    async def patterns(self, **fields: Any) -> PatternsReply:
        """One page of steps in a row that recur in successes; fields of `procedures.Patterns`."""
        return await self._typed("patterns", fields, PatternsReply)

    async def insights(self, **fields: Any) -> InsightsReply:
        """Clusters of tasks, what works and what fails in each; fields of `procedures.Insights`."""
        return await self._typed("insights", fields, InsightsReply)

    async def timeline(self, **fields: Any) -> requests.EventsReply:
        """One page of events in the order of their time; fields of `requests.Timeline`."""
        return await self._typed("timeline", fields, requests.EventsReply)

    async def sessions(self, **fields: Any) -> requests.SessionsReply:
        """One page of sessions; fields of `requests.Sessions`."""
        return await self._typed("sessions", fields, requests.SessionsReply)

    async def agents(self, **fields: Any) -> requests.AgentsReply:
        """One page of agents; fields of `requests.Agents`."""
        return await self._typed("agents", fields, requests.AgentsReply)

    async def status(self, **fields: Any) -> requests.StatusReply:
        """Progress per stage for this tenant."""
        return await self._typed("status", fields, requests.StatusReply)

    async def forget(self, **selector: Any) -> requests.ForgetReply:
        """Erase, and wait until no query returns it; exactly one selector of `requests.ForgetRequest`.

        With `seq` of an earlier reply instead, say how far that forget is: `accepted`, `applied` or `purged`.
        """
        reply = await self._typed("forget", selector, requests.ForgetReply)
        if "seq" in selector:
            return reply
        self._last_seq = max(self._last_seq, reply.seq)
        return reply

    async def search_all(self, query: str, **fields: Any) -> AsyncIterator[requests.Hit]:
        """Hits of all pages, best first."""
        async for page in self._pages("search", {"query": query, **fields}, requests.SearchReply):
            for hit in page.hits:
                yield hit

    async def browse_all(self, node: str, **fields: Any) -> AsyncIterator[NodeItem]:
        """Children of a node, of all pages."""
        async for page in self._pages("browse", {"node": node, **fields}, requests.BrowseReply):
            for item in page.nodes:
                yield item

    async def topics_all(self, **fields: Any) -> AsyncIterator[TopicItem]:
        """Topics of all pages."""
        async for page in self._pages("topics", fields, requests.TopicsReply):
            for item in page.topics:
                yield item

    async def procedures_all(self, **fields: Any) -> AsyncIterator[ProcedureItem]:
        """Procedures of all pages; in an order that new runs change, one may come twice or not at all."""
        async for page in self._pages("procedures", fields, ProceduresReply):
            for item in page.procedures:
                yield item

    async def patterns_all(self, **fields: Any) -> AsyncIterator[PatternItem]:
        """Patterns of all pages."""
        async for page in self._pages("patterns", fields, PatternsReply):
            for item in page.patterns:
                yield item

    async def timeline_all(self, **fields: Any) -> AsyncIterator[requests.Item]:
        """Events of all pages."""
        async for page in self._pages("timeline", fields, requests.EventsReply):
            for item in page.events:
                yield item

    async def sessions_all(self, **fields: Any) -> AsyncIterator[SessionItem]:
        """Sessions of all pages."""
        async for page in self._pages("sessions", fields, requests.SessionsReply):
            for item in page.sessions:
                yield item

    async def agents_all(self, **fields: Any) -> AsyncIterator[AgentItem]:
        """Agents of all pages."""
        async for page in self._pages("agents", fields, requests.AgentsReply):
            for item in page.agents:
                yield item

    async def ask(self, verb: str, fields: dict[str, Any]) -> bytes:
        """Ask any verb and return the reply's JSON as it came; same errors as the typed verbs."""
        fields = {name: value for name, value in fields.items() if value is not None}
        timeout_s = fields.pop("timeout_s", None)
        self._set_after(fields)
        payload = encoded(verb, fields)
        try:
            subject = subjects.query(self._tenant, verb)
        except SchemaError as error:
            raise RequestRefused(error.code, error.message, error.field) from error
        wait_s = int(fields.get("wait_ms", 0)) / 1000
        erases = verb == "forget" and "seq" not in fields
        answer_s = max(self._answer_s, FORGET_ANSWER_S) if erases else self._answer_s
        try:
            msg = await self._request(subject, payload, timeout_s or answer_s + wait_s)
        except (TimedOut, Unavailable) as error:
            if not erases:
                raise
            raise type(error)(error.message + _MAYBE_FORGOTTEN) from error
        return _checked(msg, verb)

    async def _typed(self, verb: str, fields: dict[str, Any], kind: type[R]) -> R:
        return _decoded(await self.ask(verb, fields), kind)

    async def _pages(self, verb: str, fields: dict[str, Any], kind: type[R]) -> AsyncIterator[R]:
        cursor: Any = fields.get("cursor")
        while cursor is not msgspec.UNSET:
            page = await self._typed(verb, {**fields, "cursor": cursor}, kind)
            yield page
            cursor = getattr(page, "cursor", msgspec.UNSET)

    def _set_after(self, fields: dict[str, Any]) -> None:
        mine = fields.get("after") == "mine"
        if mine or (self._read_your_writes and "after" not in fields):
            fields["after"] = self._last_seq
            if self._last_seq:
                fields.setdefault("wait_ms", MINE_WAIT_MS)

    async def _request(self, subject: str, payload: bytes, timeout_s: float) -> Msg:
        """Ask; once more if the connection goes meanwhile: every verb may be repeated."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                await self._link.ready(max(0.001, until - time.monotonic()))
                return await self._link.ask(subject, payload, max(0.001, until - time.monotonic()))
            except Lost as error:
                if time.monotonic() >= until:
                    raise Unavailable(str(error)) from error
                await asyncio.sleep(0.05)
            except TimedOut as error:
                raise TimedOut(f"no answer to {subject} within {timeout_s:g} s") from error
            except Refused as error:
                if error.code == "too_large":
                    raise RequestRefused(error.code, error.message, error.field) from error
                raise


def encoded(verb: str, fields: dict[str, Any]) -> bytes:
    """A question as it is sent.

    Raises:
        RequestRefused: It would be refused: nobody needs to be asked to know.
    """
    _check_given(fields)
    try:
        payload = _encode(fields)
        if verb in requests.VERBS:
            decode_json(payload, msgspec.json.Decoder(requests.VERBS[verb][0]).decode)
    except SchemaError as error:
        raise RequestRefused(error.code, error.message, error.field) from error
    except TypeError as error:
        raise RequestRefused("bad_field", str(error)) from error
    return payload


def _check_given(fields: dict[str, Any]) -> None:
    """Refuse what a caller in Python gets wrong and the service could not say as clearly.

    Raises:
        RequestRefused: `after` is no sequence and not "mine", or ids are not given one by one.
    """
    after = fields.get("after", 0)
    if isinstance(after, str):
        message = f'after must be a sequence (the seq of a receipt) or "mine", not {after[:64]!r}'
        raise RequestRefused("bad_field", message, "after")
    ids = fields.get("ids")
    for each in ids if isinstance(ids, list | tuple) else ():
        if not isinstance(each, str):
            message = f'ids must be text: get("a", "b"), or get(*ids) for a list; not {type(each).__name__}'
            raise RequestRefused("bad_field", message, "ids")


def _checked(msg: Msg, verb: str) -> bytes:
    headers = msg.headers or {}
    if headers.get("Status") == "503":
        raise Unavailable(f"nobody answers {verb}: the query service is not running, or not on this broker")
    if ERROR_CODE_HEADER in headers or ERROR_HEADER in headers:
        raise _refusal(msg, headers)
    return bytes(msg.data)


def _refusal(msg: Msg, headers: dict[str, str]) -> ClientError:
    try:
        failure = _failure(msg.data)
    except msgspec.MsgspecError:
        failure = Failure("internal", headers.get(ERROR_HEADER, "an error without a body"))
    return of_reply(failure.code, failure.message, failure.field)


def _decoded(data: bytes, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise RequestRefused("internal", f"the reply does not fit this version of the client: {error}") from error
