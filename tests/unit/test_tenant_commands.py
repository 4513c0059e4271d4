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
