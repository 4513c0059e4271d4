"""What requests and replies hold of the table of contents, below the verbs of `requests`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem_schemas.toc import Level, NodeKind


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a walk stops: nodes read, milliseconds."""

    nodes: Annotated[int, Meta(ge=1, le=5_000)] = 300
    ms: Annotated[int, Meta(ge=1, le=10_000)] = 1_500


class GripItem(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bullet comes from: the events from `first` to `last`."""

    id: str
    first: str
    last: str
    ts: str


class BulletItem(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a summary and the grips that prove it; `expand` shows a grip's words."""

    text: str
    grips: list[str]


class NodeItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node of the table of contents as replies show it; `terms` and `sources` only where `explain` was asked."""

    id: str
    version: int
    level: Level
    title: str
    summary: str
    bullets: list[BulletItem]
    keywords: list[str]
    children: list[str]
    start: str
    end: str
    events: int
    agents: list[str]
    session: str = ""
    salience: float = 0.0
    kind: NodeKind = "observation"
    pinned: bool = False
    open: bool = False
    score: float | None = None
    terms: dict[str, int] = {}
    sources: list[tuple[int, int]] = []


class TopicItem(msgspec.Struct, frozen=True, kw_only=True):
    """One topic: segments that are alike.

    Attributes:
        id: The same as long as most of its segments stay together.
        title: Two to four phrases; empty while it is made anew without what was forgotten.
        keywords: The best first.
        importance: Its segments' salience, of each half of what it was every 30 days since it ended.
        segments: How many.
        events: How many they hold.
        first: Start of its earliest segment.
        last: End of its latest.
        agents: The most active first, at most 32.
    """

    id: str
    title: str
    keywords: list[str]
    importance: float
    segments: int
    events: int
    first: str
    last: str
    agents: list[str]


class SegmentItem(msgspec.Struct, frozen=True, kw_only=True):
    """One segment of a topic; `id` is its node's, which `toc` and `browse` know."""

    id: str
    title: str
    start: str
    end: str
    events: int
    agents: list[str]
    session: str
    salience: float


class RelatedTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic like another one; `strength` 0..1 is the cosine of their centres."""

    id: str
    title: str
    strength: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One strategy of a route: what it found, how long it took, and why it won or was left."""

    strategy: str
    found: int
    took_ms: float
    why: str


class SessionItem(msgspec.Struct, frozen=True, kw_only=True):
    """One session; `id` is its token."""

    id: str
    agent: str
    events: int
    first: str
    last: str


class AgentItem(msgspec.Struct, frozen=True, kw_only=True):
    """One agent; `id` is its token."""

    id: str
    events: int
    sessions: int
    first: str
    last: str


class StageItem(msgspec.Struct, frozen=True, kw_only=True):
    """How one process of a stage is doing.

    `state`: ok, behind (work waits, of any tenant), paused (by command, for this tenant or all), degraded or down.
    """

    id: str
    stage: str
    state: str
    detail: str
    last_error: str = ""
