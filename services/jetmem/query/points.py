"""One time in words ("3 March in the afternoon", "week 47", "last weekend") as a span on a clock.

What words mean is dateparser's say; which words are a time is said by patterns, because a library that looks for dates
anywhere finds "we" (Wednesday), "may" and "march on". What it does not know (quarters, weeks by number, weekends, parts
of a day, a weekday of a week) is put together from what it does. English only.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

MONTH: Final = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
DAY: Final = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
COUNT: Final = (
    r"(?:\d{1,3}|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:a\s)?couple\sof|(?:a\s)?few)"
)
UNIT: Final = r"(?:minute|hour|day|week|month|year)s?"
YEAR: Final = r"(?:19|20)\d{2}"
#: A day of a month whose month stands elsewhere: "from 3 to 5 March".
BARE: Final = r"(?:the\s)?(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?\b"
_PART: Final = r"(?:early\smorning|morning|afternoon|evening|night)"
_IN_PART: Final = rf"(?:,?\s(?:in\sthe\s|at\s)?{_PART})"
_DATE: Final = (
    rf"(?:(?:{DAY},?\s)?(?:\d{{4}}-\d{{2}}-\d{{2}}|{BARE}(?:\sof)?\s{MONTH}\b\.?(?:,?\s{YEAR}\b)?"
    rf"|(?<!\d\s){MONTH}\.?\s{BARE}(?:,?\s{YEAR}\b)?)|(?<!\d\s){MONTH}\.?,?\s(?:of\s)?{YEAR}\b)"
)
_WEEK: Final = rf"(?:(?:calendar\s)?week\s\d{{1,2}}\b(?:,?\s(?:of\s)?{YEAR}\b|(?!\sof\b))|{YEAR}-w\d{{2}})"
_QUARTER: Final = (
    rf"(?:(?:the\s)?(?:first|second|third|fourth|last|1st|2nd|3rd|4th)\squarter\sof\s(?:{YEAR}|(?:last|this)\syear)"
    rf"|(?:the\s)?(?:first|second|third|fourth|1st|2nd|3rd|4th|this|last|previous)\squarter\b(?!-|\sof\b)(?:\s{YEAR})?"
    rf"|q[1-4](?:[,/]?\s?(?:of\s)?{YEAR})?\b|{YEAR}[-\s/]?q[1-4])"
)
_OF_WEEK: Final = rf"(?:(?:of\s|in\s)?(?:this|last|previous)\sweek|{COUNT}\sweeks?\sago)"
_AGO: Final = rf"{COUNT}\s{UNIT}\sago"
_NAMED: Final = (
    rf"(?:the\sday\sbefore\syesterday|yesterday|today|the\s(?:week|month|year)\sbefore\slast"
    rf"|(?:this|last|previous|current)\s(?:week|month|year)|(?:this|last|previous)\s(?:weekend|{DAY}|{MONTH}\b))"
)
_WHOLE_DAY: Final = (
    rf"(?:{_DATE}|{DAY}\s{_OF_WEEK}|{_OF_WEEK},?\s(?:on\s)?{DAY}|the\sday\sbefore\syesterday|yesterday"
    rf"|(?:this|last)\s{DAY}|{DAY})"
)
#: A time on its own, whatever stands before it.
STRONG: Final = (
    rf"(?:(?:the\s)?{_PART}\s(?:of|on)\s(?:the\s)?{_WHOLE_DAY}|{_WHOLE_DAY}{_IN_PART}"
    rf"|{DAY}\s{_OF_WEEK}|{_OF_WEEK},?\s(?:on\s)?{DAY}|{_DATE}|{_WEEK}|{_QUARTER}|{_AGO}"
    rf"|this\s{_PART}|tonight|last\snight|{_NAMED})"
)
#: A time only behind a word that asks for one: "may", "march" and "sunday" are words, too.
WEAK: Final = rf"(?:{DAY}|{MONTH}|{YEAR})"
#: First and last hour of the parts of a day.
_HOURS: Final = {
    "early morning": (5, 9),
    "morning": (5, 12),
    "afternoon": (12, 18),
    "evening": (17, 24),
    "night": (18, 30),
}
_ORDINAL: Final = {"first": 1, "second": 2, "third": 3, "fourth": 4, "1st": 1, "2nd": 2, "3rd": 3, "4th": 4}
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ONE_DAY: Final = timedelta(days=1)
_WEEK_DAYS: Final = timedelta(days=7)
#: Around a moment "3 hours ago", "5 minutes ago".
_AROUND: Final = {"hour": timedelta(minutes=30), "minute": timedelta(minutes=5)}


class Ends(NamedTuple):
    """From the first moment to the first after it."""

    start: datetime
    end: datetime


def fixed(words: str) -> bool:
    """Whether a time does not depend on another one beside it: it names a year, or is relative to now."""
    return re.search(rf"\b{YEAR}\b|\b(?:ago|yesterday|today|tonight|this|last|previous|current)\b", words) is not None


def ends_of(words: str, now: datetime, *, after: bool = False) -> Ends | None:
    """From the first to the end of a day, week, month, quarter or year, or of a part of a day.

    Args:
        words: Lower case, as `STRONG` or `WEAK` match them.
        now: What they are relative to, with its zone.
        after: Of times that come again ("Friday", "March", "week 3") the next one, not the last one.

    Raises:
        OverflowError, ValueError: It lies beyond the calendar, or no calendar has it.
    """
    words = re.sub(r"\s+", " ", words).replace("previous ", "last ").replace("current ", "this ")
    words, hours = _part_of(words)
    whole = _whole(words, now, after)
    if whole is None or hours is None:
        return whole
    return Ends(whole.start + timedelta(hours=hours[0]), whole.start + timedelta(hours=hours[1]))


def _part_of(words: str) -> tuple[str, tuple[int, int] | None]:
    """A day's words without those of a part of it, and its hours."""
    if words == "tonight":
        return "today", _HOURS["night"]
    if words == "last night":
        return "yesterday", _HOURS["night"]
    before = re.fullmatch(rf"(?:the )?({_PART}) (?:of|on) (?:the )?(.+)", words)
    behind = re.fullmatch(rf"(.+?){_IN_PART}", words)
    if before:
        return before[2], _HOURS[before[1]]
    if behind:
        part = re.search(rf"{_PART}$", words)
        day = behind[1].removesuffix(",")
        return ("today" if day == "this" else day), _HOURS[part[0]] if part else None
    return words, None


def _whole(words: str, now: datetime, after: bool) -> Ends | None:
    for meaning in (_weekend, _quarter, _week_number, _before_last, _weekday_of, _this_one):
        found = meaning(words, now, after)
        if found is not None:
            return found
    words = re.sub(rf"^{DAY},? (?=.*\d)", "", words).removeprefix("the ")
    return relative(words, now, after=after) or relative(words.removeprefix("last "), now, after=after)


def _weekend(words: str, now: datetime, after: bool) -> Ends | None:
    if not words.endswith("weekend"):
        return None
    saturday = _monday(midnight(now)) + 5 * _ONE_DAY - (_WEEK_DAYS if words.startswith("last") else timedelta())
    return Ends(saturday, saturday + 2 * _ONE_DAY)


def _quarter(words: str, now: datetime, after: bool) -> Ends | None:
    found = re.search(r"\bq([1-4])|(\w+) quarter", words)
    if found is None:
        return None
    this = (now.month - 1) // 3
    if words in ("this quarter", "last quarter", "the last quarter"):
        return _quarter_at(now, now.year, this - ("last" in words))
    number = int(found[1] or _ORDINAL.get(found[2], 4)) - 1
    if (year := re.search(YEAR, words)) is not None:
        return _quarter_at(now, int(year[0]), number)
    if words.endswith("year"):
        return _quarter_at(now, now.year - words.endswith("last year"), number)
    return _quarter_at(now, now.year + _turn(number, this, after), number)


def _quarter_at(now: datetime, year: int, number: int) -> Ends:
    """Quarter 0 to 3 of a year; -1 is the last one of the year before."""
    year, number = year + number // 4, number % 4
    start = midnight(now).replace(year=year, month=3 * number + 1, day=1)
    return Ends(start, _next_month(_next_month(_next_month(start))))


def _turn(wanted: int, this: int, after: bool) -> int:
    """Years to the time of this number that is meant, as seen from another of its kind."""
    if after:
        return int(wanted < this)
    return -int(wanted > this)


def _week_number(words: str, now: datetime, after: bool) -> Ends | None:
    found = re.fullmatch(rf"(?:calendar )?week (\d+)(?:.*?({YEAR}))?|({YEAR})-w(\d+)", words)
    if found is None:
        return None
    number = int(found[1] or found[4])
    year, this, _ = now.isocalendar()
    asked = found[2] or found[3]
    first = date.fromisocalendar(int(asked) if asked else year + _turn(number, this, after), number, 1)
    monday = midnight(now).replace(year=first.year, month=first.month, day=first.day)
    return Ends(monday, monday + _WEEK_DAYS)


def _before_last(words: str, now: datetime, after: bool) -> Ends | None:
    unit = re.fullmatch(r"the (week|month|year) before last", words)
    return None if unit is None else relative(f"2 {unit[1]}s ago", now)


def _weekday_of(words: str, now: datetime, after: bool) -> Ends | None:
    """A weekday of a week: "Tuesday last week", "two weeks ago on Friday", "this Monday"."""
    found = re.search(rf"\b{DAY}\b", words)
    if found is None or re.fullmatch(rf"(?:last )?{DAY}", words) or re.search(MONTH + r"\b|-\d", words):
        return None
    weeks = re.search(rf"({COUNT}) weeks? ago", words)
    if weeks is not None:
        week = relative(weeks[0], now)
        monday = week.start if week is not None else None
    else:
        monday = _monday(midnight(now)) - (_WEEK_DAYS if "last week" in words else timedelta())
    if monday is None:
        return None
    day = monday + _DAYS.index(found[0]) * _ONE_DAY
    return Ends(day, day + _ONE_DAY)


def _this_one(words: str, now: datetime, after: bool) -> Ends | None:
    """A month of this year, though it be to come."""
    month = re.fullmatch(rf"this ({MONTH})", words)
    return None if month is None else relative(f"{month[1]} {now.year}", now)


def relative(words: str, now: datetime, *, after: bool = False) -> Ends | None:
    """What dateparser makes of words, from the first to the end of its period.

    Args:
        words: A day, week, month or year, or a count of units ago, or `in` one.
        now: What they are relative to; hours and minutes are counted as they pass, days as clocks show them.
        after: See `ends_of`.
    """
    words = _counted(words)
    around = next((_AROUND[unit] for unit in _AROUND if re.search(rf"\b{unit}s?\b", words)), None)
    at = now.astimezone(UTC) if around else now
    data: Any = _parser(at.replace(tzinfo=None, microsecond=0), after, "first").get_date_data(words)
    if data.date_obj is None:
        return None
    moment = data.date_obj.replace(tzinfo=at.tzinfo)
    if around:
        return Ends((moment - around).astimezone(now.tzinfo), (moment + around).astimezone(now.tzinfo))
    day = midnight(moment)
    match data.period:
        case "week":
            return Ends(_monday(day), _monday(day) + _WEEK_DAYS)
        case "month":
            return Ends(day.replace(day=1), _next_month(day))
        case "year":
            first = day.replace(month=1, day=1)
            return Ends(first, first.replace(year=first.year + 1))
        case _:
            return Ends(day, day + _ONE_DAY)


def moment(words: str, now: datetime) -> datetime | None:
    """So many units ago, or `in` so many, to the second; hours and minutes as they pass, days as clocks show them."""
    words = _counted(words)
    at = now.astimezone(UTC) if re.search(r"\b(?:hour|minute)s?\b", words) else now
    data: Any = _parser(at.replace(tzinfo=None, microsecond=0), False, "current").get_date_data(words)
    return None if data.date_obj is None else data.date_obj.replace(tzinfo=at.tzinfo).astimezone(now.tzinfo)


def weekday_beside(name: str, pivot: Ends, *, after: bool) -> Ends | None:
    """The last weekend, or the last day of a name, that ends before a time; or the first that begins after it."""
    if name != "weekend":
        return relative(name, pivot.end - _ONE_DAY if after else pivot.start, after=after)
    saturday = _monday(midnight(pivot.end if after else pivot.start)) + 5 * _ONE_DAY
    if after:
        saturday += _WEEK_DAYS if saturday < pivot.end else timedelta()
    else:
        saturday -= _WEEK_DAYS if saturday + 2 * _ONE_DAY > pivot.start else timedelta()
    return Ends(saturday, saturday + 2 * _ONE_DAY)


def _counted(words: str) -> str:
    """What dateparser does not count as figures."""
    return re.sub(r"(?:a )?couple of", "2", re.sub(r"(?:a )?few", "3", words))


def midnight(moment: datetime) -> datetime:
    """When its day begins, by the clock."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _monday(day: datetime) -> datetime:
    return day - day.weekday() * _ONE_DAY


def _next_month(day: datetime) -> datetime:
    return (day.replace(day=1) + 32 * _ONE_DAY).replace(day=1)


@lru_cache(maxsize=4)
def _parser(base: datetime, after: bool, day: str) -> Any:
    # here, because it takes 0.2 s, and more than the process of query imports this
    from dateparser.date import DateDataParser

    prefer = "future" if after else "past"
    settings = {"RELATIVE_BASE": base, "PREFER_DATES_FROM": prefer, "PREFER_DAY_OF_MONTH": day}
    return DateDataParser(languages=["en"], settings=settings)
