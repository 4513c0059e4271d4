"""What people see."""

import io

import pytest
from rich.console import Console

from jetmem.console import tables
from jetmem.console.query_commands import moment
from jetmem_schemas import requests

ITEM = {"agent": "a", "session": "s", "ts": "2026-01-15T09:30:00.000Z", "at": "x", "seq": 1, "kind": "message"}
REPLY = {"fresh": {"text": 5}, "degraded": ["vector"], "stale": True, "took_ms": 1.25}


def _shown(show, *arguments):
    out = io.StringIO()
    show(Console(file=out, width=200), *arguments)
    return out.getvalue()


def _hit(**fields):
    return requests.Hit(
        **{**ITEM, "id": "e1", "score": 0.5, "arms": ["text"], "text": "a [bold]word[/bold] of it", **fields}
    )


def test_hits_show_who_when_what_and_how_it_came_about():
    reply = requests.SearchReply(mode="text", hits=[_hit(author="bob", highlights=[(8, 12)])], cursor="next", **REPLY)
    shown = _shown(tables.show_hits, reply)
    for part in (
        "0.500",
        "2026-01-15 09:30:00Z",
        "bob",
        "[bold]word[/bold]",
        "e1",
        "a/s",
        "degraded: vector",
        "stale",
        "next",
    ):
        assert part in shown


def test_matches_are_marked_where_they_are():
    hit = _hit(text="x" * 200 + "needle" + "y" * 400, highlights=[(200, 206)])
    text = tables.snippet(hit)
    (span,) = text.spans
    assert text.plain[span.start : span.end] == "needle"
    assert text.plain.startswith("…") and text.plain.endswith("…")


def test_stored_text_cannot_steer_the_terminal():
    assert "\x1b" not in tables.snippet(_hit(text="a\x1b[2Jb")).plain


@pytest.mark.parametrize(
    ("given", "taken"),
    [(None, None), ("5", 5), ("2026-01-15", "2026-01-15T00:00:00Z"), ("2026-01-15T10:00:00Z", "2026-01-15T10:00:00Z")],
)
def test_times_as_people_give_them(given, taken):
    assert moment(given) == taken


def test_ago_is_before_now():
    assert 0 < moment("1h") - moment("2h") <= 3_600_100
