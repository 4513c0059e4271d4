"""Where events stand: the segments that each is in, for who shows it and for what corrects it. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from zoneinfo import ZoneInfo

from jetmem.domain import calendar, keys
from jetmem.domain.lanes import Segment
from jetmem.summarize.rows import EventRow, Rows, lane_key, node_key, segment_key, session_key


def segments_of(rows: Rows, zone: Callable[[str], ZoneInfo], tenant: str, rseqs: Sequence[int]) -> list[str]:
    """Ids of the segments that events are in for themselves, not by overlap.

    Returns:
        In the order asked; "" of an event that is not known here, or whose segment is not recorded yet.
    """
    recorded: dict[str, bool] = {}
    found = []
    for rseq, event in zip(rseqs, rows.events(tenant, rseqs), strict=True):
        segment = _segment(rows, tenant, rseq, event) if event is not None else None
        if segment is None:
            found.append("")
            continue
        node = calendar.segment_node(segment, zone(tenant))
        id_ = str(node)
        if id_ not in recorded:
            recorded[id_] = rows.is_recorded(node_key(tenant, node))
        found.append(id_ if recorded[id_] else "")
    return found


def _segment(rows: Rows, tenant: str, rseq: int, event: EventRow) -> Segment | None:
    """The last that begins before an event, in the lane that has it."""
    session = session_key(tenant, event.agent, event.session)
    place = keys.time(event.said.ts) + keys.u64(rseq)
    for late in (False, True):
        segment = next(rows.lane_back(session, late, before=lane_key(session, late) + place), None)
        if segment is not None and any(item.seq == rseq for item in segment.items[segment.overlap :]):
            return segment
    return None


def holding(rows: Rows, tenant: str, id_: str) -> Iterator[tuple[bytes, Segment]]:
    """Every segment that an event is in, by overlap too, with its key; none if the event is not known here."""
    rseq = rows.number(tenant, id_)
    event = rows.events(tenant, [rseq])[0] if rseq else None
    own = _segment(rows, tenant, rseq, event) if event is not None else None
    if event is None or own is None:
        return
    session = session_key(tenant, event.agent, event.session)
    for segment in rows.lane_on(session, own.late, segment_key(session, own.late, own.anchor)):
        if not any(item.seq == rseq for item in segment.items):
            return
        yield segment_key(session, segment.late, segment.anchor), segment
