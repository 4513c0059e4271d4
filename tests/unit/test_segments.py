import pytest

from jetmem.domain import segments
from jetmem.domain.lanes import Changes, Item, Rules, Unloaded, restore, segment_ulid
from jetmem.domain.segments import Session, tokens_of

RULES = Rules()
MINUTE = 60_000


def item(minute, seq=None, tokens=10):
    seq = minute if seq is None else seq
    return Item(int(minute * MINUTE), int(seq), f"e{seq}", tokens)


def built(*items):
    session = Session()
    segments.add(session, items, 0, RULES)
    return session


def ids(session):
    return [([i.id for i in s.items], s.overlap) for s in segments.segments(session)]


def test_a_lone_event_is_a_segment_and_open_at_once():
    (made,) = segments.segments(built(item(0)))
    assert (made.open, made.overlap, made.start, made.end) == (True, 0, 0, 0)


def test_half_an_hour_of_silence_ends_a_segment_without_overlap():
    assert ids(built(item(0), item(29), item(59))) == [(["e0", "e29"], 0), (["e59"], 0)]


def test_4000_tokens_end_a_segment_and_the_next_overlaps_by_5_minutes():
    session = built(*(item(minute, tokens=400) for minute in range(10)), item(10, tokens=10), item(11))
    assert ids(session) == [([f"e{n}" for n in range(10)], 0), (["e9", "e10", "e11"], 1)]
    session = built(*(item(minute, tokens=100) for minute in range(41)))
    assert ids(session)[1] == (["e35", "e36", "e37", "e38", "e39", "e40"], 5)


def test_an_overlap_has_at_most_500_tokens():
    session = built(*(item(n / 60, n, tokens=200) for n in range(21)))
    assert ids(session)[1] == (["e18", "e19", "e20"], 2)


def test_an_event_larger_than_a_segment_is_one():
    assert [len(s.items) for s in segments.segments(built(item(0, tokens=9_000), item(1), item(2)))] == [1, 2]


def test_an_event_between_two_segments_joins_them():
    session = built(item(0), item(40))
    (changes,) = segments.add(session, [item(20)], 0, RULES)
    assert changes == Changes([item(0)], [item(40)], False)
    assert ids(session) == [(["e0", "e20", "e40"], 0)]


def test_an_event_before_the_first_moves_the_anchor():
    session = built(item(5))
    assert segments.add(session, [item(1)], 0, RULES) == [Changes([item(1)], [item(5)], False)]


def test_a_segments_id_stays_while_it_grows():
    session = built(item(0))
    before = segments.segments(session)[0].id
    segments.add(session, [item(1)], 0, RULES)
    assert [s.id for s in segments.segments(session)] == [before] == [segment_ulid(item(0))]
    assert segment_ulid(item(0)) != segment_ulid(Item(0, 0, "other", 10))
    assert segment_ulid(item(1)) > segment_ulid(item(0))
    assert len(segment_ulid(Item(-5, 0, "x", 1))) == 26


def test_a_superseded_segment_is_told_of_because_it_is_no_longer_open():
    session = built(item(0))
    (changes,) = segments.add(session, [item(60)], 0, RULES)
    assert changes.changed == [item(0), item(60)]
    assert [s.open for s in segments.segments(session)] == [False, True]


def test_quiet_is_by_arrival_and_told_of_once():
    session = Session()
    segments.add(session, [item(0)], 1_000_000, RULES)
    assert segments.closes_at(session, RULES) == 1_000_000 + 30 * MINUTE
    assert segments.close(session, 1_000_000 + 30 * MINUTE - 1, RULES) == []
    assert segments.close(session, 1_000_000 + 30 * MINUTE, RULES) == [Changes([item(0)], [], False)]
    assert segments.close(session, 10**12, RULES) == []
    assert segments.closes_at(session, RULES) is None
    assert not segments.segment(session, item(0), False).open


def test_an_event_that_joins_a_closed_segment_opens_it_and_one_elsewhere_does_not():
    session = built(item(0), item(100))
    segments.close(session, 10**12, RULES)
    (changes,) = segments.add(session, [item(1)], 10**12, RULES)
    assert changes.changed == [item(0)]
    assert [s.open for s in segments.segments(session)] == [False, False]
    segments.add(session, [item(101)], 10**12, RULES)
    assert [s.open for s in segments.segments(session)] == [False, True]


def test_the_same_again_changes_nothing():
    session = built(item(0), item(50))
    assert segments.add(session, [item(50), item(0), item(50)], 0, RULES) == []
    assert ids(session) == [(["e0"], 0), (["e50"], 0)]


def test_too_late_events_form_segments_of_their_own():
    new = item(8 * 24 * 60)
    session = built(new)
    on_time = item(2 * 24 * 60)
    changes = segments.add(session, [item(1), item(2), on_time], 5, RULES)
    assert changes == [Changes([on_time], [], False), Changes([item(1)], [], True)]
    assert [(s.late, len(s.items)) for s in segments.segments(session)] == [(False, 1), (False, 1), (True, 2)]


def test_erasing_remakes_and_may_leave_nothing():
    session = built(item(0), item(20), item(40))
    assert segments.erase(session, frozenset({"e20"}), RULES) == [Changes([item(0), item(40)], [], False)]
    assert segments.erase(session, frozenset({"e0"}), RULES) == [Changes([], [item(0)], False)]
    assert segments.erase(session, frozenset({"e40", "unknown"}), RULES) == [Changes([], [item(40)], False)]
    assert segments.segments(session) == []
    assert segments.erase(session, frozenset({"e40"}), RULES) == []
    assert segments.add(session, [item(3)], 0, RULES) == [Changes([item(3)], [], False)]


def test_pruned_segments_come_back_from_their_rows():
    session = built(item(0), item(10), item(9 * 24 * 60))
    rows = segments.segments(session)
    segments.prune(session, RULES)
    assert [s.anchor for s in segments.segments(session)] == [rows[1].anchor]
    assert segments.erase(session, frozenset({"e10"}), RULES) == []
    session.main = restore(rows, complete=True, arrived=0)
    assert segments.erase(session, frozenset({"e10"}), RULES) == [Changes([item(0)], [], False)]


def test_a_change_before_what_is_loaded_is_refused_and_changes_nothing():
    session = built(item(0), item(40), item(80))
    rows = segments.segments(session)
    session.main = restore(rows[1:], complete=False, arrived=0)
    before = repr(session)
    with pytest.raises(Unloaded):
        segments.add(session, [item(30)], 0, RULES)
    with pytest.raises(Unloaded):
        segments.erase(session, frozenset({"e40"}), RULES)
    assert repr(session) == before
    assert segments.erase(session, frozenset({"e80"}), RULES)


def test_asking_for_a_segment_that_does_not_exist():
    with pytest.raises(KeyError):
        segments.segment(built(item(0), item(1)), item(1), False)
    with pytest.raises(KeyError):
        segments.segment(Session(), item(1), True)


def test_tokens_are_a_quarter_of_the_bytes_and_tool_results_count_to_1000_characters():
    assert tokens_of("", "tool_call") == 1
    assert tokens_of("four", "message") == 1
    assert tokens_of("five!", "message") == 2
    assert tokens_of("漢字", "message") == 2
    assert tokens_of("x" * 100_000, "message") == 25_000
    assert tokens_of("x" * 100_000, "tool_result") == 250


def test_an_event_that_takes_anothers_place_in_an_overlap_changes_the_segment_behind_it():
    """The cut and the number of shared events stay; what is shared does not."""
    rules = Rules(gap_ms=30, tokens_max=40, overlap_ms=10, overlap_tokens_max=12)
    filler, a, b, after = Item(0, 0, "filler", 15), Item(20, 1, "a", 5), Item(22, 2, "b", 5), Item(25, 3, "after", 20)
    session = Session()
    segments.add(session, [filler, a, b, after], 0, rules)
    assert ids(session)[1] == (["a", "b", "after"], 2)
    assert segments.add(session, [Item(21, 4, "x", 6)], 0, rules) == [Changes([filler, after], [], False)]
    assert ids(session)[1] == (["x", "b", "after"], 2)
