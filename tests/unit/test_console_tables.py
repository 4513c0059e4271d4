"""What people see."""

import asyncio
import io
import json
from datetime import UTC

import msgspec
import pytest
from typer import Exit
from typer.main import get_command
from typer.testing import CliRunner

from harness.fake_stages import FakeStages
from harness.planted import TALKS, ask, plant
from jetmem.cli import app
from jetmem.client import Unavailable
from jetmem.console import moments, tables, toc_command, toc_operations
from jetmem.console.moments import FORMS, moment, when, zone_named
from jetmem_schemas import requests
from jetmem_schemas.shown import Budget, StageItem

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
        "2026-01-15 09:30:00 ",
        "times in UTC",
        "bob",
        "[bold]word[/bold]",
        "e1",
        "a/s",
        "degraded: vector",
        "stale",
        "next",
    ):
        assert part in shown


def test_hits_show_what_corrects_them_and_what_they_stand_for():
    hits = [_hit(superseded_by="e9", folded=["e3", "e2"]), _hit(id="e5")]
    shown = _shown(tables.show_hits, requests.SearchReply(mode="text", hits=hits, **REPLY))
    assert shown.count("corrected by e9") == shown.count("corrected by") == 1
    assert shown.count("also: e3, e2") == shown.count("also:") == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--salience", "2"], "rank.salience must be a number, 0 to 1"),
        (["--half-life", "-1"], "rank.age_half_life_days must be"),
    ],
)
def test_ranking_options_of_search_are_checked_before_anyone_is_asked(option, said):
    done = CliRunner().invoke(app, ["search", "acme", "q", *option])
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    "asked", [["browse", "acme", "toc:day:2026-01-15"], ["route", "acme", "what?"], ["topics", "acme"]]
)
def test_questions_of_every_command_are_checked_before_anyone_is_asked(asked):
    done = CliRunner().invoke(app, [*asked, "--limit", "0"])
    assert done.exit_code == 2
    assert "limit must be a whole number" in done.output


def test_a_node_is_shown_by_its_level_and_id():
    hit = _hit(id="toc:day:2026-01-15", type="node", level="day", title="a trip", agent="", session="", kind="note")
    shown = _shown(tables.show_hits, requests.SearchReply(mode="text", hits=[hit], **REPLY))
    assert "day  2026-01-15 09:30:00  toc:day:2026-01-15" in shown
    assert "/" not in shown.splitlines()[0]


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
    [
        (None, None),
        ("5", 5),
        ("1768435200000", 1_768_435_200_000),
        ("2026-01-15", "2026-01-15T00:00:00"),
        ("20260115", "2026-01-15T00:00:00"),
        ("2026-01-15 09:30", "2026-01-15T09:30:00"),
        ("2026-01-15T10:00:00Z", "2026-01-15T10:00:00+00:00"),
    ],
)
def test_times_as_people_give_them(given, taken):
    assert moment(given, "--since") == taken


@pytest.mark.parametrize(
    "option",
    [
        ["--since", "yesterday"],
        ["--until", "2026-02-30"],
        ["--since", "2026"],
        ["--until", "202601"],
        ["--since", "20260230"],
    ],
)
def test_what_is_no_time_is_refused_as_the_help_says_it(option):
    done = CliRunner().invoke(app, ["timeline", "acme", *option])
    assert done.exit_code == 2
    assert f"bad_time: {option[0]} must be a time, like {FORMS}; not '{option[1]}'" in done.stderr


@pytest.mark.parametrize(
    ("zone", "stamp", "shown"),
    [
        ("UTC", "2026-01-15T09:30:00.000Z", "2026-01-15 09:30:00"),
        ("Europe/Amsterdam", "2026-01-15T23:30:00.000Z", "2026-01-16 00:30:00"),
        ("UTC-03:30", "2026-01-15T01:00:00.000Z", "2026-01-14 21:30:00"),
        ("Europe/Amsterdam", "2026-10-25T00:30:00.000Z", "2026-10-25 02:30:00+02:00"),
        ("Europe/Amsterdam", "2026-10-25T01:30:00.000Z", "2026-10-25 02:30:00+01:00"),
        ("Asia/Tokyo", "9999-12-31T23:30:00.000Z", "9999-12-31T23:30:00.000Z"),
        ("Mars/Phobos", "2026-01-15T09:30:00.000Z", "2026-01-15 09:30:00"),
    ],
)
def test_times_are_shown_on_the_clock_of_the_tenant(zone, stamp, shown):
    assert when(stamp, zone_named(zone)) == shown


def test_the_footer_says_whose_clock_it_is():
    reply = {**REPLY, "mode": "text", "hits": [_hit()]}
    there = _shown(tables.show_hits, requests.SearchReply(**reply, timezone="Asia/Tokyo"))
    assert "2026-01-15 18:30:00" in there and "times in Asia/Tokyo" in there
    unknown = _shown(tables.show_hits, requests.SearchReply(**reply, timezone="Mars/Phobos"))
    assert "2026-01-15 09:30:00" in unknown and "times in UTC, as Mars/Phobos is not known here" in unknown


class _Query:
    """A client whose query service is there, or is not."""

    def __init__(self, answers):
        self._answers = answers

    async def status(self, **fields):
        if not self._answers:
            raise Unavailable("nobody answers")
        return requests.StatusReply(
            **REPLY, stages=[], events=0, sessions=0, agents=0, pending_vectors=0, dead_letters=0, purging=0,
            timezone="Europe/Amsterdam",
        )  # fmt: skip


def _settled(monkeypatch, answers, given, *, or_utc):
    monkeypatch.setattr(moments, "call", lambda server, creds, tenant, work: asyncio.run(work(_Query(answers))))
    return moments.settled(given, "acme", "", "", or_utc=or_utc)


def test_a_date_is_the_tenants_before_a_forget_is_confirmed(monkeypatch, capsys):
    assert _settled(monkeypatch, True, "2026-07-01T00:00:00", or_utc=False) == "2026-07-01T00:00:00+02:00"
    assert _settled(monkeypatch, False, "2026-07-01T00:00:00+00:00", or_utc=False) == "2026-07-01T00:00:00+00:00"
    assert _settled(monkeypatch, False, 5, or_utc=False) == 5
    with pytest.raises(Exit):
        _settled(monkeypatch, False, "2026-07-01T00:00:00", or_utc=False)
    assert "add Z for UTC" in capsys.readouterr().err


def test_a_date_is_utc_where_nobody_knows_the_tenants_and_that_is_said(monkeypatch, capsys):
    assert _settled(monkeypatch, False, "2026-07-01T00:00:00", or_utc=True) == "2026-07-01T00:00:00+00:00"
    assert "is taken for UTC, as the tenant's time zone cannot be asked for (unavailable)" in capsys.readouterr().err


def test_a_forget_asks_and_without_a_terminal_refuses():
    result = CliRunner().invoke(app, ["forget", "acme", "--all"])
    assert result.exit_code == 2
    assert "there is no terminal to ask on" in result.stderr


def test_ago_is_before_now():
    assert 0 < moment("1h", "") - moment("2h ago", "") <= 3_600_100


def test_a_stage_that_is_behind_is_not_called_ok():
    stages = [StageItem(id="index-0", stage="index", state="behind", detail="ok")]
    counts = dict.fromkeys(("events", "sessions", "agents", "pending_vectors", "dead_letters", "purging"), 1)
    shown = _shown(tables.show_status, requests.StatusReply(**REPLY, **counts, stages=stages))
    assert "work waits" in shown and "ok" not in shown


class TocClient:
    """The SDK's verbs of the table of contents over fake stages."""

    tenant = "acme"

    def __init__(self):
        self.stages = FakeStages()
        plant(self.stages, "acme", TALKS)

    def asked(self, verb, kind, fields):
        given = {name: value for name, value in fields.items() if value is not None}
        return msgspec.json.decode(json.dumps(ask(self.stages, verb, **given)), type=kind)

    async def toc(self, **fields):
        return await asyncio.to_thread(self.asked, "toc", requests.TocReply, fields)

    async def browse(self, node, **fields):
        return await asyncio.to_thread(self.asked, "browse", requests.BrowseReply, {"node": node, **fields})


def _drawn(capsys, node=None, depth=2, most=50):
    asyncio.run(toc_command._draw(TocClient(), "acme", {"node": node, "version": None}, depth, most))
    return capsys.readouterr().out


def test_the_table_of_contents_is_drawn_as_a_tree(capsys):
    shown = _drawn(capsys)
    assert shown.startswith("acme\n")
    for part in (
        "toc:year:2026",
        "toc:month:2026-02",
        "toc:week:2026-W02",
        "2025-12-30 to 2026-02-10",
        "10 events",
        "ms",
    ):
        assert part in shown
    assert "toc:day" not in shown
    assert "toc:week" not in _drawn(capsys, depth=1)
    shown = _drawn(capsys, node="toc:week:2026-W02")
    assert "toc:segment:2026-01-06" in shown and "grip:2026-01-06" in shown and "2026-01-06 10:00 to 10:02" in shown


def test_a_tree_says_what_it_leaves_out(capsys):
    assert "… 1 more: jetmem browse acme toc:year:2026" in _drawn(capsys, most=1)


def test_an_empty_table_of_contents_says_so(capsys, monkeypatch):
    monkeypatch.setattr(TocClient, "__init__", lambda self: setattr(self, "stages", FakeStages()))
    assert "the table of contents is empty" in _drawn(capsys)


def test_a_route_shows_what_was_found_and_why():
    client = TocClient()
    for question in ("what did we talk about last week?", "why is the build broken?"):
        reply = client.asked("route", requests.RouteReply, {"query": question, "now": "2026-01-12T12:00:00Z"})
        shown = _shown(tables.show_route, reply)
        assert reply.explanation in shown and "strategy" not in shown
        details = _shown(tables.show_route_explained, reply)
        assert f"intent {reply.intent} · strategy {reply.strategy}" in details and reply.tried[0].why in details
        assert all(each.id in shown for each in [*reply.nodes, *reply.hits])
    shown = _shown(tables.show_route, msgspec.structs.replace(reply, hits=[], nodes=[]))
    assert "nothing found" in shown
    assert "--nodes" not in shown
    assert "--nodes gives it more" in _shown(tables.show_route, msgspec.structs.replace(reply, cut="nodes"))


def test_a_nodes_title_stands_apart_from_its_text():
    text = "a trip\nann: the trip was long"
    hit = _hit(id="toc:day:2026-01-15", type="node", level="day", title="a trip", text=text, highlights=[(16, 20)])
    shown = _shown(tables.show_hits, requests.SearchReply(mode="text", hits=[hit], **REPLY)).splitlines()
    assert [line.strip() for line in shown[1:3]] == ["a trip", "ann: the trip was long"]
    _, rest = tables.titled(hit)
    assert [rest.text[start:end] for start, end in rest.highlights] == ["trip"]
    assert tables.titled(_hit())[0] == ""


def test_a_segment_says_whose_it_is_and_one_event_takes_no_time():
    (node,) = (TocClient().asked("toc", requests.TocReply, {"node": "toc:day:2026-01-06"}).node,)
    segment = msgspec.structs.replace(node, level="segment", session="s2", end=node.start)
    assert "  2026-01-06 10:00  3 events  alice/s2  " in tables.node_line(segment, UTC).plain
    assert "alice" not in tables.node_line(node, UTC).plain


def test_sequences_are_called_so_in_the_footer():
    reply = requests.SearchReply(mode="text", hits=[], **REPLY | {"fresh": {"record": 9, "text": 9, "vector": 4}})
    assert "fresh up to sequence 9 (record, text), 4 (vector)" in _shown(tables.show_hits, reply)


def test_a_grip_shows_its_words_and_marks_its_event():
    client = TocClient()
    segment = next(id_ for id_ in client.stages.nodes_held if ":segment:2026-01-06" in id_)
    grip = client.stages.nodes_held[segment][0].grips[1]
    shown = _shown(tables.show_expanded, client.asked("expand", requests.ExpandReply, {"grip": grip.id}))
    assert f"“{grip.excerpt}”  {segment}" in shown
    assert "▶" in shown


def test_expand_takes_an_event_or_a_grip():
    for arguments in ([], ["e1", "--grip", "grip:2026-01-05:x:12"]):
        result = CliRunner().invoke(app, ["expand", "acme", *arguments])
        assert result.exit_code == 2
        assert "one of ID, --grip is needed" in result.output


def test_a_dry_run_is_a_table_of_levels_and_who_has_no_nodes_is_told_so(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    levels = {"year": [1, 0], "day": [23, 2]}
    toc_operations._show_dry("acme", "", {"levels": levels, "paused": False}, people=True)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "acme, by level; nothing was changed:"
    assert [line.split() for line in shown[2:]] == [["year", "1", "0"], ["day", "23", "2"]]
    nothing = {"levels": {"year": [0, 0]}, "paused": False}
    toc_operations._show_dry("acm", "", nothing, people=True)
    assert "acm has nothing in the table of contents; is the name spelt right?" in capsys.readouterr().out
    toc_operations._show_dry("acme", "2027-01-01", nothing, people=True)
    assert "acme has no nodes from 2027-01-01 on" in capsys.readouterr().out


def test_defaults_that_help_names_are_those_of_the_service():
    group = get_command(app)
    checked = 0
    for verb, (kind, _) in requests.VERBS.items():
        command = group.commands[verb]
        command = command.commands[command.default] if hasattr(command, "commands") else command
        held = {field.name: field.default for field in msgspec.structs.fields(kind)}
        held |= msgspec.structs.asdict(Budget()) if verb == "route" else {}
        for option in command.params:
            if option.default is None and isinstance(held.get(option.name), int) and option.name != "after":
                assert option.show_default == str(held[option.name]), (verb, option.name)
                checked += 1
    assert checked > 15
