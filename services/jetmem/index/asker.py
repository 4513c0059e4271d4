"""Asks embed for what lacks vectors: seconds of work at a time, tenants in turn, again after a deadline."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
import nats.errors
import nats.js.errors

from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import ensure
from jetmem.index.pieces import Pieces
from jetmem.index.rows import Rows
from jetmem.runtime import limits, metrics
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects
from jetmem_schemas.internal import EmbedJob, EmbedText, VectorsReady

_encode = msgspec.msgpack.Encoder().encode


class Asker:
    """Keeps a bounded number of texts in EMBED. What was lost there is asked for again."""

    def __init__(self, shell: Shell, rows: Rows, pieces: Pieces) -> None:
        self._shell = shell
        self._rows = rows
        self._pieces = pieces
        self._out: dict[tuple[str, bytes], float] = {}
        self._turn: deque[str] = deque()
        self._wake = asyncio.Event()
        self._reconnects = 0

    def wake(self) -> None:
        """Something is pending, or something came."""
        self._wake.set()

    def came(self, ready: VectorsReady) -> None:
        """These texts are no longer out."""
        for vector in ready.vectors:
            self._out.pop((ready.tenant, vector.key), None)
        self.wake()

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), 1.0)
            except TimeoutError:
                self._expire()
            self._wake.clear()
            try:
                await self._fill()
            except (nats.js.errors.Error, nats.errors.Error, Retryable, TimeoutError, OSError) as error:
                self._shell.health.failed(error)
                await self._lost()

    def _expire(self) -> None:
        now = self._shell.clock.monotonic()
        reconnects = self._shell.nc.stats["reconnects"]
        if reconnects != self._reconnects:  # EMBED is gone after a broker restart
            self._reconnects = reconnects
            self._out.clear()
        for key in [k for k, deadline in self._out.items() if deadline < now]:
            del self._out[key]

    async def _lost(self) -> None:
        """The broker refused or EMBED is gone: make it again, begin again."""
        metrics.retried.labels("index").inc()
        self._out.clear()
        await asyncio.sleep(limits.RETRY_FIRST_S)
        try:
            await ensure(self._shell.nc, subjects.EMBED, self._shell.common)
        except Retryable as error:
            self._shell.health.failed(error)

    async def _fill(self) -> None:
        """One job of each tenant in turn, until enough is out or nothing more is pending."""
        idle = 0
        while len(self._out) < limits.JOBS_TEXTS_OUT:
            known = set(self._turn)
            self._turn.extend(name for name in self._pieces.pending if name not in known)
            if idle >= len(self._turn):
                return
            tenant = self._turn.popleft()
            if tenant in self._pieces.pending:
                self._turn.append(tenant)
            texts = self._next_texts(tenant)
            if not texts:
                idle += 1
                continue
            idle = 0
            await self._ask(tenant, texts)

    def _next_texts(self, tenant: str) -> list[EmbedText]:
        texts: list[EmbedText] = []
        chosen: set[bytes] = set()
        size = 0
        for _, rseq, piece, digest in self._rows.pending(tenant, b""):
            if digest in chosen or (tenant, digest) in self._out:
                continue
            doc = self._rows.doc(tenant, rseq)
            pieces = self._pieces.texts(doc) if doc is not None else []
            if piece >= len(pieces):
                continue
            chosen.add(digest)
            texts.append(EmbedText(digest, pieces[piece]))
            size += len(pieces[piece])
            if len(texts) >= limits.JOB_TEXTS or size > limits.JOB_BYTES_MAX:
                break
        return texts

    async def _ask(self, tenant: str, texts: list[EmbedText]) -> None:
        deadline = self._shell.clock.monotonic() + limits.JOB_DEADLINE_S
        for text in texts:
            self._out[(tenant, text.key)] = deadline
        reply = subjects.service("index", subjects.partition_of(tenant), "vectors")
        job = EmbedJob(tenant, reply, texts)
        await self._shell.nc.jetstream().publish(subjects.embed_job("index"), _encode(job), timeout=5)
        metrics.emitted.labels("index").inc()
