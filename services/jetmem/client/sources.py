"""From what a caller iterates over to batches: full ones when it is fast, small and early ones when it is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import Final

from jetmem.client.batching import BATCH_BYTES_MAX, BATCH_EVENTS_MAX
from jetmem.client.errors import Refused
from jetmem.client.outgoing import Outgoing, Prepared
from jetmem.tasks import end

#: A source that pauses this long gets what it gave so far stored; one fsync then costs less than the wait.
LINGER_S: Final = 0.02
_END: Final = None
_PAUSE: Final = Outgoing(event=b"", session="")
Source = Iterable[Outgoing] | AsyncIterable[Outgoing]
Prepare = Callable[[Outgoing], Prepared]
OnBad = Callable[[Outgoing, Refused], None]


class Batcher:
    """Checks what comes and fills batches up to `BATCH_EVENTS_MAX` and `BATCH_BYTES_MAX`.

    Guarantees:
        If a message is refused and `on_bad` raises, what came before it is handed out first.
    """

    def __init__(self, prepare: Prepare, on_bad: OnBad) -> None:
        self._prepare = prepare
        self._on_bad = on_bad
        self._held: list[Prepared] = []
        self._bytes = 0
        self._queue: asyncio.Queue[Outgoing | None] = asyncio.Queue(maxsize=2 * BATCH_EVENTS_MAX)
        self._paused = False

    def rest(self) -> list[Outgoing]:
        """What was taken and not handed out; asked when publishing gives up."""
        held = [message.again() for message in self._cut()]
        while not self._queue.empty():
            out = self._queue.get_nowait()
            held += [out] if out is not None else []
        return held

    async def batches(self, events: Source) -> AsyncGenerator[list[Prepared], None]:
        """Batches in order; an empty one means that there is nothing at the moment."""
        async for out in self._outgoing(events):
            if out is None:
                yield self._cut()
                yield []
                continue
            try:
                message = self._prepare(out)
            except Refused as error:
                try:
                    self._on_bad(out, error)
                except Refused:
                    yield self._cut()
                    yield []
                    raise
                continue
            if self._held and self._bytes + len(message.payload) > BATCH_BYTES_MAX:
                yield self._cut()
            self._held.append(message)
            self._bytes += len(message.payload)
            if len(self._held) >= BATCH_EVENTS_MAX:
                yield self._cut()
        yield self._cut()

    def _cut(self) -> list[Prepared]:
        held, self._held, self._bytes = self._held, [], 0
        return held

    async def _outgoing(self, events: Source) -> AsyncGenerator[Outgoing | None, None]:
        """What comes, and None for a pause."""
        if not isinstance(events, AsyncIterable):
            for given in events:
                yield given
            return
        feeding = asyncio.ensure_future(self._feed(events))
        try:
            while (out := await self._next()) is not _END:
                yield None if out is _PAUSE else out
            await feeding
        finally:
            await end(feeding)

    async def _next(self) -> Outgoing | None:
        if not self._queue.empty():
            return self._queue.get_nowait()
        if self._paused:
            self._paused = False
            return await self._queue.get()
        try:
            async with asyncio.timeout(LINGER_S):
                return await self._queue.get()
        except TimeoutError:
            self._paused = True
            return _PAUSE

    async def _feed(self, events: AsyncIterable[Outgoing]) -> None:
        try:
            async for out in events:
                await self._queue.put(out)
        finally:
            await self._queue.put(_END)
