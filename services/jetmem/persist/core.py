"""What persist decides, without I/O: is a message a fact, a repeat, a conflict, or a dead letter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec
from ulid import ULID

from jetmem.runtime.errors import Poison
from jetmem_schemas import subjects, toc
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import FUTURE_MS_MAX, Event, Forget, Message, Time, decode, epoch_ms

HASH_BYTES: Final = 16


class IdRow(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of an id for ever: where it is recorded, what it said, and whether it was erased."""

    rseq: int
    hash: bytes
    forgotten: bool = False


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """What the time index knows of an entry without reading the log."""

    kind: str
    agent: str
    session: str
    author: str = ""
    event_kind: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A well-formed message: what would be recorded, if its id is new."""

    tenant: str
    kind: str
    agent: str
    session: str
    id: str
    ts: int
    hash: bytes
    summary: Summary
    tags: tuple[str, ...]
    forget: Forget | None
    node: toc.Node | None = None


class Verdict(Enum):
    """What becomes of a candidate."""

    RECORD = "record"
    REPEAT = "repeat"
    FORGOTTEN = "forgotten"
    CONFLICT = "conflict"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Around:
    """What is recorded around a version of a node.

    Attributes:
        newest: The newest version under its id, 0 for none.
        held: The content recorded as this very version, if it is.
        forgot: Number of the entry that ends the tenant's last forget, 0 for none.
        covered: MEMORY sequence of the entry that the version names, None if there is no such entry.
    """

    newest: int
    held: bytes | None
    forgot: int
    covered: int | None


def judge(subject: str, payload: bytes, seq: int, at: int) -> Candidate:
    """Check one message of MEMORY.

    Args:
        subject: As MEMORY stores it.
        payload: As published.
        seq: Its stream sequence.
        at: The broker's time, epoch ms.

    Raises:
        SchemaError: Subject or payload does not fit; the code is the dead letter's.
        Poison: The time is out of range.
    """
    address = subjects.parse_memory(subject)
    if address.kind == "derived":
        return _judge_node(address, payload, at)
    message = decode(address.kind, payload)
    ts = _time_of(message, at)
    return Candidate(
        address.tenant,
        address.kind,
        address.agent,
        address.session,
        message.id or default_id(seq, at),
        ts,
        content_hash(address, payload),
        _summary(address, message),
        tuple(message.tags) if isinstance(message, Event) else (),
        message if isinstance(message, Forget) else None,
    )


def _judge_node(address: subjects.Address, payload: bytes, at: int) -> Candidate:
    if (address.agent, address.session) != (subjects.NONE, subjects.NODE):
        raise SchemaError("bad_subject", "agent and kind of a derived message must be '_' and 'node'", "subject")
    node = toc.decode_node(payload)
    ts = at if node.start is None else epoch_ms(node.start, "start")
    summary = Summary(address.kind, address.agent, address.session)
    return Candidate(
        address.tenant, address.kind, address.agent, address.session, node.id, ts, b"", summary, (), None, node
    )


def default_id(seq: int, at: int) -> str:
    """A ULID made of the broker's time (ms) and the stream sequence: the same whenever it is read again."""
    return str(ULID(at.to_bytes(6, "big") + seq.to_bytes(10, "big")))


def content_hash(address: subjects.Address, payload: bytes) -> bytes:
    """What makes content the same: where it was sent and its bytes."""
    where = f"{address.kind}\0{address.agent}\0{address.session}\0".encode()
    return hashlib.blake2b(where + payload, digest_size=HASH_BYTES).digest()


def decide(candidate: Candidate, known: IdRow | None) -> Verdict:
    """Compare a candidate with what is recorded under its id.

    `CONFLICT` is by bytes; `same_content` says whether only the spelling differs.
    """
    if known is None:
        return Verdict.RECORD
    if known.forgotten:
        return Verdict.FORGOTTEN
    return Verdict.REPEAT if known.hash == candidate.hash else Verdict.CONFLICT


def decide_node(node: toc.Node, payload: bytes, around: Around) -> Verdict:
    """Compare a version of a node with what is recorded around it.

    `STALE`: an older one came later, or it was made without knowing of a forget, or from another log. Whoever made it
    makes it again; nothing of it is kept, not even its copy in MEMORY, because nobody could tell when a later forget
    meets it.
    """
    if around.held is not None and around.held == payload:
        return Verdict.REPEAT
    if node.version < around.forgot or around.covered is None or node.seq not in (0, around.covered):
        return Verdict.STALE
    return Verdict.RECORD if node.version > around.newest else Verdict.STALE


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two payloads are the same JSON, however spelt (order of keys, white space, escapes).

    A payload may hold, in fields that no schema reads, what cannot be decoded (1e999): then it is not the same.
    """
    canonical = msgspec.json.Encoder(order="deterministic").encode
    try:
        return canonical(msgspec.json.decode(one)) == canonical(msgspec.json.decode(other))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return False


def entry_kind(kind: str) -> str:
    """The log entry that a message of this kind becomes."""
    return "forgot" if kind == "forget" else kind


def selects(forget: Forget, summary: Summary, ts: int) -> bool:
    """Whether a forget that is not by ids covers an entry recorded before it."""
    if forget.all:
        return True
    if forget.agent is not None:
        return summary.agent == forget.agent and forget.session in (None, summary.session)
    if forget.author is not None:
        return summary.author == forget.author
    return forget.before is not None and ts < epoch_ms(forget.before, "before")


def _time_of(message: Message, at: int) -> int:
    if message.ts is None:
        return at
    ts = epoch_ms(message.ts)
    if ts > at + FUTURE_MS_MAX:
        raise Poison("bad_time", "ts is more than 48 hours ahead of the broker's clock", "ts")
    return ts


def _summary(address: subjects.Address, message: Message) -> Summary:
    if isinstance(message, Event):
        return Summary(address.kind, address.agent, address.session, message.author, message.kind, message.role)
    return Summary(address.kind, address.agent, address.session)


def covers_dead(forget: Forget, source: str, id_: str, payload: bytes, at: int) -> bool:
    """Whether a forget covers a dead letter, as far as its broken content tells.

    Args:
        forget: The command.
        source: The subject it was published to.
        id_: Its id, if it got that far.
        payload: Its bytes, which may be anything.
        at: The broker's time of it, epoch ms; it counts where the payload says none that can be read.
    """
    if forget.all:
        return True
    parts = source.split(".")
    if parts[2:3] == ["derived"]:
        return True  # made from anybody's words, and made again without those
    if forget.agent is not None:
        same = len(parts) > 3 and parts[3] == forget.agent
        return same and (forget.session is None or (len(parts) > 4 and parts[4] == forget.session))
    fields = _fields_of(payload)
    if forget.ids is not None:
        return id_ in forget.ids or fields.get("id") in forget.ids
    if forget.author is not None:
        return fields.get("author") == forget.author
    try:
        ts = epoch_ms(msgspec.convert(fields.get("ts"), Time))
    except (msgspec.ValidationError, SchemaError):
        ts = at
    return forget.before is not None and ts < epoch_ms(forget.before)


def _fields_of(payload: bytes) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
