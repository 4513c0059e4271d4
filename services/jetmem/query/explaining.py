"""How `route` came to its answer, in one plain line; the details are in `tried`."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Final, Literal

from jetmem.domain.calendar import local
from jetmem.query.intents import Intended, Intent
from jetmem.query.times import Span
from jetmem_schemas.shown import Tried

Strategy = Literal["toc", "hybrid", "vector", "text", "recent", "none"]
Cut = Literal["nodes", "ms", "limit"]
_TAKEN: Final[dict[Intent, str]] = {
    "explore": "a request for an overview",
    "answer": "a question",
    "locate": "a search for something in particular",
    "time-boxed": "a question about a time",
}
_BY: Final[dict[Strategy, str]] = {
    "toc": "answered from the table of contents",
    "hybrid": "answered by words and meaning",
    "vector": "answered by meaning",
    "text": "answered by words",
    "recent": "answered with the most recent events",
    "none": "nothing was found",
}
_CUT: Final[dict[Cut, str]] = {
    "nodes": "cut short, as the budget of nodes was used up",
    "ms": "cut short, as the time was up",
    "limit": "cut short at the limit; there is more",
}
_AWAY: Final = {"toc": "the index did not answer", "recent": "the index did not answer"}
_HALF: Final = {"text": "meaning could not be asked", "vector": "words could not be asked"}
_ONE_DAY: Final = timedelta(days=1)


def explained(
    meant: Intended, strategy: Strategy, tried: list[Tried], zone: tzinfo, *, fell: str, widened: bool, cut: Cut | None
) -> str:
    """One line for people.

    Args:
        meant: What the question was taken for.
        strategy: The one that won.
        tried: All of them, in order.
        zone: Whose clock times are on.
        fell: What the index was answered with instead of what was wanted of it; "" if it did answer so.
        widened: It is of any time, though one was asked for.
        cut: What ended a walk before all was looked at.
    """
    time = "" if meant.span is None else f", “{meant.span.words}” ({time_said(meant.span, zone)})"
    parts = [f"Understood as {_TAKEN[meant.intent]}{time}"]
    parts += ["nothing was found in that time, so this is of any time"] if widened and strategy != "none" else []
    if strategy not in ("toc", "none") and any(each.strategy == "toc" and not each.found for each in tried):
        parts.append("the table of contents has nothing of it")
    parts += [_AWAY.get(fell) or _HALF[fell]] if fell in _AWAY or fell in _HALF else []
    parts.append(_BY[strategy])
    parts += [_CUT[cut]] if cut is not None else []
    return "; ".join(parts) + "."


def time_said(span: Span, zone: tzinfo) -> str:
    """A time as people say it: `2026-01-05 to 2026-01-11`, `2026-01-14`, `2026-01-14 17:00 to 24:00`, `since …`."""
    start = None if span.since is None else local(span.since, zone)
    end = None if span.until is None else local(span.until, zone)
    if start is None or end is None:
        return f"until {_moment(end)}" if end is not None else f"since {_moment(start)}"
    if _midnight(start) and _midnight(end) and end > start:
        last = end - _ONE_DAY
        return f"{start:%Y-%m-%d}" if last.date() == start.date() else f"{start:%Y-%m-%d} to {last:%Y-%m-%d}"
    if end.date() == start.date():
        return f"{_moment(start)} to {end:%H:%M}"
    if _midnight(end) and (end - _ONE_DAY).date() == start.date():
        return f"{_moment(start)} to 24:00"
    return f"{_moment(start)} to {_moment(end)}"


def _midnight(moment: datetime) -> bool:
    return (moment.hour, moment.minute, moment.second) == (0, 0, 0)


def _moment(moment: datetime | None) -> str:
    if moment is None:
        return "ever"
    return f"{moment:%Y-%m-%d}" if _midnight(moment) else f"{moment:%Y-%m-%d %H:%M}"
