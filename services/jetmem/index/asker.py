"""Asks embed for what lacks vectors: seconds of work at a time, tenants in turn, again after a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from typing import Any, Final

import msgspec
import nats.errors
import nats.js.errors

from jetmem.adapters.nats_connect import ApiError, api
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure
from jetmem.index.pieces import Pieces
from jetmem.index.rows import Rows, text_hash
from jetmem.runtime import limits, metrics
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects
from jetmem_schemas.internal import EmbedJob, EmbedText, VectorsReady

_encode = msgspec.msgpack.Encoder().encode
#: Deadlines are looked at this often.
_LOOK_S: Final = 1.0
#: Pending passages looked at for one job: those out already are passed over.
_LOOKED_AT_MAX: Final = 2 * limits.JOBS_TEXTS_OUT


class Asker:
    """Keeps a bounded number of texts in EMBED. What was lost there is asked for again. Event loop only."""

    def __init__(self, shell: Shell, rows: Rows, pieces: Pieces) -> None:
        self._shell = shell
        self._rows = rows
        self._pieces = pieces
        self._out: dict[tuple[str, bytes], tuple[float, int]] = {}
        self._out_of: Counter[str] = Counter()
        self._next: dict[str, bytes] = {}
        self._turn: deque[str] = deque()
        self._wake = asyncio.Event()
        self._jobs = 0
        self._reconnects = 0
        self._look_at = 0.0

    def wake(self) -> None:
        """Something is pending, or something came."""
        self._wake.set()

    def came(self, ready: VectorsReady) -> None:
        """These texts are no longer out."""
        for vector in ready.vectors:
            self._back((ready.tenant, vector.key))
        self.wake()

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._expire()
                await self._fill()
            except (nats.js.errors.Error, nats.errors.Error, ApiError, Retryable, TimeoutError, OSError) as error:
                self._shell.health.failed(error)
                await self._lost()

    def _back(self, key: tuple[str, bytes]) -> None:
        if self._out.pop(key, None) is not None:
            self._out_of[key[0]] -= 1
            if not self._out_of[key[0]]:
                del self._out_of[key[0]]

    def _all_back(self) -> None:
        self._out.clear()
        self._out_of.clear()
        self._next.clear()

    async def _expire(self) -> None:
        """Ask again for what is overdue, unless it is still in the queue."""
        now = self._shell.clock.monotonic()
        reconnects = self._shell.nc.stats["reconnects"]
        if reconnects != self._reconnects:  # EMBED is gone after a broker restart
            self._reconnects = reconnects
            self._all_back()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        overdue = [key for key, (deadline, _) in self._out.items() if deadline < now]
        if not overdue:
            return
        if await self._queued() >= len({job for _, job in self._out.values()}):
            for key in overdue:  # nothing is lost, embed is slow or away
                self._out[key] = (now + limits.JOB_DEADLINE_S, self._out[key][1])
            return
        for key in overdue:
            self._back(key)
            self._next.pop(key[0], None)

    async def _queued(self) -> int:
        """Jobs of ours in EMBED that were not acknowledged."""
        subject = subjects.embed_job("index")
        request = {"subjects_filter": subject}
        info: dict[str, Any] = await api(
            self._shell.nc, subjects.raw_stream_api("STREAM.INFO", subjects.EMBED), request
        )
        return int((info["state"].get("subjects") or {}).get(subject, 0))

    async def _lost(self) -> None:
        """The broker refused or EMBED is gone: make it again, begin again."""
        metrics.retried.labels("index").inc()
        self._all_back()
        await asyncio.sleep(limits.RETRY_FIRST_S)
        try:
            await ensure(self._shell.nc, subjects.EMBED, self._shell.common)
        except Retryable as error:
            self._shell.health.failed(error)

    async def _fill(self) -> None:
        """One job of each tenant in turn, until enough is out or nothing more is pending.

        A tenant with nothing out may ask at once, whatever others have out.
        """
        known = set(self._turn)
        self._turn.extend(name for name in tuple(self._pieces.pending) if name not in known)
        idle = 0
        while idle < len(self._turn):
            tenant = self._turn.popleft()
            if tenant not in self._pieces.pending:
                self._next.pop(tenant, None)
                continue
            self._turn.append(tenant)
            full = len(self._out) >= limits.JOBS_TEXTS_OUT and tenant in self._out_of
            texts = [] if full else self._next_texts(tenant)
            idle = 0 if texts else idle + 1
            if texts:
                await self._ask(tenant, texts)
            elif tenant not in self._out_of:
                self._next.pop(tenant, None)  # pending, not out, and not behind where we were: from the beginning

    def _next_texts(self, tenant: str) -> list[EmbedText]:
        """The next texts of a tenant that are not out, from where the last job ended."""
        texts: dict[bytes, EmbedText] = {}
        size = 0
        start = max(self._next.get(tenant, b""), self._pieces.start(tenant))
        for looked_at, (place, _, digest) in enumerate(self._rows.pending(tenant, start)):
            if len(texts) >= limits.JOB_TEXTS or size > limits.JOB_BYTES_MAX or looked_at >= _LOOKED_AT_MAX:
                break
            self._next[tenant] = place + b"\0"  # behind this place
            if digest in texts or (tenant, digest) in self._out:
                continue
            text = self._text(tenant, place, digest)
            if text is not None:
                texts[digest] = EmbedText(digest, text)
                size += len(text)
        return list(texts.values())

    def _text(self, tenant: str, place: bytes, digest: bytes) -> str | None:
        """The text of a passage; None if its document was erased just now, or is split otherwise than it was."""
        doc = self._rows.doc(tenant, int.from_bytes(place[:8]))
        pieces = self._pieces.texts(doc) if doc is not None else []
        text = pieces[place[8]] if place[8] < len(pieces) else None
        return text if text is not None and text_hash(text) == digest else None

    async def _ask(self, tenant: str, texts: list[EmbedText]) -> None:
        deadline = self._shell.clock.monotonic() + limits.JOB_DEADLINE_S
        self._jobs += 1
        for text in texts:
            self._out[(tenant, text.key)] = (deadline, self._jobs)
        self._out_of[tenant] += len(texts)
        reply = subjects.service("index", subjects.partition_of(tenant), "vectors")
        job = EmbedJob(tenant, reply, texts)
        await self._shell.nc.jetstream().publish(subjects.embed_job("index"), _encode(job), timeout=5)
        metrics.emitted.labels("index").inc()
