"""A million events through summarize, their vectors ready beforehand, then `toc` and `browse` over what it made.

The same messages come again and again under new ids and on later days: equal texts have one vector, so that embed has
work for the first of them only, and summarize finds every vector as soon as index has applied the event.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import date, timedelta
from typing import Final

import msgspec

from jetmem.client import Client, Outgoing
from jetmem.evaluation import metrics
from jetmem.evaluation.bench_data import AGENT, Data
from jetmem.evaluation.show import Told, progress

TENANT: Final = "years"
EVENTS: Final = 1_000_000
#: Different messages; embed takes some two minutes for them.
TEXTS: Final = 20_000
_FIRST_DAY: Final = date(2020, 1, 1)
#: Messages of one day, about what the chat has.
_DAY_EVENTS: Final = 1_300
_CHUNK: Final = 20_000
_PUBLISH_S: Final = 300.0
_WAIT_MS: Final = 10_000
_WARM: Final = 10
_SEED: Final = 11


class Summarized(msgspec.Struct, frozen=True):
    """What was seen.

    Attributes:
        events: How many were measured; those whose vectors were awaited come before them.
        summarized: A second, until every node of the table of contents was right and recorded.
        nodes: By level.
        toc: The years, or one node, client side.
        browse: A page of children, client side.
    """

    events: int
    summarized: float
    nodes: dict[str, int]
    toc: metrics.Spread
    browse: metrics.Spread


class Repeated:
    """Messages of a data set over and over: each round on the days after the last one's, at their times of day."""

    def __init__(self, data: Data, texts: int) -> None:
        self._lines = data.lines[:texts]
        self._days = -(-len(self._lines) // _DAY_EVENTS)

    def events(self, first: int, end: int) -> Iterator[Outgoing]:
        """Events by their number, from `first` up to `end`."""
        count = len(self._lines)
        for number in range(first, end):
            turn, at = divmod(number, count)
            place = at % _DAY_EVENTS
            day = _FIRST_DAY + timedelta(days=turn * self._days + at // _DAY_EVENTS)
            second = place * 86_400 // _DAY_EVENTS
            clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
            event = {**self._lines[at].event, "id": f"y{number:07}", "ts": f"{day}T{clock}Z"}
            yield Outgoing(event=event, session=str(day), agent=AGENT)


async def measure(
    memory: Client, data: Data, events: int, texts: int, questions: int, told: Told, rest: Callable[[], Awaitable[None]]
) -> Summarized:
    """Publish the first messages and wait for their vectors, then all the others as fast as they are taken.

    Nodes are asked for after `rest`, which waits until all other stages are done with the events, too.
    """
    repeated = Repeated(data, texts)
    first = min(texts, len(data.lines))
    seq = await _publish(memory, repeated, 0, first, told)
    await _vectors(memory, seq, told)
    began = time.perf_counter()
    seq = await _publish(memory, repeated, first, events, told)
    while (reply := await memory.toc(after=seq, wait_ms=_WAIT_MS)).stale:
        told.still(f"table of contents: {reply.fresh.get('toc')} of {seq}")
    summarized = time.perf_counter() - began
    await rest()
    nodes = await _nodes(memory)
    measured = events - first
    toc, browse = await _asked(memory, nodes, questions, told)
    counts = {level: len(ids) for level, ids in nodes.items()}
    return Summarized(measured, measured / summarized, counts, toc, browse)


async def _publish(memory: Client, repeated: Repeated, first: int, end: int, told: Told) -> int:
    """The sequence of the last one."""
    seq = 0
    with progress(told, f"publishing {end - first} events", end - first) as step:
        for start in range(first, end, _CHUNK):
            chunk = list(repeated.events(start, min(end, start + _CHUNK)))
            seq = (await memory.publish_many(chunk, timeout_s=_PUBLISH_S)).last_seq
            for _ in chunk:
                step()
    return seq


async def _vectors(memory: Client, seq: int, told: Told) -> None:
    """Wait until embed has nothing left to do. Not by a search: that would have a graph made beside the measure."""
    while (await memory.search("anything", mode="text", limit=1, after=seq, wait_ms=_WAIT_MS)).stale:
        told.still("waiting until all is found by words")
    while left := (await memory.status()).pending_vectors:
        told.still(f"{left} texts without a vector")


async def _nodes(memory: Client) -> dict[str, list[str]]:
    """Ids of all nodes by level."""
    years = [node.id for node in (await memory.toc()).nodes or ()]
    found = {"year": years}
    for above, level in (("year", "month"), ("month", "week"), ("week", "day"), ("day", "segment")):
        found[level] = [child.id for id_ in found[above] async for child in memory.browse_all(id_)]
    return found


async def _asked(
    memory: Client, nodes: dict[str, list[str]], count: int, told: Told
) -> tuple[metrics.Spread, metrics.Spread]:
    """Nodes of all levels in turn, at random."""
    dice = random.Random(_SEED)
    levels = [ids for ids in nodes.values() if ids]
    above = [ids for level, ids in nodes.items() if ids and level != "segment"]
    opened, browsed = list[float](), list[float]()
    with progress(told, f"{count} nodes and pages of children", count) as step:
        for number in range(_WARM + count):
            node = None if number % (len(levels) + 1) == 0 else dice.choice(levels[number % len(levels)])
            began = time.perf_counter()
            await memory.toc(node)
            opened.append(time.perf_counter() - began)
            began = time.perf_counter()
            await memory.browse(dice.choice(above[number % len(above)]))
            browsed.append(time.perf_counter() - began)
            step()
    return metrics.spread(opened[_WARM:]), metrics.spread(browsed[_WARM:])
