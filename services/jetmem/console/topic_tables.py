"""Topics as people read them."""

from __future__ import annotations

from datetime import tzinfo

from rich.console import Console
from rich.text import Text

from jetmem.console import tables
from jetmem.console.moments import when, zone_named
from jetmem_schemas import requests, shown

_UNTITLED = "(being made again)"
_NO_TOPICS = "no topic fits; they are made of some 20 closed segments and more, once these have their vectors"


def show_topics(console: Console, reply: requests.TopicsReply) -> None:
    """Topics, the most important first."""
    table = tables.lines("topic", ">importance", ">segments", ">events", "first", "last", "id")
    zone = zone_named(reply.timezone)
    for each in reply.topics:
        title = tables.clean(each.title) or _UNTITLED
        sizes = f"{each.importance:.2f}", f"{each.segments:,}", f"{each.events:,}"
        table.add_row(title, *sizes, when(each.first, zone)[:10], when(each.last, zone)[:10], each.id)
    console.print(table if reply.topics else _NO_TOPICS)
    tables.footer(console, reply, cursor=tables.cursor_of(reply.cursor))


def show_topic(console: Console, reply: requests.TopicReply) -> None:
    """One topic: what it says, its segments, its relatives."""
    topic, zone = reply.topic, zone_named(reply.timezone)
    console.print(
        Text.assemble((tables.clean(topic.title) or _UNTITLED, "bold"), "  ", (topic.id, "green")), soft_wrap=True
    )
    span = f"{when(topic.first, zone)} to {when(topic.last, zone)}"
    sizes = f"{tables.count(topic.segments, 'segment')}, {tables.count(topic.events, 'event')}"
    console.print(f"{sizes}  {span}  importance {topic.importance:.2f}  {', '.join(topic.agents)}", soft_wrap=True)
    if topic.keywords:
        console.print(tables.clean(", ".join(topic.keywords)), style="dim", soft_wrap=True)
    for segment in reply.segments:
        console.print(_segment_line(segment, zone), soft_wrap=True)
    for other in reply.related:
        title = tables.clean(other.title) or _UNTITLED
        console.print(Text.assemble(f"~ {other.strength:.2f}  {title}  ", (other.id, "green")), soft_wrap=True)
    tables.footer(console, reply, cursor=tables.cursor_of(reply.cursor))


def _segment_line(segment: shown.SegmentItem, zone: tzinfo) -> Text:
    return Text.assemble(
        f"• {when(segment.start, zone)}  {tables.clean(segment.title)}  {tables.count(segment.events, 'event')}  ",
        (segment.id, "green"),
    )
