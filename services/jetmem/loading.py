"""Loads lines `{"tenant","agent","session","event":{…}}`, or `"run":{…}`, through the SDK; knows nothing of consoles.

What comes without an id gets one made from its place in the file and its bytes, so that the same file loaded again,
after an interruption or by mistake, stores nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Final, Literal

import msgspec

from jetmem.adapters.lined_files import LINE_BYTES_MAX, LoadError, Source, lines
from jetmem.client import Client, ClientError, Outgoing, Progress, Receipts, Refused, TimedOut, Unavailable
from jetmem.client import ids as client_ids
from jetmem_schemas import subjects
from jetmem_schemas.asking import Reply
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import Event, Run, decode_json

#: One question waits this long for the arm; between questions the progress is shown.
_WAIT_MS: Final = 2_000
_ASK_AGAIN_S: Final = 0.2
#: An interrupted load waits so long for the acknowledgements of what it has sent.
_SETTLE_S: Final = 2.0

Kind = Literal["event", "run"]
Arm = Literal["text", "vector", "procedures"]
#: Names of fields that are counted one by one; more are no slips of a pen.
_UNREAD_NAMES_MAX: Final = 100


class _Line(msgspec.Struct):
    tenant: str
    agent: str
    session: str


class _EventLine(_Line):
    event: Annotated[msgspec.Raw, msgspec.Meta(description="as it will be stored")]


class _RunLine(_Line):
    run: Annotated[msgspec.Raw, msgspec.Meta(description="as it will be stored")]


_LINES: Final[dict[Kind, Callable[[bytes], _Line]]] = {
    "event": msgspec.json.Decoder(_EventLine).decode,
    "run": msgspec.json.Decoder(_RunLine).decode,
}
#: What the other command loads: one is easily taken for the other.
_OTHERS: Final[dict[Kind, tuple[str, str]]] = {
    "event": ("run", "`jetmem runs load`"),
    "run": ("event", "`jetmem load`"),
}
_READ: Final[dict[Kind, frozenset[str]]] = {
    "event": frozenset(Event.__struct_fields__),
    "run": frozenset(Run.__struct_fields__),
}
_names_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Numbered(Outgoing, frozen=True, kw_only=True):
    """A message that remembers its line."""

    number: int = 0


class Report(msgspec.Struct):
    """How far a load is; changes while it runs.

    Attributes:
        stored: Acknowledged: on the broker's disk. What was recorded before is not recorded again.
        last_seqs: By tenant, up to where its messages are for certain.
        unread: By name, how many messages have a field that means nothing.
    """

    stored: int = 0
    bad: int = 0
    last_seq: int = 0
    seconds: float = 0.0
    last_seqs: dict[str, int] = {}
    unread: Counter[str] = msgspec.field(default_factory=Counter)


OnBad = Callable[[int, str, str], None]
OnStored = Callable[[Report], None]


def parse(number: int, line: bytes | None, kind: Kind = "event") -> Numbered:
    """One line as what is published.

    Raises:
        SchemaError: It is no JSON object of this shape; the event or run itself is checked by the SDK.
    """
    if line is None:
        raise SchemaError("too_large", f"the line is longer than {LINE_BYTES_MAX} bytes")
    try:
        found = decode_json(line, _LINES[kind])
    except SchemaError as error:
        other, command = _OTHERS[kind]
        if (error.code, error.field) != ("missing_field", kind) or other not in _names_of(line):
            raise
        raise SchemaError(error.code, f"{error.message}; lines with {other} are for {command}", kind) from error
    body = bytes(getattr(found, kind))
    own_id = made_id(found.tenant, found.agent, found.session, number, body, kind)
    return Numbered(
        event=body,
        session=found.session,
        agent=found.agent,
        tenant=found.tenant,
        kind=kind,
        id=own_id,
        number=number,
    )


def made_id(tenant: str, agent: str, session: str, number: int, body: bytes, kind: Kind = "event") -> str:
    """The id of an event or run that has none: the same whenever this line of this file is loaded."""
    where = (tenant, agent, session, str(number)) if kind == "event" else (kind, tenant, agent, session, str(number))
    text = "\0".join((*where, "")).encode()
    return client_ids.encode(int.from_bytes(hashlib.sha256(text + body).digest()[:16], "big"))


class Loader:
    """One load. `report` can be read at any time, also after an interruption. Bad lines are told in their order."""

    def __init__(self, client: Client, *, on_bad: OnBad, on_stored: OnStored, kind: Kind = "event") -> None:
        self.report = Report()
        self._kind: Kind = kind
        self._client = client
        self._on_bad = on_bad
        self._on_stored = on_stored
        self._begun = time.monotonic()
        self._taken: set[str] = set()
        self._ended: LoadError | None = None
        #: Lines handed out and neither acknowledged nor refused, and bad ones that are told when those before are.
        self._open: deque[int] = deque()
        self._stopping = False
        self._moved = asyncio.Event()
        self._early: deque[tuple[int, str, str]] = deque()

    async def run(self, source: Source, timeout_s: float | None = None) -> Report:
        """Load everything. Cancelled, it takes nothing more, and counts what is acknowledged within two seconds.

        Raises:
            NotStored: Nothing was acknowledged for `timeout_s`.
            LoadError: The file cannot be read to its end; what came before is stored.
        """
        publishing = asyncio.ensure_future(
            self._client.publish_many(
                self._messages(source), progress=self._stored, on_refused=self._refused, timeout_s=timeout_s
            )
        )
        try:
            await asyncio.shield(publishing)
        except asyncio.CancelledError:
            await self._settle(publishing)
            raise
        finally:
            self._tell_until(None)
        if self._ended is not None:
            raise self._ended
        self.report.seconds = time.monotonic() - self._begun
        self.report.last_seqs.update(dict.fromkeys(self._taken, self.report.last_seq))
        return self.report

    async def _settle(self, publishing: asyncio.Future[Receipts]) -> None:
        """What the broker stored is told as stored, though the answer comes after the interruption."""
        self._stopping = True
        settled = asyncio.ensure_future(self._nothing_open())
        try:
            await asyncio.wait((publishing, settled), timeout=_SETTLE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (publishing, settled):
                task.cancel()
            await asyncio.gather(publishing, settled, return_exceptions=True)

    async def _nothing_open(self) -> None:
        while self._open:
            self._moved.clear()
            await self._moved.wait()

    async def _messages(self, source: Source) -> AsyncGenerator[Outgoing, None]:
        number = 0
        async with aclosing(source.chunks()) as chunks, aclosing(lines(chunks)) as numbered:
            try:
                async for number, line in numbered:
                    if self._stopping:
                        return
                    out = self._parsed(number, line)
                    if out is not None:
                        self._open.append(number)
                        yield out
            except LoadError as error:  # raised when what came before is stored
                after = f" after line {number}" if number else " from its first line on"
                self._ended = LoadError(f"{error}{after}", damaged=error.damaged)
                self._ended.__cause__ = error

    def _parsed(self, number: int, line: bytes | None) -> Numbered | None:
        if line is not None and not line.strip():
            return None
        try:
            out = parse(number, line, self._kind)
        except SchemaError as error:
            self._early.append((number, error.code, _sentence(error.message, error.field)))
            self._tell_until(self._open[0] if self._open else None)
            return None
        if subjects.is_token(str(out.tenant)):
            self._taken.add(str(out.tenant))
        self._note_unread(bytes(out.event) if isinstance(out.event, bytes) else b"")
        return out

    def _note_unread(self, body: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):  # whatever else is wrong with it is refused later
            for name in _names_of(body).keys() - _READ[self._kind]:
                if name in self.report.unread or len(self.report.unread) < _UNREAD_NAMES_MAX:
                    self.report.unread[name] += 1

    def _refused(self, out: Outgoing, error: Refused) -> None:
        number = out.number if isinstance(out, Numbered) else 0
        with contextlib.suppress(ValueError):
            self._open.remove(number)
        self._moved.set()
        self._tell_until(number)
        self._bad(number, error.code, _sentence(error.message, error.field))

    def _tell_until(self, number: int | None) -> None:
        """Tell of the bad lines before `number`; None for all."""
        while self._early and (number is None or self._early[0][0] < number):
            self._bad(*self._early.popleft())

    def _bad(self, number: int, code: str, reason: str) -> None:
        self.report.bad += 1
        self._on_bad(number, code, reason)

    def _stored(self, progress: Progress) -> None:
        for _ in range(min(progress.count - self.report.stored, len(self._open))):
            self._open.popleft()
        self._moved.set()
        self.report.stored = progress.count
        self.report.last_seq = progress.last_seq
        self.report.seconds = time.monotonic() - self._begun
        self._tell_until(self._open[0] if self._open else None)
        self._on_stored(self.report)


def _sentence(message: str, field: str) -> str:
    return ClientError("", message, field).sentence


OnWaiting = Callable[[str, int, str], None]


class GaveUp(Exception):
    """An arm came no nearer for as long as was to be waited; everything is stored all the same."""


async def wait_fresh(
    client: Client,
    tenant: str,
    seq: int,
    arm: Arm,
    on_waiting: OnWaiting,
    *,
    timeout_s: float | None = None,
) -> None:
    """Wait until one arm covers everything of a tenant up to `seq`.

    Args:
        client: Of any tenant; its connection is used.
        tenant: Whose messages.
        seq: A sequence of MEMORY.
        arm: Found by words, by meaning, or learnt from, tasks compared by meaning.
        on_waiting: Called every two seconds or so with tenant, texts without a vector, and what is in the way.
        timeout_s: Without any progress for so long it gives up; None never.

    Raises:
        GaveUp: Says what was in the way last.
    """
    asking = client.as_tenant(tenant)
    came, since = "", time.monotonic()
    while True:
        obstacle, pending, now = "", 0, came
        try:
            reply = await _asked(asking, arm, seq)
            if not reply.stale and not _NEEDS[arm] & {*reply.degraded}:
                return
            status = await asking.status()
            pending, now = status.pending_vectors, f"{reply.fresh.get(arm)} {status.pending_vectors}"
            ill = [each for each in status.stages if each.state not in ("ok", "behind")]
            obstacle = "; ".join(f"{each.stage}: {each.state}, {each.detail}" for each in ill)
        except (Unavailable, TimedOut) as error:
            obstacle = error.message
        if now != came:
            came, since = now, time.monotonic()
        on_waiting(tenant, pending, obstacle)
        if timeout_s is not None and time.monotonic() - since > timeout_s:
            raise GaveUp(
                f"no progress for {timeout_s:g} s with the {_AWAITED[arm]} of {tenant}" + (obstacle and f": {obstacle}")
            )
        await asyncio.sleep(_ASK_AGAIN_S)


#: Arms that an answer must not lack.
_NEEDS: Final[dict[Arm, set[str]]] = {
    "text": {"text"},
    "vector": {"vector"},
    "procedures": {"procedures", "vector"},
}
_AWAITED: Final[dict[Arm, str]] = {"text": "words", "vector": "vectors", "procedures": "runs"}


async def _asked(client: Client, arm: Arm, seq: int) -> Reply:
    if arm == "procedures":
        return await client.recommend("anything", k=1, after=seq, wait_ms=_WAIT_MS)
    return await client.search("anything", mode=arm, limit=1, after=seq, wait_ms=_WAIT_MS)


__all__ = ["Arm", "ClientError", "GaveUp", "Kind", "LoadError", "Loader", "Report", "Source", "wait_fresh"]
