"""Users of the broker: what each role and each stage may, and the files that say so."""

import json
import stat
import sys

import pytest

from harness import toy
from harness.deployment import COMPOSE
from jetmem import flow, rights, users
from jetmem.client.errors import Refused
from jetmem.client.keys import identity, new_seed, public_key
from jetmem.runtime.settings import SettingsError
from jetmem.users import User, Users, configuration
from jetmem_schemas import subjects
from jetmem_schemas.requests import ERASING, VERBS


def may(held, subject):
    """Whether a publish is allowed, as the server decides it."""
    return any(fits(p, subject) for p in held.publish) and not any(fits(p, subject) for p in held.deny)


def fits(pattern, subject):
    theirs, ours = pattern.split("."), subject.split(".")
    if theirs[-1] == ">":
        return len(ours) >= len(theirs) and fits(".".join(theirs[:-1]), ".".join(ours[: len(theirs) - 1]) or "x")
    return len(theirs) == len(ours) and all(a in ("*", b) for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("role", rights.ROLES)
def test_a_role_says_what_is_published_and_asked(role):
    held = rights.of_user(role, "acme")
    said = {kind for kind in subjects.KINDS if may(held, subjects.memory("acme", kind, "alice", "s1"))}
    assert said == {"reader": set(), "writer": {"event", "run", "procedure"}, "owner": set(subjects.AGENT_KINDS)}[role]
    asked = {verb for verb in VERBS if may(held, subjects.query("acme", verb))}
    assert asked == (set(VERBS) if role == "owner" else set(VERBS) - ERASING)
    assert held.subscribe == (subjects.notify("acme", ">"),)
    assert not any(may(held, subjects.memory("other", kind, "alice", "s1")) for kind in subjects.KINDS)
    assert not any(may(held, subjects.query("other", verb)) for verb in VERBS)


def test_an_agent_publishes_as_itself():
    held = rights.of_user("writer", "acme", "alice")
    assert may(held, subjects.memory("acme", "event", "alice", "s1"))
    assert not may(held, subjects.memory("acme", "event", "alice2", "s1"))
    assert not may(held, subjects.memory("acme", "forget", "alice", "s1"))


def test_every_verb_that_erases_is_known():
    assert set(VERBS) > ERASING


def test_a_stage_says_only_what_is_its_own():
    every = {stage.name: rights.of_stage(stage) for stage in flow.STAGES}
    said = {name: {k for k in subjects.KINDS if may(held, subjects.memory("acme", k, "a", "s"))}
            for name, held in every.items()}  # fmt: skip
    assert said == {
        "persist": {"forget"},
        "embed": set(),
        "index": set(),
        "summarize": {"derived"},
        "learn": set(),
        "query": {"forget"},
    }
    purges = {name for name, held in every.items() if may(held, subjects.raw_stream_api("STREAM.PURGE", "MEMORY"))}
    assert purges == {"persist"}
    reads = {name for name, held in every.items() if may(held, subjects.raw_stream_api("CONSUMER.CREATE", "MEMORY"))}
    assert reads == {"persist"}
    moves = {name for name, held in every.items() if may(held, subjects.owners("persist"))}
    assert moves == {name for name, held in every.items() if may(held, subjects.service("persist", 1, "copy"))}
    assert moves == {"persist"} and not any(may(held, subjects.owners("index")) for held in every.values())
    encodes = {name for name, held in every.items() if may(held, subjects.service("embed", "any", "encode"))}
    assert encodes == {"learn", "query"}
    for held in every.values():
        assert not may(held, subjects.query("acme", "forget")) and not may(held, "$JS.API.STREAM.DELETE.MEMORY")
        assert not may(held, subjects.record(1)) or held is every["persist"]
    ends = {name for name, held in every.items() if may(held, subjects.raw_stream_api("STREAM.INFO", "MEMORY"))}
    assert ends == {"persist", "query"}
    assert "$SRV.>" in every["query"].subscribe
    assert not any("$SRV.>" in every[name].subscribe for name in every if name != "query")


def test_answers_go_to_places_for_answers_only():
    for stage in flow.STAGES:
        held = rights.of_stage(stage)
        assert may(held, "_R_.abc") and may(held, "_INBOX.key.1")
        assert not may(held, subjects.tenant_settings("other")) or stage.tenants


def test_users_are_files_and_are_read_back(tmp_path):
    known = Users(tmp_path)
    owner, made = known.add("acme", "owner")
    assert [path.stem for path in made] == [*rights.services(), "acme.owner"]
    alice, made = known.add("acme", "writer", "alice")
    assert [path.stem for path in made] == ["acme.writer.alice"]
    assert known.read()[len(rights.services()) :] == [owner, alice]
    for user in known.read():
        path = known.key_file(user)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert identity(str(path)).inbox == subjects.inbox(user.key)
        assert path.read_text().strip() not in known.file.read_text(), "no secret in the configuration"


def test_a_user_is_added_once_and_revoked(tmp_path):
    known = Users(tmp_path)
    known.add("acme", "owner")
    alice, _ = known.add("acme", "writer", "alice")
    known.add("acme2", "reader")
    before = known.file.read_text()
    with pytest.raises(SettingsError, match=r"acme\.owner already"):
        known.add("acme", "owner")
    assert known.file.read_text() == before
    assert known.revoke("acme", agent="alice") == [alice]
    assert not known.key_file(alice).exists() and alice not in known.read()
    assert [user.name for user in known.revoke("acme")] == ["acme.owner"]
    assert [user.name for user in known.read() if user.tenant] == ["acme2.reader"]
    assert known.revoke("acme") == []


def test_a_stage_that_is_added_gets_a_user_with_the_next_change(tmp_path, monkeypatch):
    known = Users(tmp_path)
    known.add("acme", "owner")
    monkeypatch.setattr(flow, "STAGES", toy.stages("embed", "summarize"))
    assert "tally" not in {user.service for user in known.read()}
    _, made = known.add("acme", "reader")
    assert [path.stem for path in made] == ["tally", "acme.reader"]
    named = {user.service for user in known.read() if user.service}
    assert named == set(rights.services()), "and one that is gone has none"


def test_an_upgrade_refreshes_rights(tmp_path):
    known = Users(tmp_path)
    assert [path.stem for path in known.refresh()] == [*rights.services()]
    known.add("acme", "owner")
    before = known.file.read_text()
    known.file.write_text(before.replace("acme.query.*", "acme.query.search"))
    assert known.refresh() == []
    assert known.file.read_text() == before


@pytest.mark.parametrize("text", ["authorization { token: x }", "", "#user {"])
def test_what_others_wrote_is_left_alone(tmp_path, text):
    known = Users(tmp_path)
    known.file.parent.mkdir()
    known.file.write_text(text)
    with pytest.raises(SettingsError, match="not written by jetmem"):
        known.add("acme", "owner")
    assert known.file.read_text() == text


def test_compose_begins_with_nobody():
    assert (COMPOSE / "nats.d/users.conf").read_text(encoding="utf-8") == configuration([])


def test_names_of_users_never_meet():
    """Also not those of a tenant and a stage: their files lie apart."""
    names = [User("", tenant="a", role="reader", agent="b"), User("", tenant="a", role="reader"), User("", service="a")]
    assert len({user.name for user in names}) == 3
    assert users.KEYS


def test_a_key_file_is_read_or_refused(tmp_path):
    seed, path = new_seed(), tmp_path / "key"
    path.write_text(seed + "\n")
    assert identity(str(path)).options() == {
        "nkeys_seed": str(path), "inbox_prefix": f"_INBOX.{public_key(seed)}"
    }  # fmt: skip
    path.write_text("-----BEGIN NATS USER JWT-----\n…".encode("ascii", "replace").decode())
    assert identity(str(path)).options() == {"user_credentials": str(path)}
    for text in ("", "SUAB", json.dumps({})):
        path.write_text(text)
        with pytest.raises(Refused, match="neither"):
            identity(str(path))
    with pytest.raises(Refused, match="no credentials file"):
        identity(str(tmp_path / "none"))


def test_without_the_package_a_key_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(Refused, match=r"pip install 'jetmem\[nkeys\]'"):
        identity(str(tmp_path / "key"))
