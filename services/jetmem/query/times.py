"""Time words of a question: "last week", "yesterday evening", "in March", relative to a now.

Phrases are found by patterns, because a library that looks for dates anywhere finds "we" (Wednesday), "may" and "march
on"; what a phrase means is dateparser's word. English only.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

_MONTH: Final = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_DAY: Final = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_COUNT: Final = r"(?:\d{1,3}|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve|couple\sof|few)"
_UNIT: Final = r"(?:hour|day|week|month|year)s?"
_PART: Final = r"(?:morning|afternoon|evening|night)"
_DATE: Final = (
    rf"(?:\d{{4}}-\d{{2}}-\d{{2}}|(?:the\s)?\d{{1,2}}(?:st|nd|rd|th)?(?:\sof)?\s{_MONTH}\.?(?:,?\s\d{{4}})?"
    rf"|{_MONTH}\.?\s\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s\d{{4}})?|{_MONTH}\.?,?\s\d{{4}})"
)
_PHRASE: Final = re.compile(
    rf"""\b(?:
    (?:(?P<open>since|after|before|until|on|in)\s+)?(?P<date>{_DATE})
    |(?:in|of|during|from)?\s*(?:the\s+)?(?:last|past)\s+(?P<count>{_COUNT})\s+(?P<unit>{_UNIT})
    |(?P<ago>{_COUNT}\s+{_UNIT}\s+ago)
    |(?:(?P<open2>since|before|until)\s+)?(?P<named>
        (?:the\ day\ before\ )?yesterday(?:\ {_PART})?|today|tonight|this\ {_PART}|last\ night
        |(?:this|last)\ (?:week|month|year|weekend|{_DAY}|{_MONTH})(?:\ {_PART})?
        |{_DAY}\ {_PART})
    |on\s+(?P<day>{_DAY}(?:\ {_PART})?)
    |(?P<open3>in|during|since|before|until|of)\s+(?P<month>{_MONTH}|(?:19|20)\d{{2}})
    )\b(?!\s+\d)""",
    re.IGNORECASE | re.VERBOSE,
)
#: Looked at; time words stand near the beginning of what people ask.
_CHARS_MAX: Final = 1_000
#: First and last hour of the parts of a day.
_HOURS: Final = {"morning": (5, 12), "afternoon": (12, 18), "evening": (17, 24), "night": (18, 30), "tonight": (18, 30)}
#: What dateparser does not count.
_VAGUE: Final = {"couple of": "2", "few": "3"}
_ONE_DAY: Final = timedelta(days=1)


class Span(msgspec.Struct, frozen=True):
    """A time in words: `since` and `until` epoch ms, None where it is open; `rest` the question without the words."""

    words: str
    rest: str
    since: int | None
    until: int | None


def span_in(question: str, now: datetime) -> Span | None:
    """The first time that a question names.

    Args:
        question: As asked.
        now: With its zone: days begin at midnight there, weeks on Monday.
    """
    for found in _PHRASE.finditer(question[:_CHARS_MAX]):
        span = _span(found, now)
        if span is not None:
            start, end = found.span()
            rest = f"{question[:start].rstrip()} {question[end:].lstrip()}".strip()
            return Span(found[0].strip(), rest, _ms(span[0]), _ms(span[1]))
    return None


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


def _span(found: re.Match[str], now: datetime) -> tuple[datetime | None, datetime | None] | None:
    try:
        if found["unit"]:
            count = _VAGUE.get(found["count"].lower(), found["count"])
            since = _understood(f"{count} {found['unit']} ago", now)
            return None if since is None else (since[0], now)
        words = found["date"] or found["ago"] or found["named"] or found["day"] or found["month"]
        whole = _whole(words.lower(), now)
    except (OverflowError, ValueError):  # beyond the calendar
        return None
    if whole is None:
        return None
    match (found["open"] or found["open2"] or found["open3"] or "").lower():
        case "since":
            return whole[0], None
        case "after":
            return whole[1], None
        case "before" | "until":
            return None, whole[0]
        case _:
            return whole


def _whole(words: str, now: datetime) -> tuple[datetime, datetime] | None:
    """From the first to the end of a day, week, month or year, or of a part of a day."""
    if words.endswith("weekend"):
        saturday = _day(_monday(now)) + 5 * _ONE_DAY - (7 * _ONE_DAY if words.startswith("last") else timedelta())
        return saturday, saturday + 2 * _ONE_DAY
    known = _understood(words, now) or _understood(words.removeprefix("last ").removeprefix("this "), now)
    if known is None:
        return None
    moment, period = known
    if "hour" in words:
        return moment - timedelta(minutes=30), moment + timedelta(minutes=30)
    day = _day(moment)
    part = _HOURS.get(words.split()[-1])
    if part is not None:
        return day + timedelta(hours=part[0]), day + timedelta(hours=part[1])
    match period:
        case "week":
            return _monday(day), _monday(day) + 7 * _ONE_DAY
        case "month":
            first = day.replace(day=1)
            return first, (first + 32 * _ONE_DAY).replace(day=1)
        case "year":
            first = day.replace(month=1, day=1)
            return first, first.replace(year=first.year + 1)
        case _:
            return day, day + _ONE_DAY


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _monday(day: datetime) -> datetime:
    return day - day.weekday() * _ONE_DAY


def _understood(words: str, now: datetime) -> tuple[datetime, str] | None:
    """A time in the zone of `now`, and its period: day, week, month, year."""
    data: Any = _parser(now.replace(tzinfo=None, microsecond=0)).get_date_data(words)
    return None if data.date_obj is None else (data.date_obj.replace(tzinfo=now.tzinfo), str(data.period))


def load() -> None:
    """Load the library's words, once; the first question with a time need not wait for it, nor those beside it."""
    span_in("yesterday", datetime(2026, 1, 15, tzinfo=UTC))


@lru_cache(maxsize=1)
def _parser(base: datetime) -> Any:
    # here, because it takes 0.2 s, and more than the process of query imports this
    from dateparser.date import DateDataParser

    settings = {"RELATIVE_BASE": base, "PREFER_DATES_FROM": "past", "PREFER_DAY_OF_MONTH": "first"}
    return DateDataParser(languages=["en"], settings=settings)
