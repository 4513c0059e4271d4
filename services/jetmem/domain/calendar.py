"""Node ids of the table of contents, and who is whose parent.

`toc:year:2026` ⊃ `toc:month:2026-01` ⊃ `toc:week:2026-W03` ⊃ `toc:day:2026-01-15` ⊃ `toc:segment:2026-01-15:<ulid>`

A week is an ISO 8601 week and belongs to the month and the year of its Thursday; so years are ISO years, months are
whole weeks, and the days of a node are days of its parent. The day is the tenant's: who asks gives the zone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from jetmem.domain.lanes import Segment
from jetmem_schemas import toc

Level: TypeAlias = Literal["year", "month", "week", "day", "segment"]
#: From the top down.
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
_DEPTH: Final[dict[Level, int]] = {level: depth for depth, level in enumerate(LEVELS)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)
_THURSDAY: Final = 4


class BadNodeId(ValueError):
    """It names no node that could exist."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:80]!r} is no node id like toc:day:2026-01-15")


class NodeId(msgspec.Struct, frozen=True, order=True):
    """One node, in order: by time, then from the top down, then by segment.

    `first` is a day that stands for it: the day itself, the Monday of a week, the first of a month or year (which
    orders years and months with the weeks whose Thursday they hold); `key` a segment's ULID.
    """

    first: date
    depth: int
    key: str = ""

    @property
    def level(self) -> Level:
        """Year, month, week, day or segment."""
        return LEVELS[self.depth]

    def __str__(self) -> str:
        """The id on the wire."""
        day = self.first
        match self.level:
            case "year":
                return f"toc:year:{day.year:04}"
            case "month":
                return f"toc:month:{day.year:04}-{day.month:02}"
            case "week":
                year, week, _ = day.isocalendar()
                return f"toc:week:{year:04}-W{week:02}"
            case "day":
                return f"toc:day:{day.isoformat()}"
            case _:
                return f"toc:segment:{day.isoformat()}:{self.key}"


def parse(text: str) -> NodeId:
    """Read a node id.

    Raises:
        BadNodeId: It is none; also for a day, week or month that no calendar has.
    """
    place = toc.place_of(text)
    if place is None:
        raise BadNodeId(text)
    level, first, name = place
    return NodeId(first, _DEPTH[level], name)


def day_of(ms: int, zone: tzinfo) -> date:
    """The tenant's day of a time; at the ends of the calendar, where the zone would leave it, the day in UTC.

    Args:
        ms: Epoch ms, in years 1 to 9999.
        zone: The tenant's, `zoneinfo.ZoneInfo`.
    """
    return local(ms, zone).date()


def local(ms: int, zone: tzinfo) -> datetime:
    """The tenant's clock at a time; at the ends of the calendar, where the zone would leave it, UTC. As of `day_of`."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment


def day_node(day: date) -> NodeId:
    """The node of a day."""
    return NodeId(day, _DEPTH["day"])


def segment_node(segment: Segment, zone: tzinfo) -> NodeId:
    """The node of a segment; it lies on the day of its first own event, so an overlap never moves it."""
    return NodeId(day_of(segment.anchor.ts, zone), _DEPTH["segment"], segment.id)


def parent_of(node: NodeId) -> NodeId | None:
    """The node that it is a child of; None for a year."""
    match node.level:
        case "segment":
            return day_node(node.first)
        case "day":
            return NodeId(node.first - node.first.weekday() * _DAY, _DEPTH["week"])
        case "week":
            thursday = node.first + (_THURSDAY - 1) * _DAY
            return NodeId(thursday.replace(day=1), _DEPTH["month"])
        case "month":
            return NodeId(node.first.replace(month=1), _DEPTH["year"])
        case _:
            return None


def path(node: NodeId) -> list[NodeId]:
    """The node and all above it, from the bottom up."""
    way = [node]
    while (above := parent_of(way[-1])) is not None:
        way.append(above)
    return way


def days_of(node: NodeId) -> tuple[date, date]:
    """First and last day that a node may cover; children's days lie within their parent's.

    Cut at the ends of the calendar, which are within a week.
    """
    match node.level:
        case "year":
            return date.fromisocalendar(node.first.year, 1, 1), _week_end(_last_thursday(node.first.replace(month=12)))
        case "month":
            monday = _first_monday(node.first)
            return monday, _week_end(_last_thursday(node.first))
        case "week":
            return node.first, _week_end(node.first + (_THURSDAY - 1) * _DAY)
        case _:
            return node.first, node.first


def _first_monday(first: date) -> date:
    """The Monday of the week whose Thursday is the first of a month's."""
    thursday = first + ((_THURSDAY - first.isoweekday()) % 7) * _DAY
    return thursday - (_THURSDAY - 1) * _DAY


def union(ranges: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The range from the first start to the last end of a node's children; times epoch ms.

    Raises:
        ValueError: There are none: a node without children does not exist.
    """
    starts, ends = zip(*ranges, strict=True)
    return min(starts), max(ends)


def _last_thursday(month: date) -> date:
    """The last Thursday of the month that a day is in."""
    fourth = month.replace(day=28)
    thursday = fourth - ((fourth.isoweekday() - _THURSDAY) % 7) * _DAY
    later = thursday.toordinal() + 7
    if later <= date.max.toordinal() and date.fromordinal(later).month == month.month:
        return date.fromordinal(later)
    return thursday


def _week_end(thursday: date) -> date:
    """The Sunday after a Thursday, or the end of the calendar."""
    return date.fromordinal(min(thursday.toordinal() + 3, date.max.toordinal()))
