"""What the SDK refuses before it sends, and how ids get into bodies."""

import json

import pytest
from ulid import ULID

from jetmem.client import NotStored, Outgoing, Refused, connect
from jetmem.client.ids import Ids, encode
from jetmem.client.outgoing import prepare
from jetmem_schemas.events import PAYLOAD_BYTES_MAX, Event


def _prepare(event, session="s1", **rest):
    return prepare(Outgoing(event=event, session=session, **rest), "acme", "alice", Ids())


def test_ids_are_ulids_and_increase():
    ids = Ids()
    made = [ids.next() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert len(ULID.from_str(made[0]).bytes) == 16


@pytest.mark.parametrize("value", [0, 1, 2**64 + 5, 2**128 - 1])
def test_encoding_is_that_of_ulids(value):
    assert encode(value) == str(ULID(value.to_bytes(16, "big")))


@pytest.mark.parametrize(
    "event",
    [
        {"text": "a", "extra": {"kept": [1]}},
        b'{"text":"a","extra":{"kept":[1]}}',
        b' { "text" : "a", "extra":{"kept":[1]}, "id":null}',
        b'{"\\u0074ext":"a","extra":{"kept":[1]}}',
    ],
)
def test_a_missing_id_is_put_into_the_body(event):
    prepared = _prepare(event, id="mine")
    assert json.loads(prepared.payload) == {"id": "mine", "text": "a", "extra": {"kept": [1]}}
    assert (prepared.id, prepared.subject) == ("mine", "mem.acme.event.alice.s1")


def test_an_empty_object_with_an_id_is_json():
    assert json.loads(_prepare(b"{}", kind="procedure", id="p").payload) == {"id": "p"}


def test_bytes_with_an_id_are_sent_as_they_are():
    payload = b'{ "id":"x",\t"text":"a" }'
    assert _prepare(payload).payload == payload


def test_an_event_struct_keeps_its_id():
    assert _prepare(Event(text="a", id="given")).id == "given"


@pytest.mark.parametrize(
    ("event", "rest", "code", "field"),
    [
        ({"text": "a"}, {"session": "a b"}, "bad_subject", "session"),
        ({"text": "a"}, {"session": "_"}, "bad_subject", "session"),
        ({"text": "a"}, {"agent": "a.b"}, "bad_subject", "agent"),
        ({"text": "a"}, {"tenant": ""}, "bad_subject", "tenant"),
        ({"text": ""}, {}, "missing_field", "text"),
        ({"text": "a", "role": "boss"}, {}, "bad_field", "role"),
        ({"text": "a", "id": "no space"}, {}, "bad_field", "id"),
        ({"text": "a", "id": 7}, {}, "bad_field", "id"),
        ({"text": "a", "ts": 10**17}, {}, "bad_time", "ts"),
        ({"text": "a", "meta": {"x": {1}}}, {}, "bad_field", "meta[...]"),
        ({"text": "a", "x": object()}, {}, "bad_json", ""),
        ({"text": "x" * PAYLOAD_BYTES_MAX}, {}, "too_large", ""),
        (b"nope", {}, "bad_json", ""),
        (b'{"text":"\xff"}', {}, "bad_utf8", ""),
        (b"[1]", {}, "bad_field", ""),
        (b'{"text":"a","x":' + b"[" * 40 + b"]" * 40 + b"}", {}, "too_deep", ""),
        ({}, {"kind": "forget", "session": "_", "agent": "_"}, "empty_forget", ""),
        ({}, {"kind": "gossip"}, "unsupported", "subject"),
    ],
)
def test_what_would_never_be_stored_is_refused_before_it_is_sent(event, rest, code, field):
    with pytest.raises(Refused) as refused:
        _prepare(event, **rest)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_what_is_handed_back_carries_its_id():
    prepared = _prepare({"text": "a"})
    again = prepare(prepared.again(), "acme", "alice", Ids())
    assert (again.id, again.payload, again.subject) == (prepared.id, prepared.payload, prepared.subject)
    assert NotStored("why", [prepared.again()]).pending[0].id == prepared.id


@pytest.mark.parametrize("tenant", ["", "_", "a.b", "ä"])
def test_an_illegal_tenant_is_refused_before_connecting(tenant):
    with pytest.raises(Refused):
        connect(tenant=tenant)
