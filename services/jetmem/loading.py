"""Loads lines `{"tenant","agent","session","event":{…}}` through the SDK; knows nothing of consoles.

An event without an id gets one made from its place in the file and its bytes, so that the same file loaded again,
after an interruption or by mistake, stores nothing twice.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import stat
import sys
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any, Final, Literal

import msgspec

from jetmem.client import Client, ClientError, Outgoing, Progress, Refused, TimedOut, Unavailable
from jetmem.client import ids as client_ids
from jetmem_schemas import subjects
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import PAYLOAD_BYTES_MAX, decode_json

STDIN: Final = "-"
_CHUNK_BYTES: Final = 256 * 1024
#: A full payload and what is around it; a longer line is skipped without being held.
LINE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 64 * 1024
#: One question waits this long for the arm; between questions the progress is shown.
_WAIT_MS: Final = 2_000
_ASK_AGAIN_S: Final = 0.2

WaitFor = Literal["stored", "text", "vector"]


class LoadError(Exception):
    """The file cannot be read to its end."""


class _Line(msgspec.Struct):
    tenant: str
    agent: str
    session: str
    event: Annotated[msgspec.Raw, msgspec.Meta(description="as it will be stored")]


_decode_line: Final = msgspec.json.Decoder(_Line).decode


class Numbered(Outgoing, frozen=True, kw_only=True):
    """An event that remembers its line."""

    number: int = 0


class Report(msgspec.Struct):
    """How far a load is; changes while it runs. `last_seqs`: by tenant, up to where its events are for certain."""

    stored: int = 0
    bad: int = 0
    last_seq: int = 0
    seconds: float = 0.0
    last_seqs: dict[str, int] = {}


OnBad = Callable[[int, str, str], None]
OnStored = Callable[[Report], None]


class Source:
    """A file, compressed if its name ends in `.gz`, or standard input.

    Raises:
        OSError: On `__enter__`, if it cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._raw: IO[bytes] | None = None
        self._data: Any = None
        self._piped_bytes = 0

    def __enter__(self) -> Source:
        self._raw = sys.stdin.buffer if self._name == STDIN else Path(self._name).open("rb")
        zipped = self._name.endswith(".gz")
        self._data = gzip.open(self._raw) if zipped else self._raw
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._raw is not None and self._name != STDIN:
            self._raw.close()

    @property
    def total(self) -> int | None:
        """Bytes on disk, or None for a pipe."""
        return os.fstat(self._file().fileno()).st_size if self._regular() else None

    @property
    def position(self) -> int:
        """Bytes of `total` that were read."""
        return self._file().tell() if self._regular() else self._piped_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content in pieces.

        Raises:
            LoadError: A compressed file is damaged or ends early.
        """
        if not self._regular():
            async with aclosing(self._piped()) as piped:
                async for chunk in piped:
                    yield chunk
            return
        try:
            # A local file: a read of this size takes less than a question to the event loop about threads.
            while chunk := self._data.read(_CHUNK_BYTES):
                yield chunk
        except (OSError, EOFError, zlib.error) as error:
            raise LoadError(f"{self._name} cannot be read to its end: {error}") from error

    async def _piped(self) -> AsyncGenerator[bytes, None]:
        # No thread: one that is blocked in a read of a terminal could not be ended by Ctrl-C.
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._file()
        )
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                self._piped_bytes += len(chunk)
                yield chunk
        finally:
            transport.close()

    def _regular(self) -> bool:
        return stat.S_ISREG(os.fstat(self._file().fileno()).st_mode)

    def _file(self) -> IO[bytes]:
        if self._raw is None:
            raise LoadError(f"{self._name} is not open")
        return self._raw


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[int, bytes | None], None]:
    """Numbered lines without their end, from 1; None for one longer than `LINE_BYTES_MAX`, which is not held."""
    number, held, skipping = 0, b"", False
    async for chunk in chunks:
        pieces = (held + chunk).split(b"\n")
        held = pieces.pop()
        for piece in pieces:
            number += 1
            yield number, None if skipping or len(piece) > LINE_BYTES_MAX else piece
            skipping = False
        if len(held) > LINE_BYTES_MAX:
            held, skipping = b"", True
    if held or skipping:
        yield number + 1, None if skipping else held


def parse(number: int, line: bytes | None) -> Numbered:
    """One line as what is published.

    Raises:
        SchemaError: It is no JSON object of this shape; the event itself is checked by the SDK.
    """
    if line is None:
        raise SchemaError("too_large", f"the line is longer than {LINE_BYTES_MAX} bytes")
    found = decode_json(line, _decode_line)
    event = bytes(found.event)
    event_id = made_id(found.tenant, found.agent, found.session, number, event)
    return Numbered(
        event=event, session=found.session, agent=found.agent, tenant=found.tenant, id=event_id, number=number
    )


def made_id(tenant: str, agent: str, session: str, number: int, event: bytes) -> str:
    """The id of an event that has none: the same whenever this line of this file is loaded."""
    text = "\0".join((tenant, agent, session, str(number), "")).encode()
    return client_ids.encode(int.from_bytes(hashlib.sha256(text + event).digest()[:16], "big"))


class Loader:
    """One load. `report` can be read at any time, also after an interruption."""

    def __init__(self, client: Client, *, on_bad: OnBad, on_stored: OnStored) -> None:
        self.report = Report()
        self._client = client
        self._on_bad = on_bad
        self._on_stored = on_stored
        self._begun = time.monotonic()
        self._taken: set[str] = set()

    async def run(self, source: Source, timeout_s: float | None = None) -> Report:
        """Load everything.

        Raises:
            NotStored: Nothing was acknowledged for `timeout_s`.
            LoadError: The file cannot be read to its end; what came before is stored.
        """
        await self._client.publish_many(
            self._events(source), progress=self._stored, on_refused=self._refused, timeout_s=timeout_s
        )
        self.report.seconds = time.monotonic() - self._begun
        self.report.last_seqs.update(dict.fromkeys(self._taken, self.report.last_seq))
        return self.report

    async def _events(self, source: Source) -> AsyncGenerator[Outgoing, None]:
        async with aclosing(source.chunks()) as chunks, aclosing(lines(chunks)) as numbered:
            async for number, line in numbered:
                if line is not None and not line.strip():
                    continue
                try:
                    out = parse(number, line)
                except SchemaError as error:
                    self._bad(number, error.code, _sentence(error.message, error.field))
                    continue
                if subjects.is_token(str(out.tenant)):
                    self._taken.add(str(out.tenant))
                yield out

    def _refused(self, out: Outgoing, error: Refused) -> None:
        number = out.number if isinstance(out, Numbered) else 0
        self._bad(number, error.code, _sentence(error.message, error.field))

    def _bad(self, number: int, code: str, reason: str) -> None:
        self.report.bad += 1
        self._on_bad(number, code, reason)

    def _stored(self, progress: Progress) -> None:
        self.report.stored = progress.count
        self.report.last_seq = progress.last_seq
        self.report.seconds = time.monotonic() - self._begun
        self._on_stored(self.report)


def _sentence(message: str, field: str) -> str:
    return f"{message} (field {field})" if field and field not in message else message


OnWaiting = Callable[[str, int, str], None]


async def wait_fresh(
    client: Client, tenant: str, seq: int, arm: Literal["text", "vector"], on_waiting: OnWaiting
) -> None:
    """Wait until one arm covers everything of a tenant up to `seq`; never gives up.

    Args:
        client: Of any tenant; its connection is used.
        tenant: Whose events.
        seq: A sequence of MEMORY.
        arm: Found by words, or by meaning.
        on_waiting: Called about every two seconds with tenant, texts without a vector, and what is in the way.
    """
    asking = client.as_tenant(tenant)
    while True:
        obstacle = ""
        try:
            reply = await asking.search("anything", mode=arm, limit=1, after=seq, wait_ms=_WAIT_MS)
            if not reply.stale and arm not in reply.degraded:
                return
            pending = (await asking.status()).pending_vectors
        except (Unavailable, TimedOut) as error:
            obstacle, pending = error.message, 0
        on_waiting(tenant, pending, obstacle)
        await asyncio.sleep(_ASK_AGAIN_S)


__all__ = ["ClientError", "LoadError", "Loader", "Report", "Source", "WaitFor", "wait_fresh"]
