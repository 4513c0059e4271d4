"""What query asks summarize about topics. MessagePack, never seen by users; what they see is in `shown`."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from jetmem_schemas.internal import Head

_ID: Final = re.compile(r"topic:[0-9A-Z]{26}", re.ASCII)


def is_topic_id(text: str) -> bool:
    """Whether a topic could be called so."""
    return _ID.fullmatch(text) is not None


class TopicFacts(msgspec.Struct, frozen=True, array_like=True):
    """One topic. `importance` is as of now, `first` and `last` epoch ms, `agents` the most active first."""

    id: str
    title: str
    keywords: list[str]
    importance: float
    segments: int
    events: int
    first: int
    last: int
    agents: list[str]


class SegmentFacts(msgspec.Struct, frozen=True, array_like=True):
    """One segment of a topic; `id` is its node's, times epoch ms."""

    id: str
    title: str
    start: int
    end: int
    events: int
    agents: list[str]
    session: str
    salience: float


class RelatedFacts(msgspec.Struct, frozen=True, array_like=True):
    """A topic that is like another one; `strength` is the cosine of their centroids."""

    id: str
    title: str
    strength: float


class TopicsRequest(msgspec.Struct, frozen=True):
    """Topics by importance; ms bounds are [since, until) and, like `agent`, ask for a segment that fits.

    `last` is the last topic of the page before, `start` how many came up to it, should it be no more.
    """

    tenant: str
    limit: int
    start: int = 0
    last: str = ""
    agent: str = ""
    since: int | None = None
    until: int | None = None


class TopicsFound(msgspec.Struct, frozen=True):
    """One page. `at`: every closed segment up to there has its place.

    `still`: topics stand still, since index cannot be asked for vectors.
    """

    topics: list[TopicFacts]
    more: bool
    at: Head
    still: bool = False


class TopicRequest(msgspec.Struct, frozen=True):
    """One topic, and its segments, the latest first; `last` is the `cursor` of the page before."""

    tenant: str
    id: str
    limit: int
    last: bytes = b""


class TopicFound(msgspec.Struct, frozen=True):
    """A topic, None if there is none; of one that was merged, the one it was merged into.

    `cursor` is where the next page of segments begins, b"" at the end.
    """

    topic: TopicFacts | None
    segments: list[SegmentFacts]
    related: list[RelatedFacts]
    cursor: bytes
    at: Head
    still: bool = False
