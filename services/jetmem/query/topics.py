"""`topics`, `topic`: what summarize keeps of them. Nobody else has topics: with it down they cannot be answered."""

from __future__ import annotations

from typing import Final

import msgspec

from jetmem.query import core
from jetmem.query.core import Standing
from jetmem.query.patience import Patience
from jetmem.query.ports import Stages
from jetmem.query.progress import awaited
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.internal import Head
from jetmem_schemas.requests import Topic, TopicReply, Topics, TopicsReply
from jetmem_schemas.shown import RelatedTopic, SegmentItem, TopicItem
from jetmem_schemas.topics import (
    SegmentFacts,
    TopicFacts,
    TopicFound,
    TopicRequest,
    TopicsFound,
    TopicsRequest,
    is_topic_id,
)

SUMMARIZE: Final = "summarize"
ARM: Final = "topics"
#: Whom topics wait for when they stand still.
_VECTOR: Final = "vector"


async def listed(stages: Stages, tenant: str, request: Topics, standing: Standing, patience: Patience) -> TopicsReply:
    """Answer `topics`.

    Raises:
        SchemaError: `bad_time`, `bad_field`.
        RequestFailed: `bad_cursor`; `unavailable`, `timeout`: summarize does not answer.
    """
    since, until = core.span_of(request.since, request.until)
    place = core.place_of(request.cursor, core.digest_of(tenant, ARM, request))
    rseq = await awaited(stages, SUMMARIZE, tenant, standing, patience)
    asked = TopicsRequest(
        tenant, request.limit, place.at, place.key.decode(errors="replace"), request.agent or "", since, until
    )
    found = await stages.ask(SUMMARIZE, "topics", tenant, asked, TopicsFound, patience.timeout_s())
    _stand(standing, found.at, rseq, found.still)
    items = [_item(each) for each in found.topics]
    count = core.fitting(items)
    goes_on = found.more or count < len(items)
    cursor = core.cursor_to(place.digest, place.at + count, items[count - 1].id.encode()) if goes_on else msgspec.UNSET
    return TopicsReply(**standing.common(patience.took_ms()), topics=items[:count], cursor=cursor)


async def opened(stages: Stages, tenant: str, request: Topic, standing: Standing, patience: Patience) -> TopicReply:
    """Answer `topic`.

    Raises:
        SchemaError: `bad_field`: no topic id.
        RequestFailed: `not_found`, `bad_cursor`; `unavailable`, `timeout`: summarize does not answer.
    """
    if not is_topic_id(request.id):
        raise SchemaError("bad_field", "id must be an id like those that topics have", "id")
    place = core.place_of(request.cursor, core.digest_of(tenant, "topic", request))
    rseq = await awaited(stages, SUMMARIZE, tenant, standing, patience)
    asked = TopicRequest(tenant, request.id, request.limit, place.key)
    found = await stages.ask(SUMMARIZE, "topic", tenant, asked, TopicFound, patience.timeout_s())
    if found.topic is None:
        raise RequestFailed("not_found", "there is no such topic", "id")
    _stand(standing, found.at, rseq, found.still)
    return TopicReply(
        **standing.common(patience.took_ms()),
        topic=_item(found.topic),
        segments=[_segment(each) for each in found.segments],
        related=[RelatedTopic(id=each.id, title=each.title, strength=each.strength) for each in found.related],
        cursor=core.cursor_to(place.digest, key=found.cursor) if found.cursor else msgspec.UNSET,
    )


def _stand(standing: Standing, at: Head, rseq: int, still: bool) -> None:
    standing.answered(ARM, at, rseq)
    if still:
        standing.without([ARM, _VECTOR])


def _item(topic: TopicFacts) -> TopicItem:
    return TopicItem(
        id=topic.id,
        title=topic.title,
        keywords=topic.keywords,
        importance=topic.importance,
        segments=topic.segments,
        events=topic.events,
        first=core.time_text(topic.first),
        last=core.time_text(topic.last),
        agents=topic.agents,
    )


def _segment(segment: SegmentFacts) -> SegmentItem:
    return SegmentItem(
        id=segment.id,
        title=segment.title,
        start=core.time_text(segment.start),
        end=core.time_text(segment.end),
        events=segment.events,
        agents=segment.agents,
        session=segment.session,
        salience=segment.salience,
    )
