"""Sessions in memory, the longest unused let go; what is not here comes back from the rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from jetmem.domain import lanes, segments
from jetmem.domain.lanes import Changes, Item, Lane, Rules, Segment
from jetmem.domain.segments import Session
from jetmem.runtime.store import WriteSet
from jetmem.summarize.rows import Rows, SessionRow, encode, segment_key


class Sessions:
    """Feeds events to `domain.segments` and writes what changed. Writer thread only; each session once a batch.

    What it returns are keys of segments with their anchors.
    """

    def __init__(self, rows: Rows, rules: Rules, most: int) -> None:
        self.rules = rules
        self._rows = rows
        self._most = most
        self._held: OrderedDict[bytes, Session] = OrderedDict()

    def clear(self) -> None:
        """Let all go: a write failed, or the store was changed underneath."""
        self._held.clear()

    def add(self, batch: WriteSet, key: bytes, items: Sequence[Item], arrived: int) -> dict[bytes, Item]:
        """Take events of one session in; the segments that changed or are no more."""
        session = self._get(key)
        while True:
            try:
                changes = segments.add(session, items, arrived, self.rules)
                break
            except lanes.Unloaded as missing:
                self._load(key, session, missing.ms)
        written = self._write(batch, key, session, changes)
        segments.prune(session, self.rules)
        return written

    def erase(self, batch: WriteSet, key: bytes, items: Sequence[Item]) -> dict[bytes, Item]:
        """Take events of one session out; the segments that changed or are no more.

        What was loaded for that stays for now: a forget of many comes as many.
        """
        session = self._get(key)
        self._load(key, session, min(items).ts)
        while True:
            try:
                changes = segments.erase(session, frozenset(item.id for item in items), self.rules)
                break
            except lanes.Unloaded as missing:
                self._load(key, session, missing.ms)
        return self._write(batch, key, session, changes)

    def close(self, batch: WriteSet, key: bytes, now: int) -> dict[bytes, Item]:
        """Close what nothing came to for long enough."""
        session = self._get(key)
        return self._write(batch, key, session, segments.close(session, now, self.rules))

    def trim(self) -> None:
        """Let go the longest unused. Between writes."""
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def _write(self, batch: WriteSet, key: bytes, session: Session, changes: Sequence[Changes]) -> dict[bytes, Item]:
        gone = {segment_key(key, each.late, anchor): anchor for each in changes for anchor in each.gone}
        for segment in gone:
            batch.delete("segments", segment)
        changed = {}
        for each in changes:
            for anchor in each.changed:
                segment = segment_key(key, each.late, anchor)
                changed[segment] = anchor
                batch.put("segments", segment, encode(segments.segment(session, anchor, each.late)))
        self._write_session(batch, key, session)
        return gone | changed

    def _write_session(self, batch: WriteSet, key: bytes, session: Session) -> None:
        """Of a session without events nothing stays."""
        if not (session.main.items or session.late.items):
            # what was let go before an erased event is here again, so there is nothing else
            self._held.pop(key, None)
            batch.delete("sessions", key)
            batch.delete("closing", key)
            return
        newest = session.newest or 0
        batch.put("sessions", key, encode(SessionRow(newest, session.main.arrived, session.late.arrived)))
        due = segments.closes_at(session, self.rules)
        if due is None:
            batch.delete("closing", key)
        else:
            batch.put("closing", key, encode(due))

    def _get(self, key: bytes) -> Session:
        session = self._held.get(key)
        if session is None:
            session = self._held[key] = Session()
            row = self._rows.session(key)
            if row is not None:
                session.newest = row.newest
                session.main.arrived, session.late.arrived = row.main, row.late
                self._load(key, session, row.newest - self.rules.lateness_ms - self.rules.gap_ms)
        self._held.move_to_end(key)
        return session

    def _load(self, key: bytes, session: Session, ms: int) -> None:
        """Have each lane from the segment on whose own events begin before this time, if it does not reach so far."""
        for late in (False, True):
            lane = session.lane(late)
            if lane.items and (lane.floor is None or lane.items[lane.starts[0]].ts < ms):
                continue
            fresh = self._lane(key, late, ms, lane.arrived)
            if late:
                session.late = fresh
            else:
                session.main = fresh

    def _lane(self, key: bytes, late: bool, ms: int, arrived: int) -> Lane:
        found: list[Segment] = []
        complete = True
        for row in self._rows.lane_back(key, late):
            found.append(row)
            if row.anchor.ts < ms:
                complete = False
                break
        return lanes.restore(found[::-1], complete=complete, arrived=arrived)
