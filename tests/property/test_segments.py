"""Segments do not depend on how events arrive: against a segmenter that sees all of them at once."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from jetmem.domain import lanes, segments
from jetmem.domain.lanes import Item, Rules, Segment, segment_ulid
from jetmem.domain.segments import Session

#: Small, so that a few events make gaps, cuts by tokens, overlaps and late events.
RULES = Rules(gap_ms=30, tokens_max=40, overlap_ms=10, overlap_tokens_max=12, lateness_ms=400)
EARLY = Rules(gap_ms=30, tokens_max=40, overlap_ms=10, overlap_tokens_max=12, lateness_ms=10**9)

SIZES = st.integers(1, 14) | st.sampled_from([1, 39, 40, 41, 90])
STEPS = st.integers(0, 12) | st.sampled_from([29, 30, 31, 500])


@st.composite
def histories(draw, largest=40):
    """Events in order of time; numbers in any order, as they would have arrived."""
    steps = draw(st.lists(st.tuples(STEPS, SIZES), min_size=1, max_size=largest))
    order = draw(st.permutations(range(len(steps))))
    at, items = 0, []
    for (step, size), seq in zip(steps, order, strict=True):
        at += step
        items.append(Item(at, seq, f"e{seq}", size))
    return sorted(items)


def reference(items, rules):
    """(overlap, own) of each segment: the rules as they are told, over all events at once."""
    made = []
    own, overlap = [], []
    for item in sorted(items):
        if own and item.ts - own[-1].ts >= rules.gap_ms:
            made.append((overlap, own))
            own, overlap = [], []
        elif own and sum(i.tokens for i in overlap + own) + item.tokens > rules.tokens_max:
            made.append((overlap, own))
            overlap = []
            for before in reversed(own):
                room = min(rules.overlap_tokens_max, rules.tokens_max - item.tokens)
                fits = before.tokens + sum(i.tokens for i in overlap) <= room
                if item.ts - before.ts > rules.overlap_ms or not fits:
                    break
                overlap.insert(0, before)
            own = []
        own.append(item)
    return [*made, (overlap, own)] if own else made


def cuts(session, late=False):
    return [(s.items[: s.overlap], s.items[s.overlap :]) for s in segments.segments(session) if s.late == late]


def batches(draw, items):
    while items:
        size = draw(st.integers(1, len(items)))
        yield items[:size]
        items = items[size:]


class Rows:
    """What a stage would keep: a row for each segment that it was told has changed."""

    def __init__(self):
        self.rows = {}

    def follow(self, session, changes):
        for change in changes:
            for anchor in change.gone:
                assert self.rows.pop((change.late, anchor)) is not None
            for anchor in change.changed:
                self.rows[change.late, anchor] = segments.segment(session, anchor, change.late)

    def of(self, late):
        return [row for (is_late, _), row in sorted(self.rows.items()) if is_late == late]


@given(st.data(), histories())
@settings(max_examples=400, deadline=None)
def test_arrival_order_and_batches_do_not_matter(data, items):
    arriving = data.draw(st.permutations(items))
    session, rows = Session(), Rows()
    for number, batch in enumerate(batches(data.draw, arriving)):
        rows.follow(session, segments.add(session, batch, number, EARLY))
        if data.draw(st.booleans()):
            rows.follow(session, segments.close(session, number + EARLY.gap_ms, EARLY))
        if data.draw(st.booleans()):
            assert segments.add(session, batch, number, EARLY) == []
    assert cuts(session) == reference(items, EARLY)
    assert rows.of(False) == segments.segments(session)


@given(st.data(), histories())
@settings(max_examples=400, deadline=None)
def test_erasing_is_as_if_it_had_never_been(data, items):
    session, rows = Session(), Rows()
    rows.follow(session, segments.add(session, items, 0, EARLY))
    left = list(items)
    while left and data.draw(st.booleans()):
        erased = frozenset(i.id for i in data.draw(st.lists(st.sampled_from(left), min_size=1, max_size=5)))
        rows.follow(session, segments.erase(session, erased | {"unknown"}, EARLY))
        left = [i for i in left if i.id not in erased]
        assert cuts(session) == reference(left, EARLY)
        assert rows.of(False) == segments.segments(session)


@given(histories())
@settings(max_examples=200, deadline=None)
def test_every_event_is_in_a_segment_and_they_are_in_order(items):
    session = Session()
    segments.add(session, items, 0, EARLY)
    made = segments.segments(session)
    assert [i for s in made for i in s.items[s.overlap :]] == items
    assert len({s.id for s in made}) == len(made)
    assert all(s.items == sorted(s.items) for s in made)
    for before, after in zip(made, made[1:], strict=False):
        assert before.start <= after.start and before.end <= after.end
        assert set(after.items[: after.overlap]) <= set(before.items[before.overlap :])
        assert sum(i.tokens for i in after.items[: after.overlap]) <= EARLY.overlap_tokens_max
    for s in made:
        assert sum(i.tokens for i in s.items) <= EARLY.tokens_max or len(s.items) == 1
        assert all(b.ts - a.ts < EARLY.gap_ms for a, b in zip(s.items, s.items[1:], strict=False))
        assert s.id == segment_ulid(s.anchor)


@given(st.data(), histories(60))
@settings(max_examples=300, deadline=None)
def test_late_events_pruning_and_restarts_lose_nothing(data, items):
    """Each is in the lane that the rule says; what is let go or restarted in between goes on as if it had not."""
    session, rows, newest = Session(), Rows(), None
    lane = {False: [], True: []}
    for number, batch in enumerate(batches(data.draw, data.draw(st.permutations(items)))):
        for item in batch:
            newest = item.ts if newest is None else max(newest, item.ts)
            lane[item.ts < newest - RULES.lateness_ms].append(item)
        try:
            changes = segments.add(session, batch, number, RULES)
        except lanes.Unloaded:
            session.main = lanes.restore(rows.of(False), complete=True, arrived=session.main.arrived)
            session.late = lanes.restore(rows.of(True), complete=True, arrived=session.late.arrived)
            changes = segments.add(session, batch, number, RULES)
        rows.follow(session, changes)
        if data.draw(st.booleans()):
            segments.prune(session, RULES)
        if data.draw(st.booleans()):
            session = msgspec.msgpack.decode(msgspec.msgpack.encode(session), type=Session)
    for late in (False, True):
        assert [(s.items[: s.overlap], s.items[s.overlap :]) for s in rows.of(late)] == reference(lane[late], RULES)
        assert all(isinstance(row, Segment) for row in rows.of(late))


@given(st.data(), histories(60))
@settings(max_examples=200, deadline=None)
def test_what_is_not_too_late_never_needs_what_was_pruned(data, items):
    """Only late lanes ask for rows: a live session works from what it keeps."""
    session = Session()
    kept = []
    for item in data.draw(st.permutations(items)):
        newest = item.ts if session.newest is None else max(session.newest, item.ts)
        if item.ts < newest - RULES.lateness_ms:
            continue
        kept.append(item)
        segments.add(session, [item], 0, RULES)
        segments.prune(session, RULES)
    expected = reference(kept, RULES)
    assert expected[-len(cuts(session)) :] == cuts(session)


@given(st.data(), histories(60))
@settings(max_examples=200, deadline=None)
def test_a_lane_restored_in_part_does_right_or_asks_for_more(data, items):
    session, rows = Session(), Rows()
    started = data.draw(st.lists(st.sampled_from(items), unique=True, min_size=1))
    rows.follow(session, segments.add(session, started, 0, EARLY))
    stored = rows.of(False)
    first = data.draw(st.integers(0, len(stored) - 1))
    session.main = lanes.restore(stored[first:], complete=first == 0, arrived=0)
    here = {i.id for i in session.main.items}
    rest = [i for i in items if i not in started]
    added = data.draw(st.lists(st.sampled_from(rest), unique=True, max_size=3)) if rest else []
    erased = frozenset(i.id for i in data.draw(st.lists(st.sampled_from(started), max_size=3)) if i.id in here)
    left = started
    try:
        rows.follow(session, segments.erase(session, erased, EARLY))
        left = [i for i in started if i.id not in erased]
        assert [(s.items[: s.overlap], s.items[s.overlap :]) for s in rows.of(False)] == reference(left, EARLY)
        rows.follow(session, segments.add(session, added, 0, EARLY))
        left += added
    except lanes.Unloaded:
        assert first > 0
    assert [(s.items[: s.overlap], s.items[s.overlap :]) for s in rows.of(False)] == reference(left, EARLY)
