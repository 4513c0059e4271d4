"""Messages that agents publish, version 1, and their one decoder.

Unknown fields are ignored here and kept by persist, which stores the payload verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from jetmem_schemas import wording
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.subjects import ID_PATTERN

T = TypeVar("T")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: Objects and lists inside each other; far more than any event needs, far less than any parser's stack.
DEPTH_MAX: Final = 32
#: One payload, as MEMORY's `max_msg_size` has it.
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
#: A clock may be wrong by a day and a zone; more is a mistake (epoch microseconds, for one).
FUTURE_MS_MAX: Final = 48 * 3600 * 1000
#: The year 2000.
EXPIRY_LEAST_MS: Final = 946684800000
#: Years 1 to 9999, what RFC 3339 and datetime can both say.
TS_MIN_MS: Final = -62135596800000
TS_MAX_MS: Final = 253402300799999

Time = Annotated[datetime, Meta(tz=True)] | int | float
Id = Annotated[str, Meta(pattern=ID_PATTERN, description="unique for ever within the tenant")]
Scalar = str | int | float | bool | None
Name = Annotated[str, Meta(max_length=256)]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(max_length=64)]
Meta64 = Annotated[dict[Annotated[str, Meta(max_length=128)], Scalar], Meta(max_length=64)]
Role = Literal["user", "assistant", "system", "tool"]
Kind = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?!\n)")]

#: Kinds that are nothing without their text.
TEXT_KINDS: Final = frozenset({"message", "note", "tool_result"})


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One conversation event: what somebody said, or what a tool did."""

    text: Annotated[str, Meta(description="what was said; required for kind message, note, tool_result")] = ""
    id: Id | None = None
    ts: Annotated[Time, Meta(description="RFC 3339 or epoch ms; default: broker time")] | None = None
    kind: Kind = "message"
    role: Role = "user"
    author: Annotated[Name, Meta(description="who said it")] = ""
    tags: Tags = []
    meta: Meta64 = {}
    importance: Annotated[float, Meta(ge=0, le=1)] | None = None
    expires_at: Time | None = None
    supersedes: Annotated[Id, Meta(description="id of an event that this corrects")] | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a run."""

    tool: Name = ""
    input: Any = None
    ok: bool | None = None
    ms: Annotated[float, Meta(ge=0)] | None = None


#: Whoever reads the refusal of anything else is to know at once what to write.
Steps = Annotated[list[Annotated[Step, Meta(examples=[{"tool": "plan"}])]], Meta(max_length=1000)]


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One executed run of a procedure."""

    task: Annotated[str, Meta(min_length=1)]
    success: bool
    procedure: Name = ""
    steps: Steps = []
    reward: Annotated[float, Meta(ge=0, le=1)] | None = None
    duration_ms: Annotated[float, Meta(ge=0)] | None = None
    cost: float | None = None
    context: Meta64 = {}
    failure: str = ""
    lessons: Annotated[list[str], Meta(max_length=64)] = []
    id: Id | None = None
    ts: Time | None = None


class Procedure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A procedure's definition; the last token of the subject is its name."""

    description: str = ""
    steps: Steps = []
    version: Annotated[int, Meta(ge=0)] | str = 1
    id: Id | None = None
    ts: Time | None = None


class Forget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An erasure command: one selector, and why. It covers what is recorded before it."""

    ids: Annotated[list[Id], Meta(min_length=1, max_length=10_000)] | None = None
    agent: Name | None = None
    session: Name | None = None
    author: Annotated[Name, Meta(min_length=1)] | None = None
    before: Time | None = None
    all: bool = False
    reason: Annotated[str, Meta(max_length=1000)] = ""
    id: Id | None = None
    ts: Time | None = None


Message = Event | Run | Procedure | Forget
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "event": msgspec.json.Decoder(Event),
    "run": msgspec.json.Decoder(Run),
    "procedure": msgspec.json.Decoder(Procedure),
    "forget": msgspec.json.Decoder(Forget),
}
#: What msgspec says and where: `$.limit`, `$.meta[...]`, `key` in `$.meta`.
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<field>.*?)`)?$", re.DOTALL)
_ENUM = re.compile(r"^Invalid enum value (?P<value>.+)$", re.DOTALL)
_GOT = re.compile(r", got `(?P<kind>\w+)`$")
_VALUE_CHARS_MAX: Final = 64
#: Possessive: linear in the payload whatever it holds; a string that never ends is taken to its end.
_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def decode(kind: str, payload: bytes) -> Message:
    """Decode and check one published message.

    Args:
        kind: One of `event`, `run`, `procedure`, `forget`.
        payload: As published; UTF-8 JSON.

    Raises:
        SchemaError: `bad_utf8`, `bad_json`, `too_deep`, `bad_field`, `missing_field`, `empty_forget`, `unsupported`.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise SchemaError("unsupported", f"messages of kind {kind} are not recorded by this version", "subject")
    message: Message = decode_json(payload, decoder.decode)
    if isinstance(message, Event) and not message.text and message.kind in TEXT_KINDS:
        raise SchemaError("missing_field", f"text is required for kind {message.kind}", "text")
    if isinstance(message, Event) and message.expires_at is not None:
        expiry_ms(message.expires_at)
    if isinstance(message, Forget):
        check_forget(message)
    return message


def expiry_ms(value: Time) -> int:
    """When an event expires, epoch ms.

    Raises:
        SchemaError: `bad_time`: out of range, or before the year 2000, as seconds taken for milliseconds are: what has
            expired is erased for good, so what is surely a mistake is not obeyed.
    """
    at = epoch_ms(value, "expires_at")
    if at < EXPIRY_LEAST_MS:
        raise SchemaError("bad_time", "expires_at is before the year 2000; epoch times are milliseconds", "expires_at")
    return at


def decode_json(payload: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode JSON with the refusals every payload shares.

    Raises:
        SchemaError: `bad_utf8`, `too_deep`, `bad_json`, `bad_field`, `missing_field`.
    """
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise SchemaError("bad_utf8", f"payload is not UTF-8 at byte {error.start}") from error
    check_depth(payload)
    try:
        return decode(payload)
    except msgspec.ValidationError as error:
        raise refusal(str(error), _decoded_type(decode)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise SchemaError(
            "bad_json", f"payload is not JSON: {error}".replace("JSON is malformed: ", "")[:300]
        ) from error


def _decoded_type(decode: Callable[[bytes], Any]) -> Any:
    """What a decoder's `decode` makes, if it is one."""
    return getattr(getattr(decode, "__self__", None), "type", Any)


def refusal(text: str, kind: Any) -> SchemaError:
    """What msgspec says of a value that does not fit `kind`, with what is accepted there, in words for people."""
    found = _AT.match(text)
    what, field, key = (found["what"], found["field"] or "", bool(found["key"])) if found else (text, "", False)
    missing = _MISSING.search(text)
    if missing:
        path = f"{field}.{missing['field']}" if field else missing["field"]
        return SchemaError("missing_field", f"required field {path} is missing", path)
    unknown = re.search(r"unknown field `([^`]+)`", text)
    if unknown:
        names = wording.listed(wording.fields(kind, field), "and")
        known = f"; those known are {names}" if names else ""
        return SchemaError("bad_field", f"there is no field {unknown[1][:_VALUE_CHARS_MAX]}{known}", unknown[1])
    allowed = wording.allowed(kind, field, key=key)
    if not allowed:
        return SchemaError("bad_field", (what[:1].lower() + what[1:]).replace("`", "'"), field)
    timely = "datetime" in text.lower() or "RFC3339" in text
    name = f"each key of {field}" if key else field or "the payload"
    return SchemaError("bad_time" if timely else "bad_field", f"{name} must be {allowed}{_instead(what)}", field)


def _instead(what: str) -> str:
    """What was there, as far as msgspec says it."""
    value, given = _ENUM.match(what), _GOT.search(what)
    if value:
        return f", not {value['value'].strip(chr(39))[:_VALUE_CHARS_MAX]}"
    return f", not {wording.got(given['kind'])}" if given else ""


def check_depth(payload: bytes) -> None:
    """Refuse nesting beyond `DEPTH_MAX` before any parser recurses.

    Raises:
        SchemaError: `too_deep`.
    """
    if payload.count(b"{") + payload.count(b"[") <= DEPTH_MAX:
        return
    depth = 0
    for piece in _MARKS.finditer(payload):
        mark = piece[0]
        if mark in (b"{", b"["):
            depth += 1
            if depth > DEPTH_MAX:
                raise SchemaError("too_deep", f"payload nests deeper than {DEPTH_MAX} levels")
        elif mark in (b"}", b"]"):
            depth -= 1


def check_forget(forget: Forget) -> None:
    """Refuse a forget that selects nothing or in two ways.

    Raises:
        SchemaError: `empty_forget` or `bad_field`.
    """
    ways = [n for n in ("ids", "agent", "author", "before") if getattr(forget, n) is not None]
    ways += ["all"] if forget.all else []
    if not ways and forget.session is not None:
        raise SchemaError("missing_field", "session needs agent beside it; nothing was erased", "agent")
    if not ways:
        raise SchemaError("empty_forget", "one of ids, agent, author, before, all is needed; nothing was erased")
    if len(ways) > 1:
        message = f"only one selector is allowed, got {' and '.join(ways)}; nothing was erased"
        raise SchemaError("bad_field", message, ways[1])
    if forget.session is not None and forget.agent is None:
        raise SchemaError("bad_field", "session goes with agent only; nothing was erased", "session")
    if forget.before is not None:
        epoch_ms(forget.before, "before")


def epoch_ms(value: datetime | float, field: str = "ts") -> int:
    """Milliseconds since 1970 of a decoded time.

    Raises:
        SchemaError: `bad_time` if outside years 1 to 9999.
    """
    if isinstance(value, datetime):
        value = (value - _EPOCH) // timedelta(milliseconds=1)
    if not TS_MIN_MS <= value <= TS_MAX_MS:
        raise SchemaError("bad_time", f"{field} must be between years 1 and 9999", field)
    return int(value)


def rfc3339(ms: int) -> str:
    """A time as the replies write it: UTC, milliseconds, `Z`."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
