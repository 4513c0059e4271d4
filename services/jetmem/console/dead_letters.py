"""Dead letters as they lie on DEAD: finding, publishing again; erasing is persist's."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client as Nats
from nats.js.api import RawStreamMsg

from jetmem.adapters.nats_ask import ask
from jetmem.client import RequestRefused, Unavailable
from jetmem.client.errors import of_reply
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import subjects
from jetmem_schemas.events import rfc3339
from jetmem_schemas.failures import Failure
from jetmem_schemas.internal import DropLetter, LetterDropped

_ORIGINAL: Final = "Jetmem-Original-"
#: Headers that mean something to the broker would make it deduplicate or batch the letter.
_BROKERS: Final = "nats-"
_TIMEOUT_S: Final = 5.0


class Dead(msgspec.Struct, frozen=True):
    """One dead letter."""

    seq: int
    headers: dict[str, str]
    payload: bytes

    @property
    def at(self) -> int:
        """When the broker first had it, epoch ms."""
        return _number(self.headers.get("Jetmem-Time", ""))

    @property
    def origin(self) -> int:
        """Its sequence on MEMORY."""
        return _number(self.headers.get("Jetmem-Seq", ""))

    @property
    def subject(self) -> str:
        """Where it was published."""
        return self.headers.get("Jetmem-Subject", "")

    def summary(self) -> dict[str, Any]:
        """What a list shows."""
        parts = self.subject.split(".")
        failure = Failure(*(self.headers.get(f"Jetmem-{name}", "") for name in ("Code", "Reason", "Field")))
        told = {"code": failure.code, "reason": failure.message, "field": failure.field}
        where = {"tenant": parts[1] if len(parts) > 1 else "", "subject": self.subject, "memory_seq": self.origin}
        return {"seq": self.seq, "time": rfc3339(self.at), **told, **where, "bytes": len(self.payload)}


async def find(
    nc: Nats,
    *,
    code: str | None = None,
    tenant: str | None = None,
    seqs: Sequence[int] | None = None,
    limit: int | None = None,
) -> AsyncGenerator[Dead, None]:
    """Dead letters that match everything given, the oldest first; not those that come while it looks.

    Raises:
        Unavailable: No DEAD stream, or no answer.
        RequestRefused: `code` or `tenant` is no token.
    """
    for field, value in (("code", code), ("tenant", tenant)):
        if value is not None and not subjects.is_token(value):
            raise RequestRefused("bad_field", f"{field} must match [A-Za-z0-9_-]{{1,64}}", field)
    last = await _last(nc)
    wanted = subjects.dead_filter(tenant or "*", code or "*")
    seq, found = 1, 0
    asked = iter(sorted(set(seqs))) if seqs else None
    while limit is None or found < limit:
        if asked is not None:
            seq = next(asked, last + 1)
        raw = await _message(nc, seq, wanted) if seq <= last else None
        if raw is None or raw.seq is None or raw.seq > last:
            return
        if asked is None or raw.seq == seq:
            found += 1
            yield Dead(raw.seq, {str(k): str(v) for k, v in (raw.headers or {}).items()}, raw.data or b"")
        seq = raw.seq + 1


async def publish_again(nc: Nats, dead: Dead) -> None:
    """Publish the original bytes where they were sent, with the id and time they would have been recorded under.

    Raises:
        Unavailable: It was not acknowledged; the dead letter stays.
    """
    original = {k[len(_ORIGINAL) :]: v for k, v in dead.headers.items() if k.startswith(_ORIGINAL)}
    headers = {k: v for k, v in original.items() if not k.lower().startswith(_BROKERS)}
    try:
        await nc.jetstream(timeout=_TIMEOUT_S).publish(dead.subject, redriven(dead), headers=headers or None)
    except (nats.errors.Error, nats.js.errors.Error) as error:
        raise Unavailable(f"dead letter {dead.seq} was not redriven and stays: {error}") from error


def redriven(dead: Dead) -> bytes:
    """The payload to publish: as it was, unless it is an object that lacks id or ts."""
    from jetmem.persist.core import default_id

    try:
        body = json.loads(dead.payload)
    except (ValueError, RecursionError):
        return dead.payload
    if not isinstance(body, dict):
        return dead.payload
    missing: dict[str, Any] = {}
    if body.get("id") is None:
        missing["id"] = default_id(dead.origin, dead.at)
    if body.get("ts") is None:
        missing["ts"] = dead.at
    return json.dumps({**body, **missing}, ensure_ascii=False).encode() if missing else dead.payload


async def persist_runs(nc: Nats) -> None:
    """Find out, before anything is done, whether letters can be erased.

    Raises:
        Unavailable: They cannot.
        TimedOut: It is not known.
    """
    await _ask_persist(nc, subjects.NONE, "status", {}, Any)


async def erase(nc: Nats, dead: Dead) -> None:
    """Have persist erase one dead letter, and the refused message in MEMORY, which only the letter leads to.

    Raises:
        Unavailable: persist is not running, or the broker refused; nothing was erased.
        TimedOut: It may have been.
    """
    tenant = dead.subject.split(".")[1:2]
    # what persist says it found there does not matter: a letter that is gone already is as good
    await _ask_persist(nc, tenant[0] if tenant else subjects.NONE, "drop_letter", DropLetter(dead.seq), LetterDropped)


async def _ask_persist(nc: Nats, tenant: str, verb: str, request: Any, reply: Any) -> None:
    subject = subjects.service("persist", subjects.partition_of(tenant), verb)
    try:
        await ask(nc, subject, request, reply, _TIMEOUT_S)
    except RequestFailed as error:
        hint = "; it alone erases dead letters" if error.code == "unavailable" else ""
        raise of_reply(error.code, error.message + hint, error.field) from error


async def _last(nc: Nats) -> int:
    try:
        info = await nc.jetstream(timeout=_TIMEOUT_S).stream_info(subjects.DEAD)
    except nats.js.errors.NotFoundError:
        raise Unavailable("this broker has no stream DEAD: jetmem was never started on it") from None
    except (nats.errors.Error, nats.js.errors.Error) as error:
        raise Unavailable(f"no answer about stream DEAD: {error}") from error
    return info.state.last_seq


async def _message(nc: Nats, seq: int, wanted: str) -> RawStreamMsg | None:
    """The first message from `seq` on that matches."""
    try:
        return await nc.jetstream(timeout=_TIMEOUT_S).get_msg(subjects.DEAD, seq=seq, subject=wanted, next=True)
    except nats.js.errors.NotFoundError:
        return None
    except (nats.errors.Error, nats.js.errors.Error) as error:
        raise Unavailable(f"dead letter {seq} cannot be read: {error}") from error


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
