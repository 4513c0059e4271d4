import msgspec
import pytest

from harness.messages import AT, stored
from jetmem.persist import core
from jetmem.runtime.errors import Poison
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import FUTURE_MS_MAX, decode

SUBJECT = stored("acme", "event", "alice", "s1")


def judge(payload, subject=SUBJECT, seq=7, at=AT):
    return core.judge(subject, payload, seq, at)


def code_of(payload, subject=SUBJECT):
    with pytest.raises((SchemaError, Poison)) as caught:
        judge(payload, subject)
    return caught.value.code


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"no", "bad_json"),
        (b'{"text":"\xff"}', "bad_utf8"),
        (b'{"text":5}', "bad_field"),
        (b"{}", "missing_field"),
        (b'{"text":"a","ts":"x"}', "bad_time"),
        (b'{"text":"a","ts":"0000-01-01T00:00:00Z"}', "bad_time"),
        (b'{"text":"a","ts":"0001-01-01T00:00:00+10:00"}', "bad_time"),
        (b'{"text":"a","ts":%d}' % (AT + FUTURE_MS_MAX + 1), "bad_time"),
        (b'{"text":"a","ts":%d}' % (AT * 1000), "bad_time"),
        (b'{"text":"a","x":' + b"[" * 40 + b"]" * 40 + b"}", "too_deep"),
        (b'{"text":"a","id":"x\\n"}', "bad_field"),
    ],
)
def test_refusals(payload, code):
    assert code_of(payload) == code


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        ("mem.acme.event.alice", "bad_subject"),
        (SUBJECT + ".more", "bad_subject"),
        (SUBJECT.replace("alice", "_"), "bad_subject"),
        (SUBJECT.replace("event", "derived"), "bad_subject"),
        (stored("acme", "derived", "_", "grip"), "bad_subject"),
        (stored("acme", "derived", "_", "_"), "bad_subject"),
        (stored("acme", "derived", "alice", "node"), "bad_subject"),
    ],
)
def test_refused_subjects(subject, code):
    assert code_of(b'{"text":"a"}', subject) == code


def test_48_hours_ahead_is_the_last_moment_allowed():
    assert judge(b'{"text":"a","ts":%d}' % (AT + FUTURE_MS_MAX)).ts == AT + FUTURE_MS_MAX


def test_the_default_id_and_time_are_the_brokers_and_the_same_on_each_reading():
    one, two = judge(b'{"text":"a"}'), judge(b'{"text":"a"}')
    assert one == two and one.ts == AT
    assert judge(b'{"text":"a"}', seq=8).id != one.id
    assert decode("event", b'{"text":"a","id":"%s"}' % one.id.encode()).id == one.id


def test_default_ids_sort_by_time_then_sequence():
    ids = [core.default_id(seq, at) for at in (AT, AT + 1) for seq in (1, 255, 256, 2**40)]
    assert ids == sorted(ids)


def test_decisions():
    candidate = judge(b'{"text":"a","id":"x"}')
    assert core.decide(candidate, None) is core.Verdict.RECORD
    assert core.decide(candidate, core.IdRow(1, candidate.hash)) is core.Verdict.REPEAT
    assert core.decide(candidate, core.IdRow(1, b"other")) is core.Verdict.CONFLICT
    assert core.decide(candidate, core.IdRow(1, b"other", forgotten=True)) is core.Verdict.FORGOTTEN


def test_the_same_words_in_another_session_are_other_content():
    elsewhere = judge(b'{"text":"a"}', stored("acme", "event", "alice", "s2"))
    assert elsewhere.hash != judge(b'{"text":"a"}').hash


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"text":"a","id":"x"}', b'{ "id":"x",\n"text":"\\u0061" }', True),
        (b'{"text":"a"}', b'{"text":"b"}', False),
        (b'{"text":"a","x":1}', b'{"text":"a"}', False),
        (b'{"text":"a","x":1e999}', b'{"x":1e999,"text":"a"}', False),
        (b'{"x":123456789012345678901234567890}', b'{ "x":123456789012345678901234567890}', True),
        (b"not json", b"not json", False),
    ],
)
def test_spelling(one, other, same):
    assert core.same_content(one, other) is same


NODE = stored("acme", "derived", "_", "node")
DAY = {"id": "toc:day:2026-01-15", "level": "day", "version": 7, "start": AT - 5, "end": AT, "title": "Cats"}


def node(**said):
    return msgspec.json.encode({k: v for k, v in (DAY | said).items() if v is not None})


@pytest.mark.parametrize(
    ("said", "code", "field"),
    [
        ({"id": None}, "missing_field", "id"),
        ({"version": None}, "missing_field", "version"),
        ({"version": 0}, "bad_field", "version"),
        ({"version": -1}, "bad_field", "version"),
        ({"id": "e1"}, "bad_field", "id"),
        ({"id": "toc:decade:2020"}, "bad_field", "id"),
        ({"id": "toc:day:2026-01-15:x"}, "bad_field", "id"),
        ({"id": "toc:segment:2026-01-15"}, "bad_field", "id"),
        ({"id": "toc:year:26"}, "bad_field", "id"),
        ({"id": "toc:month:2026-01"}, "bad_field", "level"),
        ({"level": None}, "bad_field", "level"),
        ({"level": "decade"}, "bad_field", "level"),
        ({"bullets": [{"text": "x", "grips": []}]}, "bad_field", "bullets[0].grips"),
        ({"start": "0001-01-01T00:00:00+10:00"}, "bad_time", "start"),
        ({"end": 1e300}, "bad_time", "end"),
        ({"gone": True}, "bad_field", "gone"),
        ({"gone": True, "title": None, "terms": {"cat": 1}}, "bad_field", "gone"),
        ({"sources": [[1, -1]]}, "bad_field", "sources[0][1]"),
    ],
)
def test_refused_nodes(said, code, field):
    with pytest.raises(SchemaError) as caught:
        judge(node(**said), NODE)
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(
    "id_", ["toc:year:2026", "toc:month:2026-01", "toc:week:2026-W03", "toc:day:2026-01-15", "toc:segment:2026-01-15:A"]
)
def test_a_node_is_of_the_time_it_begins(id_):
    found = judge(node(id=id_, level=id_.split(":")[1]), NODE)
    assert (found.kind, found.agent, found.session, found.id, found.ts) == ("derived", "_", "node", id_, AT - 5)
    assert found.node.title == "Cats"


def test_what_ends_a_node_needs_no_more_than_id_and_version():
    found = judge(b'{"id":"toc:day:2026-01-15","version":9,"gone":true}', NODE)
    assert found.node.gone and found.ts == AT


@pytest.mark.parametrize(
    ("said", "around", "verdict"),
    [
        ({}, core.Around(0, None, 0, 70), core.Verdict.RECORD),
        ({"seq": 70}, core.Around(6, None, 7, 70), core.Verdict.RECORD),
        ({}, core.Around(7, node(), 0, 70), core.Verdict.REPEAT),
        ({}, core.Around(8, node(), 9, 70), core.Verdict.REPEAT),
        ({}, core.Around(7, b"other", 0, 70), core.Verdict.STALE),
        ({}, core.Around(8, None, 0, 70), core.Verdict.STALE),
        ({}, core.Around(0, None, 8, 70), core.Verdict.STALE),
        ({}, core.Around(0, None, 0, None), core.Verdict.STALE),
        ({"seq": 71}, core.Around(0, None, 0, 70), core.Verdict.STALE),
    ],
    ids=["new", "newer", "again", "old again", "other words", "older", "before a forget", "not yet", "another log"],
)
def test_decisions_about_nodes(said, around, verdict):
    candidate = judge(node(**said), NODE)
    assert core.decide_node(candidate.node, node(**said), around) is verdict


def test_a_refused_node_is_covered_by_any_forget():
    """It may hold anybody's words, and nobody can tell whose."""
    assert core.covers_dead(forget(b'{"ids":["x"]}'), "mem.acme.derived._.node", "", b"\xff", 60)
    assert core.covers_dead(forget(b'{"agent":"bob"}'), "mem.acme.derived._.node", "", b"{}", 60)


def forget(body):
    return decode("forget", body)


@pytest.mark.parametrize(
    ("body", "covered"),
    [
        (b'{"all":true}', True),
        (b'{"agent":"alice"}', True),
        (b'{"agent":"alice","session":"s1"}', True),
        (b'{"agent":"alice","session":"s2"}', False),
        (b'{"agent":"bob"}', False),
        (b'{"author":"Alice A."}', True),
        (b'{"author":"alice"}', False),
        (b'{"before":101}', True),
        (b'{"before":100}', False),
    ],
)
def test_selectors(body, covered):
    summary = core.Summary("event", "alice", "s1", "Alice A.", "message", "user")
    assert core.selects(forget(body), summary, 100) is covered


@pytest.mark.parametrize(
    ("body", "payload", "covered"),
    [
        (b'{"all":true}', b"\xff", True),
        (b'{"agent":"alice"}', b"\xff", True),
        (b'{"agent":"alice","session":"s1"}', b"", True),
        (b'{"agent":"alice","session":"s2"}', b"", False),
        (b'{"agent":"bob"}', b"", False),
        (b'{"ids":["x"]}', b'{"id":"x"}', True),
        (b'{"ids":["known"]}', b"\xff", True),
        (b'{"ids":["y"]}', b'{"id":"x"}', False),
        (b'{"ids":["y"]}', b'{"id":["y"]}', False),
        (b'{"author":"A"}', b'{"author":"A","text":5}', True),
        (b'{"author":"A"}', b"[1]", False),
        (b'{"author":"A"}', b"[" * 100_000, False),
        (b'{"before":100}', b'{"ts":99}', True),
        (b'{"before":100}', b'{"ts":100}', False),
        (b'{"before":100}', b'{"ts":"1970-01-01T00:00:00Z"}', True),
        (b'{"before":100}', b'{"ts":1e300}', True),
        (b'{"before":100}', b'{"ts":"never"}', True),
        (b'{"before":50}', b"\xff", False),
    ],
)
def test_dead_letters_that_a_forget_covers(body, payload, covered):
    assert core.covers_dead(forget(body), "mem.acme.event.alice.s1", "known", payload, 60) is covered
