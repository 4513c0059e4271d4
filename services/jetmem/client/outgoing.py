"""What a caller wants to publish, and the checked form that goes over the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from jetmem.client.errors import Refused
from jetmem.client.ids import Ids
from jetmem_schemas import events, subjects
from jetmem_schemas.errors import SchemaError

Body = events.Message | Mapping[str, Any] | bytes
_encode: Final = msgspec.json.Encoder().encode


class _OnlyId(msgspec.Struct):
    id: str | None = None


_id_of: Final = msgspec.json.Decoder(_OnlyId).decode


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One message to be published.

    Attributes:
        event: A Struct of `jetmem_schemas.events`, a mapping, or the JSON itself (stored verbatim but for an added id).
        session: Session token; for a procedure its name.
        agent: Agent token; the client's when None.
        tenant: The client's when None.
        kind: `event`, `run`, `procedure` or `forget`.
        id: Used if the event has none; a new one is made when None.
    """

    event: Body
    session: str
    agent: str | None = None
    tenant: str | None = None
    kind: str = "event"
    id: str | None = None


class Prepared:
    """A checked message: where, what, under which id, and what it was made from."""

    __slots__ = ("id", "origin", "payload", "subject")

    def __init__(self, subject: str, payload: bytes, event_id: str, origin: Outgoing) -> None:
        self.subject = subject
        self.payload = payload
        self.id = event_id
        self.origin = origin

    def again(self) -> Outgoing:
        """The same message with its id fixed, to be kept by a caller and published later."""
        return msgspec.structs.replace(self.origin, event=self.payload, id=self.id)


def prepare(out: Outgoing, tenant: str, agent: str, ids: Ids) -> Prepared:
    """Check one message and put its id into the body.

    Raises:
        Refused: It would never be stored: bad token, bad field, missing text, too large, and so on.
    """
    try:
        subject = _subject(out, tenant, agent)
        payload, event_id = _with_id(out, ids)
        if len(payload) > events.PAYLOAD_BYTES_MAX:
            raise SchemaError("too_large", f"{len(payload)} bytes; at most {events.PAYLOAD_BYTES_MAX} are allowed")
        message = events.decode(out.kind, payload)
        if message.ts is not None:
            events.epoch_ms(message.ts)
    except SchemaError as error:
        raise Refused(error.code, error.message, error.field) from error
    return Prepared(subject, payload, event_id, out)


def _subject(out: Outgoing, tenant: str, agent: str) -> str:
    agent = agent if out.agent is None else out.agent
    if out.kind != "forget":
        subjects.token(agent, "agent")
        subjects.token(out.session, "session")
    return subjects.memory(tenant if out.tenant is None else out.tenant, out.kind, agent, out.session)


def _with_id(out: Outgoing, ids: Ids) -> tuple[bytes, str]:
    event = out.event
    if isinstance(event, bytes):
        return _bytes_with_id(event, out.id or ids)
    if isinstance(event, msgspec.Struct):
        if event.id is None:
            event = msgspec.structs.replace(event, id=out.id or ids.next())
        return _encode(event), str(event.id)
    if event.get("id") is None:
        event = {**event, "id": out.id or ids.next()}
    return _encoded(event), str(event["id"])


def _encoded(event: Mapping[str, Any]) -> bytes:
    try:
        return _encode(event)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise SchemaError("bad_json", f"the event cannot be written as JSON: {error}") from error


def _bytes_with_id(payload: bytes, otherwise: str | Ids) -> tuple[bytes, str]:
    found = events.decode_json(payload, _id_of).id
    if found is not None:
        return payload, found
    event_id = otherwise if isinstance(otherwise, str) else otherwise.next()
    if b'"id"' in payload or b"\\u0069d" in payload or b"\\" in payload[:64]:
        # An id of null, or a key spelt with escapes: write it anew rather than leave two ids in one object.
        return json.dumps({**json.loads(payload), "id": event_id}, ensure_ascii=False).encode(), event_id
    body = payload.lstrip(b" \t\r\n")[1:].lstrip(b" \t\r\n")
    return b'{"id":"' + event_id.encode() + b'"' + (b"" if body[:1] == b"}" else b",") + body, event_id
