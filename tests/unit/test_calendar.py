from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmem.domain import calendar
from jetmem.domain.calendar import BadNodeId, day_node, day_of, days_of, parent_of, parse, path
from jetmem.domain.lanes import Item, Segment, segment_ulid

ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
DAYS = st.dates(date(1, 1, 1), date(9999, 12, 31))


def ms(text):
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_a_week_belongs_to_the_month_and_year_of_its_thursday():
    ids = [str(node) for node in path(day_node(date(2026, 1, 15)))]
    assert ids == ["toc:day:2026-01-15", "toc:week:2026-W03", "toc:month:2026-01", "toc:year:2026"]
    # 1 January 2027 is a Friday: its Thursday is in the year before.
    ids = [str(node) for node in path(day_node(date(2027, 1, 1)))]
    assert ids[1:] == ["toc:week:2026-W53", "toc:month:2026-12", "toc:year:2026"]
    # 29 December 2025 is a Monday: its Thursday is in the year after.
    ids = [str(node) for node in path(day_node(date(2025, 12, 29)))]
    assert ids[1:] == ["toc:week:2026-W01", "toc:month:2026-01", "toc:year:2026"]


def test_a_segments_parent_is_its_day():
    node = parse(f"toc:segment:2026-01-15:{ULID}")
    assert (node.level, node.key, str(parent_of(node))) == ("segment", ULID, "toc:day:2026-01-15")


@pytest.mark.parametrize(
    "text",
    [
        "", "toc", "toc:year", "toc:year:26", "toc:year:0000", "toc:year:2026 ", "toc:year:2026\n", "TOC:year:2026",
        "toc:month:2026-13", "toc:month:2026-1", "toc:week:2026-W54", "toc:week:2025-W53", "toc:week:2026-W00",
        "toc:day:2026-02-29", "toc:day:2026-2-9", "toc:segment:2026-01-15",
        f"toc:segment:2026-02-30:{ULID}", "toc:segment:2026-01-15:", "toc:day:２０２６-01-15",
        "toc:decade:2020", f"toc:day:2026-01-15:{ULID}", "x" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_node_id_is_refused(text):
    with pytest.raises(BadNodeId, match="is no node id like") as refusal:
        parse(text)
    assert len(str(refusal.value)) < 200


def test_a_segment_may_have_another_name_than_ours():
    """A service may have recorded it; whoever knows what is there must be able to end it."""
    assert str(parse("toc:segment:2026-01-15:a.b")) == "toc:segment:2026-01-15:a.b"


@given(DAYS)
def test_ids_say_what_they_were_made_of_and_days_nest(day):
    way = path(day_node(day))
    assert [node.level for node in way] == ["day", "week", "month", "year"]
    for node in way:
        assert parse(str(node)) == node
        first, last = days_of(node)
        assert first <= day <= last
    for below, above in zip(way, way[1:], strict=False):
        (first, last), (since, until) = days_of(below), days_of(above)
        assert since <= first <= last <= until


@given(st.dates(date(2, 1, 1), date(9998, 1, 1)))
def test_a_months_days_are_its_weeks_and_a_years_its_months(day):
    _, _, month, year = path(day_node(day))
    for node, number in ((month, 2), (year, 3)):
        first, last = days_of(node)
        assert path(day_node(first))[number] == path(day_node(last))[number] == node
        assert path(day_node(first - timedelta(1)))[number] != node != path(day_node(last + timedelta(1)))[number]


def test_the_zone_decides_the_day():
    late = ms("2026-01-15T23:30:00+00:00")
    assert day_of(late, UTC) == date(2026, 1, 15)
    assert day_of(late, ZoneInfo("Europe/Amsterdam")) == date(2026, 1, 16)
    assert day_of(late, ZoneInfo("America/New_York")) == date(2026, 1, 15)
    # The night of the change has 25 hours, and both half past twos are the same day.
    assert day_of(ms("2026-10-25T22:59:59+00:00"), ZoneInfo("Europe/Amsterdam")) == date(2026, 10, 25)
    assert day_of(-1, UTC) == date(1969, 12, 31)


def test_the_ends_of_the_calendar_have_days():
    west, east = ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")
    assert day_of(-62135596800000, west) == date(1, 1, 1)
    assert day_of(253402300799999, east) == date(9999, 12, 31)
    assert days_of(parse("toc:year:9999"))[1] == date(9999, 12, 31)


def test_a_segment_lies_on_the_day_of_its_own_first_event():
    before, own = Item(ms("2026-01-14T23:58:00+00:00"), 1, "a", 3), Item(ms("2026-01-15T00:01:00+00:00"), 2, "b", 3)
    segment = Segment(segment_ulid(own), [before, own], 1, False, True)
    assert str(calendar.segment_node(segment, UTC)) == f"toc:segment:2026-01-15:{segment.id}"


def test_nodes_are_ordered_by_time_then_from_the_top():
    texts = [
        "toc:year:2026", "toc:month:2026-01", "toc:week:2026-W02", "toc:week:2026-W03", "toc:day:2026-01-15",
        "toc:segment:2026-01-15:01ARZ3NDEKTSV4RRFFQ69G5FAV", "toc:segment:2026-01-15:01ARZ3NDEKTSV4RRFFQ69G5FAW",
        "toc:day:2026-01-16",
    ]  # fmt: skip
    assert [str(node) for node in sorted(parse(text) for text in reversed(texts))] == texts


def test_a_range_is_the_union_of_the_childrens():
    assert calendar.union([(5, 9), (1, 2), (6, 7)]) == (1, 9)
    with pytest.raises(ValueError, match=r"."):
        calendar.union([])
