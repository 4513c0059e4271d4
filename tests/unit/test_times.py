"""Time words of questions."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

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
        ("between Monday and Wednesday", "2026-01-12T00:00", "2026-01-15T00:00"),
        ("between 3 March and 5 April", "2025-03-03T00:00", "2025-04-06T00:00"),
        ("between 3 and 5 March", "2025-03-03T00:00", "2025-03-06T00:00"),
        ("between the 3rd and the 5th of March 2024", "2024-03-03T00:00", "2024-03-06T00:00"),
        ("from March to May", "2025-03-01T00:00", "2025-06-01T00:00"),
        ("from November to February", "2025-11-01T00:00", "2026-03-01T00:00"),
        ("from March 2023 to May 2023", "2023-03-01T00:00", "2023-06-01T00:00"),
        ("between March and May 2023", "2023-03-01T00:00", "2023-06-01T00:00"),
        ("from Monday until yesterday", "2026-01-12T00:00", "2026-01-15T00:00"),
        ("between 2022 and 2024", "2022-01-01T00:00", "2025-01-01T00:00"),
        ("from last Monday to last Wednesday", "2026-01-12T00:00", "2026-01-15T00:00"),
        ("3-5 May", "2025-05-03T00:00", "2025-05-06T00:00"),
        ("May 3 - 5, 2024", "2024-05-03T00:00", "2024-05-06T00:00"),
        ("from March 3 to 5", "2025-03-03T00:00", "2025-03-06T00:00"),
        ("2026-01-03 to 2026-01-05", "2026-01-03T00:00", "2026-01-06T00:00"),
        ("after March and before May", "2025-04-01T00:00", "2025-05-01T00:00"),
        ("from Monday on", "2026-01-12T00:00", ""),
        ("since Tuesday", "2026-01-13T00:00", ""),
        ("until Friday", "", "2026-01-09T00:00"),
        ("after Monday", "2026-01-13T00:00", ""),
        ("before Friday", "", "2026-01-09T00:00"),
        ("from Monday", "2026-01-12T00:00", "2026-01-13T00:00"),
        ("since Tuesday evening", "2026-01-13T17:00", ""),
        ("since last night", "2026-01-14T18:00", ""),
        ("week 47", "2025-11-17T00:00", "2025-11-24T00:00"),
        ("in week 3", "2026-01-12T00:00", "2026-01-19T00:00"),
        ("in week 3 of 2025", "2025-01-13T00:00", "2025-01-20T00:00"),
        ("2025-W47", "2025-11-17T00:00", "2025-11-24T00:00"),
        ("Q1 2026", "2026-01-01T00:00", "2026-04-01T00:00"),
        ("Q4", "2025-10-01T00:00", "2026-01-01T00:00"),
        ("2025 Q2", "2025-04-01T00:00", "2025-07-01T00:00"),
        ("first quarter", "2026-01-01T00:00", "2026-04-01T00:00"),
        ("the first quarter of 2025", "2025-01-01T00:00", "2025-04-01T00:00"),
        ("the second quarter of last year", "2025-04-01T00:00", "2025-07-01T00:00"),
        ("last quarter", "2025-10-01T00:00", "2026-01-01T00:00"),
        ("from Q2 to Q3", "2025-04-01T00:00", "2025-10-01T00:00"),
        ("between Q1 and Q2 2025", "2025-01-01T00:00", "2025-07-01T00:00"),
        ("Tuesday evening", "2026-01-13T17:00", "2026-01-14T00:00"),
        ("on Tuesday in the evening", "2026-01-13T17:00", "2026-01-14T00:00"),
        ("on 3 March in the afternoon", "2025-03-03T12:00", "2025-03-03T18:00"),
        ("on the morning of 3 March", "2025-03-03T05:00", "2025-03-03T12:00"),
        ("on Tuesday, 6 January", "2026-01-06T00:00", "2026-01-07T00:00"),
        ("on Tuesday 6 January at night", "2026-01-06T18:00", "2026-01-07T06:00"),
        ("the day before yesterday in the evening", "2026-01-13T17:00", "2026-01-14T00:00"),
        ("3 days ago", "2026-01-12T00:00", "2026-01-13T00:00"),
        ("two weeks ago", "2025-12-29T00:00", "2026-01-05T00:00"),
        ("a couple of weeks ago", "2025-12-29T00:00", "2026-01-05T00:00"),
        ("this weekend", "2026-01-17T00:00", "2026-01-19T00:00"),
        ("this Monday", "2026-01-12T00:00", "2026-01-13T00:00"),
        ("this Friday", "2026-01-16T00:00", "2026-01-17T00:00"),
        ("this March", "2026-03-01T00:00", "2026-04-01T00:00"),
        ("last March", "2025-03-01T00:00", "2025-04-01T00:00"),
        ("Tuesday last week", "2026-01-06T00:00", "2026-01-07T00:00"),
        ("last week on Friday", "2026-01-09T00:00", "2026-01-10T00:00"),
        ("Friday two weeks ago", "2026-01-02T00:00", "2026-01-03T00:00"),
        ("the week before last", "2025-12-29T00:00", "2026-01-05T00:00"),
        ("two days before yesterday", "2026-01-12T00:00", "2026-01-13T00:00"),
        ("the day after 3 January", "2026-01-04T00:00", "2026-01-05T00:00"),
        ("two weeks before 3 March", "2025-02-17T00:00", "2025-02-24T00:00"),
        ("the week before 3 March", "2025-02-24T00:00", "2025-03-03T00:00"),
        ("in the month after 3 March 2024", "2024-03-04T00:00", "2024-04-04T00:00"),
        ("last weekend before April 10, 2023", "2023-04-08T00:00", "2023-04-10T00:00"),
        ("the weekend after April 8, 2023", "2023-04-15T00:00", "2023-04-17T00:00"),
        ("the last Friday before 6 January", "2026-01-02T00:00", "2026-01-03T00:00"),
        ("the Friday after 6 January", "2026-01-09T00:00", "2026-01-10T00:00"),
        ("since the day before yesterday", "2026-01-13T00:00", ""),
        ("5 minutes ago", "2026-01-15T11:50", "2026-01-15T12:00"),
        ("in the past week", "2026-01-08T12:00", "2026-01-15T12:00"),
        ("over the past month", "2025-12-15T12:00", "2026-01-15T12:00"),
        ("the past hour", "2026-01-15T11:00", "2026-01-15T12:00"),
        ("last Tuesday evening", "2026-01-13T17:00", "2026-01-14T00:00"),
        ("previous month", "2025-12-01T00:00", "2026-01-01T00:00"),
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
        "in 5 minutes we ran 3 tests",
        "he sat down in the sun",
        "a second opinion",
        "the first quarter of the game",
        "the quarter-final, the second quarter-final",
        "it fails in 2000 lines",
        "between you and me",
        "from A to B",
        "from 3 to 5 apples",
        "between 3 and 5",
        "1-2 tests of version 2-3",
        "march 99 and Q5 2026",
        "we march to May's house",
        "a letter from May",
        "every Monday, or on Mondays",
        "week 99, or week 3 of the project",
        "since then, the third time",
        "what is planned next week, in 3 days",
        "",
    ],
)
def test_what_is_no_time_is_none(question: str) -> None:
    assert span_in(question, NOW) is None


def test_days_begin_at_midnight_where_now_is_told() -> None:
    east = timezone(timedelta(hours=9))
    assert told("yesterday", datetime(2026, 1, 15, 3, tzinfo=east)) == ("2026-01-13T15:00", "2026-01-14T15:00")


@pytest.mark.parametrize(
    ("words", "now", "since", "until"),
    [
        # 29 March 2026 has 23 hours in Amsterdam, 25 October 25
        ("today", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("yesterday", "2026-10-26T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("last week", "2026-03-31T12:00", "2026-03-22T23:00", "2026-03-29T22:00"),
        ("last night", "2026-03-29T12:00", "2026-03-28T17:00", "2026-03-29T04:00"),
        ("in October", "2026-11-15T12:00", "2026-09-30T22:00", "2026-10-31T23:00"),
        ("Q1 2026", "2026-11-15T12:00", "2025-12-31T23:00", "2026-03-31T22:00"),
        ("between Friday and Sunday", "2026-03-30T12:00", "2026-03-26T23:00", "2026-03-29T22:00"),
        ("in the last 24 hours", "2026-03-29T12:00", "2026-03-28T10:00", "2026-03-29T10:00"),
        ("in the last 2 days", "2026-03-29T12:00", "2026-03-27T11:00", "2026-03-29T10:00"),
        ("3 hours ago", "2026-03-29T04:00", "2026-03-28T22:30", "2026-03-28T23:30"),
        ("2 hours ago", "2026-10-25T03:00", "2026-10-24T23:30", "2026-10-25T00:30"),
    ],
)
def test_days_are_as_long_as_clocks_make_them_and_hours_as_they_pass(
    words: str, now: str, since: str, until: str
) -> None:
    there = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo("Europe/Amsterdam"))
    assert told(f"what was said {words}?", there) == (since, until)


def test_the_words_are_taken_out_of_the_question() -> None:
    span = span_in("what did Ann say last week about tea?", NOW)
    assert span is not None
    assert (span.words, span.rest) == ("last week", "what did Ann say about tea?")


@pytest.mark.parametrize(
    "words",
    [
        "between 3 March and 5 April", "from March to May", "since Tuesday", "in week 3 of 2025",
        "in the first quarter of 2026",
        "on 3 March in the afternoon", "the day before yesterday in the evening", "on Tuesday of last week",
        "in the last three days",
    ],
)  # fmt: skip
def test_no_time_is_cut_in_half(words: str) -> None:
    span = span_in(f"what did Ann say {words} about tea?", NOW)
    assert span is not None
    assert (span.words, span.rest) == (words, "what did Ann say about tea?")


def test_the_first_time_that_is_one_counts_and_only_near_the_beginning() -> None:
    assert told("on 99 May 2023 or yesterday")[0] == "2026-01-14T00:00"
    assert span_in("x " * 600 + "yesterday", NOW) is None


def test_the_ends_of_the_calendar_are_no_times() -> None:
    for now in (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        for words in ("last year", "this year", "last week", "this week", "900 years ago", "tonight", "last night"):
            span_in(words, now)
