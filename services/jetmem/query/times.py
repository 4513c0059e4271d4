"""Time words of a question: "last week", "from March to May", "since Tuesday", "Q1 2026", relative to a now.

Here is which words are a time, and where it begins and ends; what one time means is `points`'s. English only.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from jetmem.query import points
from jetmem.query.points import BARE, COUNT, DAY, MONTH, STRONG, UNIT, WEAK, YEAR, Ends, ends_of

_ANY: Final = rf"(?:{STRONG}|{WEAK}|{BARE})"
_TO: Final = r"(?:to|and|until|till|through|[-–])"
#: Behind a year these make it a number of things.
_THINGS: Final = r"(?:lines|tests|times|words|tokens|users|people|items|events|messages|steps|rows|files|bytes)"
_PHRASE: Final = re.compile(
    rf"""\b(?:
    (?P<edge>from|between|since)\s+(?P<a>{_ANY})\s+{_TO}\s+(?P<b>{_ANY})
    |after\s+(?P<a_out>{STRONG}|{WEAK})\s+(?:and|but)\s+before\s+(?P<b_out>{STRONG}|{WEAK})
    |(?:on\s+)?(?P<a_dash>{STRONG}|{BARE})\s*(?:to|until|till|through|[-–])\s*(?P<b_dash>{STRONG}|{MONTH}\s{BARE})
    |(?:on\s+)?(?P<a_month>{MONTH}\s\d{{1,2}})\s*(?:to|[-–])\s*(?P<b_month>\d{{1,2}}(?:,?\s{YEAR})?)
    |(?:(?:in|of|during|from|over|within|for)\s+)?(?:the\s+)?
        (?:(?:last|past)\s+(?P<count>{COUNT})\s+(?P<unit>{UNIT})|past\s+(?P<lone>hour|day|week|month|year))
    |(?!the\s+day\s+before\s+yesterday)(?:(?P<open_shift>since|until|till|in|on|during)\s+)?
        (?P<shift>(?:the\s+)?last|the|{COUNT})\s+(?P<shift_unit>(?:day|week|month|year)s?|weekend|{DAY})
        \s+(?P<side>before|after)\s+(?P<pivot>{STRONG}|{DAY})
    |(?:(?P<open>since|after|before|until|till|on|in|during|from|of)\s+)?(?:the\s+)?(?P<strong>{STRONG})
    |from\s+(?P<onward>{WEAK})\s+on(?:wards?)?
    |(?P<open_weak>since|after|before|until|till|in|during|of)\s+(?P<weak>{MONTH}|{YEAR}(?!\s{_THINGS}\b))
    |(?P<open_day>since|after|before|until|till|on|from|of)\s+(?P<day>{DAY})
    )\b(?!\s+\d)""",
    re.IGNORECASE | re.VERBOSE,
)
#: Looked at; time words stand near the beginning of what people ask.
_CHARS_MAX: Final = 1_000
_ONE_DAY: Final = timedelta(days=1)
_Open = tuple[datetime | None, datetime | None]


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


def _span(found: re.Match[str], now: datetime) -> _Open | None:
    got = {name: re.sub(r"\s+", " ", text.lower()) for name, text in found.groupdict().items() if text}
    try:
        for first, last in (("a", "b"), ("a_dash", "b_dash"), ("a_month", "b_month")):
            if first in got:
                return _between(got[first], got[last], now)
        if "a_out" in got:
            ends = _both(got["a_out"], got["b_out"], now)
            return None if ends is None else (ends[0].end, ends[1].start)
        if "unit" in got or "lone" in got:
            since = points.moment(f"{got.get('count', '1')} {got.get('unit') or got['lone']} ago", now)
            return None if since is None else (since, now)
        if "shift" in got:
            return _opened(_shifted(got, now), got.get("open_shift", ""))
        words = next(got[name] for name in ("strong", "onward", "weak", "day") if name in got)
        opened = "since" if "onward" in got else got.get("open") or got.get("open_weak") or got.get("open_day", "")
        return _opened(ends_of(words, now), opened)
    except (OverflowError, ValueError):  # beyond the calendar
        return None


def _opened(ends: Ends | None, word: str) -> _Open | None:
    """What a word before a time makes of it; most say that it is meant whole."""
    if ends is None:
        return None
    match word:
        case "since":
            return ends.start, None
        case "after":
            return ends.end, None
        case "before" | "until" | "till":
            return None, ends.start
        case _:
            return ends


def _shifted(got: dict[str, str], now: datetime) -> Ends | None:
    """What lies before or after a time: "the week before 3 March", "two weeks after it", "the Monday before it"."""
    pivot, unit = ends_of(got["pivot"], now), got["shift_unit"]
    if pivot is None:
        return None
    later = got["side"] == "after"
    if re.fullmatch(rf"weekend|{DAY}", unit):
        return points.weekday_beside(unit, pivot, after=later)
    alone = re.fullmatch(COUNT, got["shift"]) is None
    away = f"{'1' if alone else got['shift']} {unit}"
    words, base = (f"in {away}", pivot.end - _ONE_DAY) if later else (f"{away} ago", pivot.start)
    if not alone or unit == "day":
        return points.relative(words, base)
    far = points.moment(words, pivot.end if later else pivot.start)
    return None if far is None else Ends(pivot.end, far) if later else Ends(far, pivot.start)


def _between(first: str, last: str, now: datetime) -> _Open | None:
    """From the beginning of one time to the end of another, both included."""
    first, last = _completed(first, last)
    if re.fullmatch(BARE, first) or re.fullmatch(BARE, last):
        return None  # "from 3 to 5 apples"
    ends = _both(first, last, now)
    return None if ends is None else (min(ends[0].start, ends[1].start), max(ends[0].end, ends[1].end))


def _both(first: str, last: str, now: datetime) -> tuple[Ends, Ends] | None:
    """Two times, of which one may say which year or week the other is of: the first is the last one before now."""
    if points.fixed(last) and not points.fixed(first):
        end = ends_of(last, now)
        start = None if end is None else ends_of(first, end.end - _ONE_DAY)
    else:
        start = ends_of(first, now)
        end = None if start is None else ends_of(last, _before(start.start, last), after=True)
        if points.fixed(last):
            end = ends_of(last, now)
    return None if start is None or end is None else (start, end)


def _before(start: datetime, words: str) -> datetime:
    """From where on to look for a time that follows: it may be of the same month, or the same day."""
    return (start.replace(day=1) if re.fullmatch(MONTH, words) else start) - _ONE_DAY


def _completed(first: str, last: str) -> tuple[str, str]:
    """A bare day of a month takes the month, and the year, of the other end."""
    number = re.compile(r"\d{1,2}")
    if re.fullmatch(BARE, first) and (month := re.search(rf"\b{MONTH}\b", last)):
        year = re.search(rf"\b{YEAR}\b", last)
        day = number.search(first)
        first = " ".join(filter(None, (day and day[0], month[0], year and year[0])))
    elif re.fullmatch(rf"{BARE}(?:,?\s{YEAR})?", last) and (month := re.search(rf"\b{MONTH}\b", first)):
        day = number.search(last)
        year = re.search(rf"\b{YEAR}\b", last) or re.search(rf"\b{YEAR}\b", first)
        last = " ".join(filter(None, (day and day[0], month[0], year and year[0])))
    return first, last


def load() -> None:
    """Load the library's words, once; the first question with a time need not wait for it, nor those beside it."""
    span_in("yesterday", datetime(2026, 1, 15, tzinfo=UTC))
