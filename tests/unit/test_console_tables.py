"""What people see."""

import io

import pytest
from typer.testing import CliRunner

from jetmem.cli import app
from jetmem.console import tables
from jetmem.console.moments import moment
from jetmem_schemas import requests

ITEM = {"agent": "a", "session": "s", "ts": "2026-01-15T09:30:00.000Z", "at": "x", "seq": 1, "kind": "message"}
REPLY = {"fresh": {"text": 5}, "degraded": ["vector"], "stale": True, "took_ms": 1.25}


def _shown(show, *arguments):
    out = io.StringIO()
    console = tables.console()
    console.file = out
    console.width = 100
    show(console, *arguments)
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


@pytest.mark.parametrize("author", ["[/x]", "[blue]bob", "[", ":smile:"])
def test_no_author_is_taken_for_markup(author):
    reply = requests.SearchReply(mode="text", hits=[_hit(author=author)], **REPLY)
    assert f" {author}  2026" in _shown(tables.show_hits, reply)


def test_an_id_is_never_cut():
    session = "s" * 64
    reply = requests.SearchReply(mode="text", hits=[_hit(id="i" * 64, session=session, author="a" * 40)], **REPLY)
    shown = _shown(tables.show_hits, reply)
    assert "i" * 64 in shown and session in shown


def test_excerpts_begin_and_end_with_whole_words():
    text = "alpha beta gamma " * 20 + "needle " + "delta epsilon zeta " * 40
    place = text.index("needle")
    plain = tables.snippet(_hit(text=text, highlights=[(place, place + 6)])).plain
    assert set(plain.strip("…").split()) <= set(text.split())
    assert plain.startswith("…") and plain.endswith("…") and "needle" in plain


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


def test_a_forget_asks_and_without_a_terminal_refuses():
    result = CliRunner().invoke(app, ["forget", "acme", "--all"])
    assert result.exit_code == 2
    assert "there is no terminal to ask on" in result.stderr


def test_ago_is_before_now():
    assert 0 < moment("1h") - moment("2h") <= 3_600_100


def test_a_stage_that_is_behind_is_not_called_ok():
    stages = [requests.StageItem(id="index-0", stage="index", state="behind", detail="ok")]
    counts = dict.fromkeys(("events", "sessions", "agents", "pending_vectors", "dead_letters", "purging"), 1)
    shown = _shown(tables.show_status, requests.StatusReply(**REPLY, **counts, stages=stages))
    assert "work waits" in shown and "ok" not in shown
