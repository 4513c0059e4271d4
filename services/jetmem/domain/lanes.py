"""One ordered row of events and where its segments begin; what a change to it moves.

The cuts are a function of the events in order alone: from the first event on, a segment takes events until the next
is `gap_ms` away or would not fit `tokens_max`; after a cut by tokens the next one begins with the tail of the last as
its overlap. So a change moves nothing before the segment that owns what comes before it, and nothing after the next
cut that is where it was: only what lies between is cut again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

import msgspec

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID_CHARS: Final = 26
_TAIL_BYTES: Final = 10
_ULID_MS_MAX: Final = (1 << 48) - 1


class Unloaded(Exception):
    """A change touches segments that are not here: restore the lane from rows that begin before `ms`, and again."""

    def __init__(self, ms: int) -> None:
        super().__init__(f"segments before {ms} are not loaded")
        self.ms = ms


class Rules(msgspec.Struct, frozen=True):
    """Where segments end; times in ms. `overlap_tokens_max` < `tokens_max`, so that every segment gets on."""

    gap_ms: int = 30 * 60_000
    tokens_max: int = 4_000
    overlap_ms: int = 5 * 60_000
    overlap_tokens_max: int = 500
    lateness_ms: int = 7 * 24 * 3_600_000


class Item(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """One event, as far as cuts depend on it. `ts` epoch ms, `seq` its number in the log (unique), `tokens` ≥ 1.

    Ordered by time, then number: as the record orders a session.
    """

    ts: int
    seq: int
    id: str
    tokens: int


class Segment(msgspec.Struct, frozen=True):
    """One segment, and the row a store keeps of it: restored rows go on as if they had never left.

    `id` is a ULID of its first own event, so it stays while the segment grows at its end or its overlap changes, and
    sorts by time. The first `overlap` of `items` belong to the segment before, too; the others to this one alone.
    `late`: it is of events that came too late for their neighbours. `open`: the next event may still join it.
    """

    id: str
    items: list[Item]
    overlap: int
    late: bool
    open: bool

    @property
    def anchor(self) -> Item:
        """The first event of its own; the day of its time is the segment's day."""
        return self.items[self.overlap]

    @property
    def start(self) -> int:
        """Time of the first event, the overlap included."""
        return self.items[0].ts

    @property
    def end(self) -> int:
        """Time of the last event."""
        return self.items[-1].ts


class Changes(msgspec.Struct, frozen=True):
    """Anchors (first own events) of the segments to be made again, in order, and of those that no longer exist.

    A segment whose anchor changed is gone under the old one and changed under the new one.
    """

    changed: list[Item]
    gone: list[Item]
    late: bool


class Lane(msgspec.Struct):
    """Events in order, and where segments begin. Change it through the functions of `segments` only.

    `starts` are the places of each segment's first own event, `heads` of its first event with the overlap; `tokens`
    those of the last segment; `arrived` the latest arrival, epoch ms; `closed`: the last segment was closed since;
    `floor`: of events before it some may not be here (None: all are).
    """

    items: list[Item] = []
    starts: list[int] = []
    heads: list[int] = []
    tokens: int = 0
    arrived: int = 0
    closed: bool = False
    floor: int | None = None


def segment_ulid(anchor: Item) -> str:
    """The id of the segment that begins with this event: a ULID, the same for ever. Before 1970 its time is 0."""
    tail = int.from_bytes(blake2b(anchor.id.encode(), digest_size=_TAIL_BYTES).digest())
    value = min(max(anchor.ts, 0), _ULID_MS_MAX) << 8 * _TAIL_BYTES | tail
    return "".join([_CROCKFORD[value >> shift & 31] for shift in range(5 * (_ULID_CHARS - 1), -1, -5)])


def view(lane: Lane, number: int, late: bool) -> Segment:
    """One segment by its number from the first that is here."""
    start, head = lane.starts[number], lane.heads[number]
    last = number + 1 == len(lane.starts)
    items = lane.items[head:] if last else lane.items[head : lane.starts[number + 1]]
    return Segment(segment_ulid(lane.items[start]), items, start - head, late, last and not lane.closed)


def restore(rows: Sequence[Segment], *, complete: bool, arrived: int) -> Lane:
    """Make a lane of stored segments.

    Args:
        rows: Of one lane, contiguous up to its newest, in order.
        complete: They begin with the lane's first. If not, changes at or before the first event raise `Unloaded`.
        arrived: As the lane's `arrived` was.
    """
    lane = Lane(arrived=arrived)
    for row in rows:
        lane.heads.append(len(lane.items) - row.overlap if lane.items else 0)
        if not lane.items:
            lane.items.extend(row.items[: row.overlap])
        lane.starts.append(len(lane.items))
        lane.items.extend(row.items[row.overlap :])
    if rows:
        lane.tokens = sum(item.tokens for item in rows[-1].items)
        lane.closed = not rows[-1].open
        lane.floor = None if complete else rows[0].anchor.ts
    return lane


def drop_before(lane: Lane, keep: int, floor: int) -> None:
    """Let go all segments before number `keep`; `floor`: every event from then on stays."""
    if keep <= 0:
        return
    shift = lane.heads[keep]
    del lane.items[:shift]
    lane.starts = [start - shift for start in lane.starts[keep:]]
    lane.heads = [head - shift for head in lane.heads[keep:]]
    lane.floor = floor if lane.floor is None else max(floor, lane.floor)


def check_loaded(lane: Lane, first: Item, rules: Rules) -> None:
    """Refuse a change at `first` if an event that is not here may come before it, near enough to matter.

    Raises:
        Unloaded: It is refused.
    """
    if lane.floor is None or first.ts - rules.gap_ms >= lane.floor:
        return
    if not lane.starts or first <= lane.items[lane.starts[0]]:
        raise Unloaded(first.ts)


def put(lane: Lane, added: list[Item], arrived: int, rules: Rules, late: bool) -> Changes:
    """Put events in, at least one; `check_loaded` was asked about the least of them. Ones it holds are passed over."""
    lane.arrived = max(lane.arrived, arrived)
    added.sort()
    items = lane.items
    if items and added[0] <= items[-1]:
        added = [item for item in added if not _holds(items, item)]
    fresh = [item for n, item in enumerate(added) if not n or item != added[n - 1]]
    if not fresh:
        return Changes([], [], late)
    place = bisect_left(items, fresh[0])
    was = _Cuts(lane, place)
    if place == len(items):
        items.extend(fresh)
    else:
        items[place:] = sorted(items[place:] + fresh)
    return was.cut_again(bisect_left(items, fresh[-1]), len(fresh), rules, late)


def take(lane: Lane, places: list[int], rules: Rules, late: bool) -> Changes:
    """Take events out by their places, at least one, in order; `check_loaded` was asked about the first."""
    was = _Cuts(lane, places[0])
    gone = set(places)
    lane.items[places[0] :] = [i for n, i in enumerate(lane.items[places[0] :], places[0]) if n not in gone]
    return was.cut_again(places[-1] - len(places), -len(places), rules, late)


def _holds(items: list[Item], item: Item) -> bool:
    place = bisect_left(items, item)
    return place < len(items) and items[place] == item


#: First event, last event, how many, open: of two segments with one anchor, one of which only gained or only lost
#: events, equal if and only if they are the same.
_Look: TypeAlias = tuple[Item, Item, int, bool]


class _Cuts:
    """The cuts of a lane from the first that a change at `place` may move on; taken before the change."""

    def __init__(self, lane: Lane, place: int) -> None:
        self.lane = lane
        #: The segment that owns what comes before the change keeps its first own event. -1: there is none.
        first = bisect_right(lane.starts, place - 1) - 1
        self.keep = max(first, 0)
        self.is_first = first < 0
        self.append_at = place if place == len(lane.items) and first >= 0 else None
        self.starts, self.heads = lane.starts[self.keep :], lane.heads[self.keep :]
        self.known = self._looks(len(lane.starts))

    def cut_again(self, sure: int, shift: int, rules: Rules, late: bool) -> Changes:
        """Cut from there on, until a segment is as it was.

        Args:
            sure: At the places after it are the events of before, moved by `shift` places.
            shift: Events added, or minus those taken out.
            rules: As ever.
            late: For the answer.
        """
        lane = self.lane
        del lane.starts[self.keep :], lane.heads[self.keep :]
        met = self._cut({start + shift: n for n, start in enumerate(self.starts)}, sure, shift, rules)
        fresh = len(lane.starts)
        lane.starts.extend([start + shift for start in self.starts[met:]])
        lane.heads.extend([head + shift for head in self.heads[met:]])
        return self._compare(fresh, late)

    def _cut(self, old: dict[int, int], sure: int, shift: int, rules: Rules) -> int:
        """Cut greedily; the number among the old ones of the segment from which on they are as they were."""
        lane, items = self.lane, self.lane.items
        if not items:
            lane.tokens = 0
            return len(self.starts)
        head, start = (0, 0) if self.is_first else (self.heads[0], self.starts[0])
        first = start + 1 if self.append_at is None else self.append_at
        tokens = _tokens(items, head, first) if self.append_at is None else lane.tokens
        lane.starts.append(start)
        lane.heads.append(head)
        before = items[first - 1].ts
        gap, most = rules.gap_ms, rules.tokens_max
        for place in range(first, len(items)):
            item = items[place]
            silence = item.ts - before
            before = item.ts
            if silence < gap and tokens + item.tokens <= most:
                tokens += item.tokens
                continue
            head = place if silence >= gap else _overlap(items, start, place, rules)
            number = old.get(place)
            if head > sure and number is not None and self.heads[number] + shift == head:
                return number
            start = place
            lane.starts.append(start)
            lane.heads.append(head)
            tokens = _tokens(items, head, place + 1)
        lane.tokens = tokens
        return len(self.starts)

    def _compare(self, fresh: int, late: bool) -> Changes:
        """What differs between the segments that were cut again and those that were."""
        lane = self.lane
        now = self._looks(fresh)
        if fresh == len(lane.starts) and lane.items:
            # An event that joins the last segment opens it; one that joins another has nothing to do with it.
            last = lane.items[lane.starts[-1]]
            if now[last][:3] != self.known.get(last, (None,))[:3]:
                lane.closed = False
                now = self._looks(fresh)
        changed = [anchor for anchor, look in now.items() if self.known.get(anchor) != look]
        rest = {lane.items[start] for start in lane.starts[fresh:]}
        return Changes(changed, [a for a in self.known if a not in now and a not in rest], late)

    def _looks(self, until: int) -> dict[Item, _Look]:
        """Look of each segment by its anchor, from the first that may change."""
        lane, count = self.lane, len(self.lane.starts)
        looks: dict[Item, _Look] = {}
        for number in range(self.keep, until):
            start, head = lane.starts[number], lane.heads[number]
            end = lane.starts[number + 1] if number + 1 < count else len(lane.items)
            is_open = number + 1 == count and not lane.closed
            looks[lane.items[start]] = (lane.items[head], lane.items[end - 1], end - head, is_open)
        return looks


def _tokens(items: list[Item], first: int, end: int) -> int:
    return sum([item.tokens for item in items[first:end]])


def _overlap(items: list[Item], start: int, place: int, rules: Rules) -> int:
    """Where the segment whose first own event is at `place` begins.

    With events of the one before, which began at `start`, that are near enough in time, together small enough, and
    leave room for the event itself.
    """
    since = items[place].ts - rules.overlap_ms
    room = min(rules.overlap_tokens_max, rules.tokens_max - items[place].tokens)
    while place > start and items[place - 1].ts >= since and items[place - 1].tokens <= room:
        place -= 1
        room -= items[place].tokens
    return place
