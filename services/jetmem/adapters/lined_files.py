"""Files of lines, packed or not, and what comes through a pipe: read in pieces that are bounded, line by line."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from jetmem_schemas.events import PAYLOAD_BYTES_MAX

STDIN: Final = "-"
_CHUNK_BYTES: Final = 256 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
#: A full payload and what is around it; a longer line is skipped without being held.
LINE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 64 * 1024


class LoadError(Exception):
    """The file cannot be read to its end. `damaged`: nor will it ever be, however often it is tried."""

    def __init__(self, message: str, *, damaged: bool = False) -> None:
        super().__init__(message)
        self.damaged = damaged


class Source:
    """A file or standard input, compressed (which shows in its first bytes) or not.

    Raises:
        OSError: On `__enter__`, if it cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._raw: IO[bytes] | None = None
        self._read_bytes = 0

    def __enter__(self) -> Source:
        self._raw = _stdin() if self._name == STDIN else Path(self._name).open("rb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._raw is not None:
            self._raw.close()

    @property
    def total(self) -> int | None:
        """Bytes on disk, or None for what has no size."""
        status = os.fstat(self._file().fileno())
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @property
    def position(self) -> int:
        """Bytes of `total` that were read."""
        return self._read_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The content in pieces.

        Raises:
            LoadError: It cannot be read, or is compressed and damaged or ends early.
        """
        try:
            async with aclosing(self._unpacked()) as pieces:
                async for piece in pieces:
                    yield piece
        except zlib.error as error:
            raise LoadError(f"{self._name} is compressed and damaged: {error}", damaged=True) from error
        except OSError as error:
            raise LoadError(f"{self._name} cannot be read to its end: {error.strerror or error}") from error

    async def _unpacked(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._started()) as raw:
            first = await anext(raw, b"")
            if not (first.startswith(_GZIP_MAGIC) or self._name.endswith(".gz")):
                if first:
                    yield first
                async for chunk in raw:
                    yield chunk
                return
            unpacking = _Gunzip()
            for piece in unpacking.take(first):
                yield piece
            async for chunk in raw:
                for piece in unpacking.take(chunk):
                    yield piece
            unpacking.end()

    async def _started(self) -> AsyncGenerator[bytes, None]:
        """Pieces as they are on disk or in the pipe, the first long enough to tell what it is."""
        async with aclosing(self._plain() if self._pollable() is False else self._piped()) as raw:
            held: bytes = b""
            async for chunk in raw:
                self._read_bytes += len(chunk)
                held += chunk
                if len(held) >= len(_GZIP_MAGIC):
                    yield held
                    held = b""
            if held:
                yield held

    async def _plain(self) -> AsyncGenerator[bytes, None]:
        # A local file: a read of this size takes less than a question to the event loop about threads.
        while chunk := self._file().read(_CHUNK_BYTES):
            yield chunk

    async def _piped(self) -> AsyncGenerator[bytes, None]:
        # No thread: one that is blocked in a read of a terminal could not be ended by Ctrl-C.
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._file()
        )
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                yield chunk
        finally:
            transport.close()

    def _pollable(self) -> bool:
        """Whether it may make us wait, and the kernel can say when it does not: /dev/null, for one, is neither."""
        mode = os.fstat(self._file().fileno()).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or self._file().isatty()

    def _file(self) -> IO[bytes]:
        if self._raw is None:
            raise LoadError(f"{self._name} is not open")
        return self._raw


def _stdin() -> IO[bytes]:
    if sys.stdin is None:  # Python found it closed
        raise OSError(errno.EBADF, "standard input is closed")
    # Unbuffered: what a buffer holds back would be missing from a pipe that is then read by its descriptor.
    return os.fdopen(sys.stdin.buffer.fileno(), "rb", 0, closefd=False)


class _Gunzip:
    """Unpacks members of a gzip stream, one after the other."""

    def __init__(self) -> None:
        self._member = self._fresh()
        self._begun = False

    def take(self, data: bytes) -> Iterator[bytes]:
        """What comes out of some more of it, in pieces that are bounded however well it was packed."""
        while data:
            if self._member.eof:
                data = data.lstrip(b"\0")  # tools pad to a block; gzip takes no offence either
                self._member = self._fresh() if data else self._member
                continue
            self._begun = True
            piece = self._member.decompress(data, _CHUNK_BYTES)
            if piece:
                yield piece
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def end(self) -> None:
        """Nothing more comes.

        Raises:
            error: It ends early.
        """
        if self._begun and not self._member.eof:
            raise zlib.error("it ends early")

    @staticmethod
    def _fresh() -> zlib._Decompress:
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


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
