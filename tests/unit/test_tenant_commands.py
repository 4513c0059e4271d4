"""What `jetmem tenant` shows to people."""

import json

import msgspec
import pytest

from jetmem.console import tenant_commands
from jetmem.console.moments import zone_named
from jetmem_schemas.retention import LevelRetention
from jetmem_schemas.tenants import OFFERED

LEVELS = {
    "week": LevelRetention(days=1_826, indexed=2_000),
    "day": LevelRetention(days=365, indexed=7, leaving=3, next_ms=1_700_000_000_000),
    "month": LevelRetention(indexed=1, out=4, returning=4),
}


@pytest.fixture
def index(monkeypatch):
    """Answers a dry run without a broker."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tenant_commands, "in_bucket", lambda *_: OFFERED)
    answers = [{"levels": msgspec.to_builtins(LEVELS)}, (zone_named("Asia/Tokyo"), "")]
    monkeypatch.setattr(tenant_commands, "call", lambda *_: answers.pop(0))


def test_a_dry_run_is_a_table_for_people(index, monkeypatch, capsys):
    monkeypatch.setattr(tenant_commands, "for_people", lambda _: True)
    tenant_commands.set_("acme", ["retention=offered"], dry_run=True)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[1:] == [
        ["week", "1,826", "days", "2,000", "0", "0", "0"],
        ["day", "365", "days", "7", "0", "3", "0", "2023-11-15", "07:13:20"],
        ["month", "ever", "1", "4", "0", "4"],
    ]


def test_and_json_for_programs(index, capsys):
    tenant_commands.set_("acme", ["retention=offered"], dry_run=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["tenant"], told["dry_run"]) == ("acme", True)
    assert told["levels"]["day"] == {
        "days": 365, "indexed": 7, "out": 0, "leaving": 3, "returning": 0, "next": "2023-11-14T22:13:20.000Z"
    }  # fmt: skip
    assert told["levels"]["week"]["next"] is None


def test_a_tenant_is_shown_with_its_defaults_and_how_a_pause_ends(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tenant_commands, "for_people", lambda _: True)
    monkeypatch.setattr(tenant_commands, "call", lambda *_: (zone_named("Asia/Tokyo"), ""))
    monkeypatch.setattr(tenant_commands, "in_bucket", lambda *_: (b"{}", 1))
    tenant_commands.show("acme")
    shown = capsys.readouterr().out
    for part in ("Asia/Tokyo  (default)", "toc_paused  no  (default)", "retention   off  (default)"):
        assert part in shown
    told = b'{"timezone":"Europe/Oslo","toc_paused":true,"retention":{"segment":30,"day":365}}'
    monkeypatch.setattr(tenant_commands, "in_bucket", lambda *_: (told, 2))
    tenant_commands.show("acme")
    shown = capsys.readouterr().out
    for part in ("Europe/Oslo", "yes  (`jetmem toc resume acme` goes on)", "segments 30 days, days 365 days"):
        assert part in shown
    assert "default" not in shown


def test_where_a_tenant_is_by_default_is_not_known_without_a_query_service(monkeypatch, capsys):
    monkeypatch.setattr(tenant_commands, "for_people", lambda _: True)
    monkeypatch.setattr(tenant_commands, "call", lambda *_: (zone_named("UTC"), "nobody answers"))
    monkeypatch.setattr(tenant_commands, "in_bucket", lambda *_: (b"", 0))
    tenant_commands.show("acme")
    assert "that of the installation  (default)" in capsys.readouterr().out


@pytest.mark.parametrize("people", [True, False])
def test_tenants_that_set_nothing_any_more_are_not_listed(monkeypatch, capsys, people):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tenant_commands, "for_people", lambda _: people)
    found = {"_": b'{"toc_paused":true}', "acme": b'{"timezone":"Asia/Tokyo","toc_paused":true}', "was": b"{}"}
    monkeypatch.setattr(tenant_commands, "in_bucket", lambda *_: found)
    tenant_commands.list_()
    shown = capsys.readouterr().out.splitlines()
    if people:
        assert [line.split("  ")[0] for line in shown] == ["tenant", "every tenant", "acme"]
        assert shown[2].endswith("timezone Asia/Tokyo, toc_paused yes")
    else:
        assert [json.loads(line)["tenant"] for line in shown] == ["_", "acme"]


@pytest.mark.parametrize("people", [True, False])
def test_what_others_wrote_for_a_tenant_is_listed_as_it_is(monkeypatch, capsys, people):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tenant_commands, "for_people", lambda _: people)
    found = {"list": b"[1]", "number": b"5", "null": b"null", "bytes": b"\xff", "deep": b"[" * 100_000}
    monkeypatch.setattr(tenant_commands, "in_bucket", lambda *_: found)
    tenant_commands.list_()
    shown = capsys.readouterr().out
    if people:
        assert "unreadable [1]" in shown
    else:
        told = {line["tenant"]: line["settings"] for line in map(json.loads, shown.splitlines())}
        assert told == {name: {"unreadable": value.decode(errors="backslashreplace")} for name, value in found.items()}
