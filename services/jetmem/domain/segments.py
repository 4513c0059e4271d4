"""Cut one session's events into segments, whatever order they come in.

Events are kept in one order, event time and then log number, both of which belong to the event and not to its arrival
to us; the cuts are a function of that order (`lanes`). So building event by event, in batches, in another order or
at once gives the same segments.

Events later than `lateness_ms` behind the newest go into a lane of their own, cut by the same rules, so that the lane
that is alive can let go what lies further back (`prune`) and is never made again for the sake of an import. Whether an
event is too late depends on what its session had seen when it came; nothing else depends on history.

    changes = add(session, items, arrived, rules)
    rows = [segment(session, anchor, c.late) for c in changes for anchor in c.changed]

Everything is plain data: a `Segment` is the row that a store keeps, `restore` makes a lane of rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import msgspec

from jetmem.domain import lanes
from jetmem.domain.lanes import Changes, Item, Lane, Rules, Segment

#: Characters of a tool's result that count; its tail is data, not talk.
TOOL_RESULT_CHARS: Final = 1_000
#: UTF-8 bytes to a token: 4 is the usual rule for English; scripts with more tokens to the character take more bytes.
TOKEN_BYTES: Final = 4


class Session(msgspec.Struct):
    """Both lanes of one (tenant, agent, session), and the latest event time it ever saw (None: no event yet)."""

    newest: int | None = None
    main: Lane = msgspec.field(default_factory=Lane)
    late: Lane = msgspec.field(default_factory=Lane)

    def lane(self, late: bool) -> Lane:
        """One of the two."""
        return self.late if late else self.main


def tokens_of(text: str, kind: str) -> int:
    """Estimate the tokens of an event, ≥ 1, so that events without words fill a segment at last, too."""
    counted = text[:TOOL_RESULT_CHARS] if kind == "tool_result" else text
    size = len(counted) if counted.isascii() else len(counted.encode())
    return max(1, -(-size // TOKEN_BYTES))


def add(session: Session, items: Iterable[Item], arrived: int, rules: Rules) -> list[Changes]:
    """Take events in, in the order of the log; one that it holds already changes nothing.

    Args:
        session: Changed in place.
        items: Of this session; `tokens` from `tokens_of`. Not ones given before and pruned since.
        arrived: Broker time of the latest of them, epoch ms.
        rules: The same from call to call, or the session is built anew.

    Returns:
        Changes of each lane that has any.

    Raises:
        Unloaded: One lies where a pruned or restored lane knows nothing; nothing was changed.
    """
    split: tuple[list[Item], list[Item]] = ([], [])
    newest = session.newest
    for item in items:
        if newest is None or item.ts > newest:
            newest = item.ts
        split[item.ts < newest - rules.lateness_ms].append(item)
    for late, added in enumerate(split):
        if added:
            lanes.check_loaded(session.lane(bool(late)), min(added), rules)
    session.newest = newest
    made = [
        lanes.put(session.lane(bool(late)), added, arrived, rules, bool(late))
        for late, added in enumerate(split)
        if added
    ]
    return [changes for changes in made if changes.changed or changes.gone]


def erase(session: Session, ids: frozenset[str], rules: Rules) -> list[Changes]:
    """Take events out, wherever they are; ids that are not here are passed over.

    Who pruned knows from its rows which segments an event is in, and restores from the one before them on.

    Returns:
        Changes of each lane that has any.

    Raises:
        Unloaded: What came before an erased event is not here; nothing was changed.
    """
    found = [(late, [n for n, i in enumerate(session.lane(late).items) if i.id in ids]) for late in (False, True)]
    for late, places in found:
        lane = session.lane(late)
        if places and places[0] < lane.starts[0]:
            raise lanes.Unloaded(lane.items[places[0]].ts)
        if places:
            lanes.check_loaded(lane, lane.items[places[0]], rules)
    return [lanes.take(session.lane(late), places, rules, late) for late, places in found if places]


def close(session: Session, now: int, rules: Rules) -> list[Changes]:
    """Close the last segments once nothing arrived for `gap_ms`; each is told of once.

    By arrival, not by event time: what is imported from years ago stays open while the import runs. An event that
    comes later opens the segment again if it joins it.

    Args:
        session: Changed in place.
        now: Epoch ms, by the clock that `arrived` comes from.
        rules: As ever.
    """
    changes = []
    for late in (False, True):
        lane = session.lane(late)
        if lane.items and not lane.closed and now >= lane.arrived + rules.gap_ms:
            lane.closed = True
            changes.append(Changes([lane.items[lane.starts[-1]]], [], late))
    return changes


def closes_at(session: Session, rules: Rules) -> int | None:
    """When to call `close` next, epoch ms; None while nothing is open. To be asked after a restart, too."""
    waiting = [lane.arrived for lane in (session.main, session.late) if lane.items and not lane.closed]
    return min(waiting) + rules.gap_ms if waiting else None


def segment(session: Session, anchor: Item, late: bool) -> Segment:
    """The segment whose first own event this is.

    Raises:
        KeyError: There is none, or it is not here.
    """
    lane = session.lane(late)
    place = bisect_left(lane.items, anchor)
    number = bisect_left(lane.starts, place)
    if number >= len(lane.starts) or lane.starts[number] != place or lane.items[place] != anchor:
        raise KeyError(anchor.id)
    return lanes.view(lane, number, late)


def segments(session: Session) -> list[Segment]:
    """All that are here, the late ones behind the others, each lane in order."""
    return [
        lanes.view(session.lane(late), number, late)
        for late in (False, True)
        for number in range(len(session.lane(late).starts))
    ]


def prune(session: Session, rules: Rules) -> None:
    """Let go what nothing that is not too late can reach, and of the late lane all but its last segment.

    Call it after the rows are written. What is let go comes back through `restore`, when `Unloaded` asks for it.
    """
    if session.newest is None:
        return
    floor = session.newest - rules.lateness_ms - rules.gap_ms
    lane = session.main
    if lane.items:  # all may have been erased
        ends = [*lane.starts[1:], len(lane.items)]
        keep = next((n for n, end in enumerate(ends) if lane.items[end - 1].ts >= floor), len(ends) - 1)
        lanes.drop_before(lane, keep, floor)
    last = len(session.late.starts) - 1
    if last > 0:
        lanes.drop_before(session.late, last, session.late.items[session.late.starts[last]].ts)
