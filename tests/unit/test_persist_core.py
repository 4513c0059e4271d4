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
        (SUBJECT.replace("event", "derived"), "unsupported"),
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
