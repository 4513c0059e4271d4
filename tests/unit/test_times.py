"""Time words of questions."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from jetmem.query.times import span_in
from jetmem_schemas.events import rfc3339

#: A Thursday.
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def told(question: str, now: datetime = NOW) -> tuple[str, str]:
    span = span_in(question, now)
    if span is None:
        return "", ""
    since, until = (rfc3339(ms).removesuffix(":00.000Z") if ms is not None else "" for ms in (span.since, span.until))
    return since, until


@pytest.mark.parametrize(
    ("words", "since", "until"),
    [
        ("last week", "2026-01-05T00:00", "2026-01-12T00:00"),
        ("this week", "2026-01-12T00:00", "2026-01-19T00:00"),
        ("last weekend", "2026-01-10T00:00", "2026-01-12T00:00"),
        ("last month", "2025-12-01T00:00", "2026-01-01T00:00"),
        ("last year", "2025-01-01T00:00", "2026-01-01T00:00"),
        ("today", "2026-01-15T00:00", "2026-01-16T00:00"),
        ("yesterday", "2026-01-14T00:00", "2026-01-15T00:00"),
        ("yesterday evening", "2026-01-14T17:00", "2026-01-15T00:00"),
        ("last night", "2026-01-14T18:00", "2026-01-15T06:00"),
        ("this morning", "2026-01-15T05:00", "2026-01-15T12:00"),
        ("the day before yesterday", "2026-01-13T00:00", "2026-01-14T00:00"),
        ("on Monday", "2026-01-12T00:00", "2026-01-13T00:00"),
        ("on Friday afternoon", "2026-01-09T12:00", "2026-01-09T18:00"),
        ("last Friday", "2026-01-09T00:00", "2026-01-10T00:00"),
        ("in March", "2025-03-01T00:00", "2025-04-01T00:00"),
        ("last December", "2025-12-01T00:00", "2026-01-01T00:00"),
        ("in March 2023", "2023-03-01T00:00", "2023-04-01T00:00"),
        ("May 2023", "2023-05-01T00:00", "2023-06-01T00:00"),
        ("in 2023", "2023-01-01T00:00", "2024-01-01T00:00"),
        ("on 8 May 2023", "2023-05-08T00:00", "2023-05-09T00:00"),
        ("on May 8, 2023", "2023-05-08T00:00", "2023-05-09T00:00"),
        ("on the 5th of June", "2025-06-05T00:00", "2025-06-06T00:00"),
        ("2026-01-03", "2026-01-03T00:00", "2026-01-04T00:00"),
        ("two days ago", "2026-01-13T00:00", "2026-01-14T00:00"),
        ("a week ago", "2026-01-05T00:00", "2026-01-12T00:00"),
        ("in the last three days", "2026-01-12T12:00", "2026-01-15T12:00"),
        ("the past 24 hours", "2026-01-14T12:00", "2026-01-15T12:00"),
        ("in the last few weeks", "2025-12-25T12:00", "2026-01-15T12:00"),
        ("since March", "2025-03-01T00:00", ""),
        ("after 3 January", "2026-01-04T00:00", ""),
        ("before May 8, 2023", "", "2023-05-08T00:00"),
        ("until yesterday", "", "2026-01-14T00:00"),
    ],
)
def test_time_words_are_times_before_now(words: str, since: str, until: str) -> None:
    assert told(f"what did Ann say {words}?") == (since, until)
    assert told(words.upper()) == (since, until)


@pytest.mark.parametrize(
    "question",
    [
        "when did May buy a car",
        "how many times may I march on",
        "what did we sun ourselves with",
        "the second book of five",
        "the last 5 books",
        "since when is the build broken",
        "in 5 minutes",
        "on 99 May 2023",
        "it was 13:45",
        "",
    ],
)
def test_what_is_no_time_is_none(question: str) -> None:
    assert span_in(question, NOW) is None


def test_days_begin_at_midnight_where_now_is_told() -> None:
    east = timezone(timedelta(hours=9))
    assert told("yesterday", datetime(2026, 1, 15, 3, tzinfo=east)) == ("2026-01-13T15:00", "2026-01-14T15:00")


def test_the_words_are_taken_out_of_the_question() -> None:
    span = span_in("what did Ann say last week about tea?", NOW)
    assert span is not None
    assert (span.words, span.rest) == ("last week", "what did Ann say about tea?")


def test_the_first_time_that_is_one_counts_and_only_near_the_beginning() -> None:
    assert told("on 99 May 2023 or yesterday")[0] == "2026-01-14T00:00"
    assert span_in("x " * 600 + "yesterday", NOW) is None


def test_the_ends_of_the_calendar_are_no_times() -> None:
    for now in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        for words in ("last year", "this year", "last week", "this week", "900 years ago", "tonight", "last night"):
            span_in(words, now)
