"""The public questions and answers: JSON over `mem.<tenant>.query.<verb>`.

Requests refuse unknown fields (a misspelt filter must not be ignored); replies ignore them, so old clients
survive new servers.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from jetmem_schemas import procedure_replies, procedures
from jetmem_schemas.asking import (
    LIMIT_MAX,
    QUERY_CHARS_MAX,
    SEQ_MAX,
    Cursor,
    Few,
    Limit,
    Moment,
    Reply,
    Request,
    Token,
)
from jetmem_schemas.events import Id, Scalar
from jetmem_schemas.ranking import Rank
from jetmem_schemas.shown import (
    AgentItem,
    Budget,
    GripItem,
    NodeItem,
    RelatedTopic,
    SegmentItem,
    SessionItem,
    StageItem,
    TopicItem,
    Tried,
)
from jetmem_schemas.toc import Level


class Search(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Ranked events for a question, or nodes of the table of contents, or both.

    Without `rank` its options are as the service is set. Of nodes `kind` is what most of it is (observation,
    preference, procedure, constraint, definition), `since` and `until` select by overlap of its time, `session` its
    segments; `author`, `role` and `tags` are of events alone, and so is `rank`.
    """

    query: Annotated[str, Meta(min_length=1, max_length=QUERY_CHARS_MAX)]
    mode: Literal["hybrid", "text", "vector"] = "hybrid"
    target: Literal["events", "nodes", "both"] = "events"
    limit: Limit = 10
    cursor: Cursor | None = None
    agent: Token | None = None
    session: Token | None = None
    author: Annotated[str, Meta(max_length=256)] | None = None
    kind: str | Few | None = None
    role: str | Few | None = None
    tags: Few = []
    since: Moment | None = None
    until: Moment | None = None
    around: Annotated[int, Meta(ge=0, le=10)] = 0
    explain: bool = False
    rank: Rank | None = None


class Get(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Events by id."""

    ids: Annotated[list[Id], Meta(min_length=1, max_length=LIMIT_MAX)]
    cursor: Cursor | None = None


class Expand(Request, frozen=True, kw_only=True, omit_defaults=True):
    """One event, or the events of a grip, with what came before and after in its session; one of `id`, `grip`."""

    id: Id | None = None
    grip: Id | None = None
    before_events: Annotated[int, Meta(ge=0, le=100)] = 3
    after_events: Annotated[int, Meta(ge=0, le=100)] = 3
    within_minutes: Annotated[int, Meta(ge=1, le=7 * 24 * 60)] = 30


class Timeline(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Events in the order of their time."""

    limit: Limit = 50
    cursor: Cursor | None = None
    order: Literal["asc", "desc"] = "desc"
    agent: Token | None = None
    session: Token | None = None
    author: Annotated[str, Meta(max_length=256)] | None = None
    kind: str | Few | None = None
    role: str | Few | None = None
    tags: Few = []
    since: Moment | None = None
    until: Moment | None = None


class Sessions(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Sessions, the latest first."""

    limit: Limit = 50
    cursor: Cursor | None = None
    agent: Token | None = None
    since: Moment | None = None
    until: Moment | None = None


class Agents(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Agents, the latest first."""

    limit: Limit = 50
    cursor: Cursor | None = None
    since: Moment | None = None
    until: Moment | None = None


class Toc(Request, frozen=True, kw_only=True, omit_defaults=True):
    """The table of contents: its years, or one node, newest version unless `version` says another."""

    node: Id | None = None
    version: Annotated[int, Meta(ge=1, le=SEQ_MAX)] | None = None
    explain: bool = False


class Browse(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Children of a node of the table of contents, in order of time."""

    node: Id
    limit: Limit = 50
    cursor: Cursor | None = None
    explain: bool = False


class Route(Request, frozen=True, kw_only=True, omit_defaults=True):
    """The strategy that a question's intent asks for, and what it finds; time words are relative to `now`.

    They are understood where the tenant is; if it set no time zone, in the offset that `now` is written with. Without
    `now` the service's clock counts.
    """

    query: Annotated[str, Meta(min_length=1, max_length=QUERY_CHARS_MAX)]
    now: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    budget: Budget = Budget()


class Topics(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Topics, the most important first; with filters, those that have a segment which fits."""

    limit: Limit = 20
    cursor: Cursor | None = None
    agent: Token | None = None
    since: Moment | None = None
    until: Moment | None = None


class Topic(Request, frozen=True, kw_only=True, omit_defaults=True):
    """One topic, or the one that it was merged into, its segments (the latest first, paged), and topics like it."""

    id: Id
    limit: Limit = 20
    cursor: Cursor | None = None


class Status(Request, frozen=True, kw_only=True, omit_defaults=True):
    """How far each stage is for this tenant."""


class ForgetRequest(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Erase, and wait until no query returns it; the same selectors as a published forget.

    `seq` instead of a selector erases nothing: it asks for the state of the forget that has this MEMORY sequence.
    """

    ids: Annotated[list[Id], Meta(min_length=1, max_length=10_000)] | None = None
    agent: Token | None = None
    session: Token | None = None
    author: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    before: Moment | None = None
    all: bool = False
    reason: Annotated[str, Meta(max_length=1000)] = ""
    seq: Annotated[int, Meta(ge=1, le=SEQ_MAX)] | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event as replies show it; `at` is when the broker had it, `ts` when it happened."""

    id: str
    agent: str
    session: str
    ts: str
    at: str
    seq: int
    kind: str
    role: str = ""
    author: str = ""
    text: str = ""
    tags: list[str] = []
    meta: dict[str, Scalar] = {}
    importance: float | None = None
    supersedes: str | None = None


class Hit(Item, frozen=True, kw_only=True, omit_defaults=True):
    """One ranked event or node: score in 0..1, the arms that found it, the matched words as [start, end) characters.

    `segment` is the node that an event is in, absent where none is recorded yet or `summarize` did not answer in time.
    `superseded_by` is the event that corrects it, the last recorded one; `folded` are near-duplicates that it stands
    for, the newest first (`Rank.fold`). Both only where the index answers.

    Of a node `text` is title and summary, `agent` the only one of `agents` or "", `ts` and `start` are when it begins,
    `at` and `end` when it ends, `seq` is up to where it tells; it has no neighbours.
    """

    score: float
    arms: list[str]
    type: Literal["event", "node"] = "event"
    highlights: list[tuple[int, int]] = []
    segment: str | None = None
    before: list[Item] = []
    after: list[Item] = []
    explain: dict[str, float] = {}
    superseded_by: str | None = None
    folded: list[str] = []
    title: str = ""
    level: Level | None = None
    start: str | None = None
    end: str | None = None
    agents: list[str] = []


class SearchReply(Reply, frozen=True, kw_only=True):
    """Hits, best first."""

    mode: str
    hits: list[Hit]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class EventsReply(Reply, frozen=True, kw_only=True):
    """Events (`get`, `timeline`); ids asked for and not held are in `missing`."""

    events: list[Item]
    missing: list[str] | msgspec.UnsetType = msgspec.UNSET
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class ExpandReply(Reply, frozen=True, kw_only=True):
    """One event, or a grip's, between its neighbours; `events` holds all of them in order.

    Of a grip `event` is the first of its events, `excerpt` their very words, `node` the segment that holds it.
    """

    event: Item
    before: list[Item]
    after: list[Item]
    events: list[Item]
    excerpt: str | msgspec.UnsetType = msgspec.UNSET
    grip: GripItem | msgspec.UnsetType = msgspec.UNSET
    node: str | msgspec.UnsetType = msgspec.UNSET


class TocReply(Reply, frozen=True, kw_only=True):
    """The years in order of time as `nodes`, or the `node` that was asked for."""

    nodes: list[NodeItem] | msgspec.UnsetType = msgspec.UNSET
    node: NodeItem | msgspec.UnsetType = msgspec.UNSET


class BrowseReply(Reply, frozen=True, kw_only=True):
    """Children in order of time."""

    nodes: list[NodeItem]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class RouteReply(Reply, frozen=True, kw_only=True):
    """What a question was taken for, how it was answered, and why.

    Attributes:
        intent: What the question's words ask for.
        strategy: The one that won, `none` if nothing was found.
        tried: In order, the winner last.
        explanation: How the answer came about, in one plain line for people.
        hits: Events, best first.
        nodes: Nodes of the table of contents, best first; of a time span in order of time.
        since: Where the question's time words begin.
        until: Where they end.
        widened: Nothing was found in that time; what is here is of any time.
        cut: What ended a walk before all was looked at (`nodes` or `ms` of the budget), or all of a time that it holds
            was listed (`limit`): there is more.
    """

    intent: Literal["explore", "answer", "locate", "time-boxed"]
    strategy: Literal["toc", "hybrid", "vector", "text", "recent", "none"]
    tried: list[Tried]
    explanation: str
    hits: list[Hit]
    nodes: list[NodeItem]
    since: str | msgspec.UnsetType = msgspec.UNSET
    until: str | msgspec.UnsetType = msgspec.UNSET
    widened: bool = False
    cut: Literal["nodes", "ms", "limit"] | msgspec.UnsetType = msgspec.UNSET


class TopicsReply(Reply, frozen=True, kw_only=True):
    """Topics, the most important first."""

    topics: list[TopicItem]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class TopicReply(Reply, frozen=True, kw_only=True):
    """One topic, a page of its segments, the latest first, and at most 5 related topics."""

    topic: TopicItem
    segments: list[SegmentItem]
    related: list[RelatedTopic]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class SessionsReply(Reply, frozen=True, kw_only=True):
    """Sessions, the latest first."""

    sessions: list[SessionItem]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class AgentsReply(Reply, frozen=True, kw_only=True):
    """Agents, the latest first."""

    agents: list[AgentItem]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class StatusReply(Reply, frozen=True, kw_only=True):
    """Progress per stage.

    `pending_vectors`: texts of this tenant that still lack their vector; `dead_letters`
    is null when they cannot be counted now.
    """

    stages: list[StageItem]
    events: int
    sessions: int
    agents: int
    pending_vectors: int
    dead_letters: int | None
    purging: int


class ForgetReply(Reply, frozen=True, kw_only=True):
    """How far a forget is. `seq` identifies it; ask with it for its state later.

    `state` is `accepted` (stored; the stages in `waiting` have yet to apply it), `applied` (no query returns what it
    erased) or `purged` (no file under the data folder holds it either; while a later forget of the tenant is worked
    off, it may be called `applied` again).
    """

    state: str
    seq: int
    erased: int
    waiting: list[str]


VERBS: Final[dict[str, tuple[type[Request], type[Reply]]]] = {
    "search": (Search, SearchReply),
    "get": (Get, EventsReply),
    "expand": (Expand, ExpandReply),
    "timeline": (Timeline, EventsReply),
    "sessions": (Sessions, SessionsReply),
    "agents": (Agents, AgentsReply),
    "toc": (Toc, TocReply),
    "browse": (Browse, BrowseReply),
    "route": (Route, RouteReply),
    "topics": (Topics, TopicsReply),
    "topic": (Topic, TopicReply),
    "recommend": (procedures.Recommend, procedure_replies.RecommendReply),
    "predict": (procedures.Predict, procedure_replies.PredictReply),
    "procedure": (procedures.ProcedureAsk, procedure_replies.ProcedureReply),
    "procedures": (procedures.Procedures, procedure_replies.ProceduresReply),
    "related": (procedures.Related, procedure_replies.RelatedReply),
    "patterns": (procedures.Patterns, procedure_replies.PatternsReply),
    "insights": (procedures.Insights, procedure_replies.InsightsReply),
    "status": (Status, StatusReply),
    "forget": (ForgetRequest, ForgetReply),
}
#: Verbs that erase: not everyone who may ask may ask these.
ERASING: Final = frozenset({"forget"})
