import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmem_schemas import requests, wording
from jetmem_schemas.errors import DEAD_CODES, SchemaError
from jetmem_schemas.events import (
    DEPTH_MAX,
    PAYLOAD_BYTES_MAX,
    Event,
    Forget,
    Procedure,
    Run,
    check_depth,
    decode,
    decode_json,
    epoch_ms,
    rfc3339,
)


def refused(kind, payload):
    with pytest.raises(SchemaError) as caught:
        decode(kind, payload)
    error = caught.value
    assert error.code in DEAD_CODES
    assert error.message and error.message == error.message.strip().rstrip(".")
    return error


def nested(depth, inside=b"1"):
    return b'{"text":"a","x":' + b"[" * depth + inside + b"]" * depth + b"}"


EVENTS = [
    (b"", "bad_json", ""),
    (b"hello", "bad_json", ""),
    (b'{"text":"hello"', "bad_json", ""),
    (b'{"text":"hello"}{}', "bad_json", ""),
    (b'{"text":"hello"}\x00', "bad_json", ""),
    (b"\xef\xbb\xbf{}", "bad_json", ""),
    (b'{"text":NaN}', "bad_json", ""),
    (b"{'text':'a'}", "bad_json", ""),
    (b'{"text":"\\ud800"}', "bad_json", ""),
    (b'{"text":"\xff"}', "bad_utf8", ""),
    (b'{"text":"a","x":"\xc3"}', "bad_utf8", ""),
    ('{"text":"ä"}'.encode("utf-16"), "bad_utf8", ""),
    (b"null", "bad_field", ""),
    (b"[]", "bad_field", ""),
    (b'"hello"', "bad_field", ""),
    (b'{"text":1}', "bad_field", "text"),
    (b'{"text":null}', "bad_field", "text"),
    (b'{"text":["a"]}', "bad_field", "text"),
    (b"{}", "missing_field", "text"),
    (b'{"text":""}', "missing_field", "text"),
    (b'{"kind":"note"}', "missing_field", "text"),
    (b'{"kind":"tool_result"}', "missing_field", "text"),
    (b'{"text":"a","kind":"Shout Loud"}', "bad_field", "kind"),
    (b'{"text":"a","kind":"message\\n"}', "bad_field", "kind"),
    (b'{"text":"a","role":"god"}', "bad_field", "role"),
    (b'{"text":"a","id":""}', "bad_field", "id"),
    (b'{"text":"a","id":"a b"}', "bad_field", "id"),
    (b'{"text":"a","id":"a\\n"}', "bad_field", "id"),
    (b'{"text":"a","id":"a\\u0000"}', "bad_field", "id"),
    (b'{"text":"a","id":"' + b"a" * 65 + b'"}', "bad_field", "id"),
    (b'{"text":"a","id":7}', "bad_field", "id"),
    (b'{"text":"a","supersedes":"x\\n"}', "bad_field", "supersedes"),
    (b'{"text":"a","importance":1.5}', "bad_field", "importance"),
    (b'{"text":"a","tags":"x"}', "bad_field", "tags"),
    (b'{"text":"a","tags":[1]}', "bad_field", "tags[0]"),
    (b'{"text":"a","meta":{"x":{}}}', "bad_field", "meta[...]"),
    (b'{"text":"a","ts":"yesterday"}', "bad_time", "ts"),
    (b'{"text":"a","ts":"2025-01-01"}', "bad_time", "ts"),
    (b'{"text":"a","ts":"2025-01-01T00:00:00"}', "bad_time", "ts"),
    (b'{"text":"a","ts":"0000-01-01T00:00:00Z"}', "bad_time", "ts"),
    (b'{"text":"a","expires_at":1e300}', "bad_time", "expires_at"),
    (b'{"text":"a","expires_at":1767225600}', "bad_time", "expires_at"),
    (b'{"text":"a","expires_at":"9999-12-31T23:59:59-12:00"}', "bad_time", "expires_at"),
    (nested(DEPTH_MAX), "too_deep", ""),
    (b"[" * 500_000, "too_deep", ""),
    (b'{"a":' * 200_000, "too_deep", ""),
]


@pytest.mark.parametrize(("payload", "code", "field"), EVENTS, ids=[str(p[:40]) for p, _, _ in EVENTS])
def test_an_event_that_does_not_fit(payload, code, field):
    error = refused("event", payload)
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    ("payload", "code", "field"),
    [
        (b"{}", "empty_forget", ""),
        (b'{"reason":"because"}', "empty_forget", ""),
        (b'{"all":false}', "empty_forget", ""),
        (b'{"session":"s1"}', "missing_field", "agent"),
        (b'{"ids":["a"],"all":true}', "bad_field", "all"),
        (b'{"author":"x","session":"s1"}', "bad_field", "session"),
        (b'{"ids":[]}', "bad_field", "ids"),
        (b'{"ids":["a\\n"]}', "bad_field", "ids[0]"),
        (b'{"author":""}', "bad_field", "author"),
        (b'{"before":1e300}', "bad_time", "before"),
        (b'{"before":"0001-01-01T00:00:00+12:00"}', "bad_time", "before"),
        (b'{"before":"soon"}', "bad_time", "before"),
        (b'{"all":"yes"}', "bad_field", "all"),
    ],
)
def test_a_forget_that_erases_nothing(payload, code, field):
    error = refused("forget", payload)
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("run", b'{"success":true}', "missing_field"),
        ("run", b'{"task":"","success":true}', "bad_field"),
        ("run", b'{"task":"x","success":"yes"}', "bad_field"),
        ("run", b'{"task":"x","success":true,"reward":2}', "bad_field"),
        ("procedure", b'{"version":-1}', "bad_field"),
        ("derived", b"{}", "unsupported"),
    ],
)
def test_other_kinds_that_do_not_fit(kind, payload, code):
    assert refused(kind, payload).code == code


@pytest.mark.parametrize(
    "payload",
    [
        b'{"text":"hello"}',
        b'{"text":"a","unknown":{"x":[1,2,{"y":null}]}}',
        b'{"text":"a","unknown":1e999}',
        b'{"kind":"tool_call"}',
        b'{"text":"a","ts":0}',
        b'{"text":"a","ts":-5}',
        b'{"text":"a","ts":"2025-01-01T00:00:00+02:00"}',
        nested(DEPTH_MAX - 1),
        b'{"text":"' + b"[{" * 5000 + b'"}',
        b'{"text":"' + b'\\"[' * 5000 + b'"}',
    ],
)
def test_an_event_that_fits(payload):
    assert decode("event", payload)


def test_the_message_names_the_depth():
    assert str(DEPTH_MAX) in refused("event", nested(DEPTH_MAX)).message


@pytest.mark.parametrize("piece", [b'\\"', b"\\\\", b'"', b"\\", b'"\\', b'a"[', b'""['])
def test_the_depth_of_a_hostile_payload_is_found_in_linear_time(piece):
    """Not measured: a search that is quadratic in these 1 MiB would take hours."""
    try:
        check_depth(b"[" * (DEPTH_MAX - 1) + b'{}"' + piece * (PAYLOAD_BYTES_MAX // len(piece)))
    except SchemaError as error:
        assert error.code == "too_deep"


@given(st.binary(max_size=200))
def test_whatever_is_published_is_decoded_or_refused(payload):
    try:
        decode("event", payload)
    except SchemaError as error:
        assert error.code in DEAD_CODES


@given(st.datetimes(timezones=st.timezones()))
def test_times_are_exact_to_the_millisecond(moment):
    try:
        ms = epoch_ms(moment)
    except SchemaError as error:
        assert error.code == "bad_time"
        return
    assert epoch_ms(decode("event", f'{{"text":"a","ts":"{rfc3339(ms)}"}}'.encode()).ts) == ms


def test_milliseconds_are_not_lost():
    assert epoch_ms(decode("event", b'{"text":"a","ts":"2025-01-07T01:40:00.123Z"}').ts) == 1736214000123


@pytest.mark.parametrize(
    ("kind", "payload", "said"),
    [
        (requests.Search, b'{"query":"x","limit":0}', "limit must be a whole number, 1 to 1000"),
        (requests.Search, b'{"query":"x","limit":"a"}', "limit must be a whole number, 1 to 1000, not text"),
        (requests.Search, b'{"query":"x","mode":"foo"}', "mode must be hybrid, text or vector, not foo"),
        (requests.Search, b'{"query":"x","agent":"a b"}', "agent must be 1 to 64 letters, digits, _ or -"),
        (requests.Search, b'{"query":""}', "query must be text of 1 to 8192 characters"),
        (requests.Search, b'{"query":"x","after":-1}', "after must be a whole number, at least 0"),
        (requests.Search, b"[]", "the payload must be an object, not a list"),
        (requests.Timeline, b'{"order":"up"}', "order must be asc or desc, not up"),
        (
            requests.Timeline,
            b'{"since":"yesterday"}',
            "since must be a time: RFC 3339, as 2026-01-15T09:30:00Z, without a zone the tenant's clock, "
            "or epoch milliseconds",
        ),
        (requests.Agents, b'{"kind":"x"}', "there is no field kind; those known are after, wait_ms, limit, cursor,"),
        (requests.Get, b'{"ids":[]}', "ids must be a list of 1 to 1000 items"),
        (Event, b'{"text":"a","importance":2}', "importance must be a number, 0 to 1"),
        (Event, b'{"text":"a","meta":{"' + b"k" * 129 + b'":1}}', "each key of meta must be text of at most 128"),
        (Event, b'{"text":"a","meta":{"x":[]}}', "meta[...] must be text, a number or true or false, not a list"),
        (Run, b'{"task":"a","success":true,"steps":[{"ms":-1}]}', "steps[0].ms must be a number, at least 0"),
        (
            Run,
            b'{"task":"a","success":true,"steps":["plan"]}',
            'steps[0] must be an object, as {"tool": "plan"}, not text',
        ),
    ],
)
def test_what_does_not_fit_is_said_in_words_with_what_does(kind, payload, said):
    with pytest.raises(SchemaError) as caught:
        decode_json(payload, msgspec.json.Decoder(kind).decode)
    assert caught.value.message.startswith(said)
    if not said.endswith(","):
        assert len(caught.value.message) <= len(said) + len(" characters")


@pytest.mark.parametrize("kind", [*(request for request, _ in requests.VERBS.values()), Event, Run, Procedure, Forget])
def test_what_every_field_accepts_can_be_said(kind):
    for field in msgspec.inspect.type_info(kind).fields:
        said = wording.allowed(kind, field.encode_name)
        assert said or isinstance(field.type, msgspec.inspect.AnyType), field.name
        assert "like ^" not in said, "a pattern of ours has a name"
