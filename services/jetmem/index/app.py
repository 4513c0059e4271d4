"""Build and wire index."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.nats_streams import ensure
from jetmem.adapters.nats_wire import RecordWire
from jetmem.adapters.rocks import Rocks
from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.adapters.tokens import open_splitter
from jetmem.index.asker import Asker
from jetmem.index.finder import Finder
from jetmem.index.handler import Indexer
from jetmem.index.ports import Splitter
from jetmem.index.rows import FAMILIES, FORMAT, Rows
from jetmem.index.settings import IndexSettings
from jetmem.index.shelf import Shelf
from jetmem.index.tenants import Tenants
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.projection import Projection
from jetmem.runtime.settings import Common
from jetmem.runtime.store import Store
from jetmem_schemas import subjects
from jetmem_schemas.internal import (
    AppliedReply,
    AppliedRequest,
    Entry,
    FindReply,
    FindRequest,
    Head,
    StageStatus,
    Stored,
    VectorsReady,
)

T = TypeVar("T")
#: Rows linked before the graph's lock is let go: some 10 ms, what a search would wait.
_LINK_ROWS: Final = 32
#: … and rows of one tenant are linked for so long before another's turn; ending waits for it.
_LINK_S: Final = 0.2
#: A lock is not fair: without a pause a search that waits for the graph would hardly ever get it.
_LINK_PAUSE_S: Final = 0.0005
#: Entries applied before commits and vectors get their turn: some 0.1 s.
_APPLY_ENTRIES: Final = 1_000
#: Linking yields to everything else.
_LINK_NICE: Final = 10
#: Purging waits this long after a forget, so that several share one rewriting.
_PURGE_DELAY_S: Final = 5.0


def build(
    common: Common,
    settings: IndexSettings,
    *,
    store: Store | None = None,
    splitter: Splitter | None = None,
    clock: Clock | None = None,
    broker: Any = None,
) -> Shell:
    """Build the process; nothing is connected before `run`, the stores are opened at once.

    Raises:
        Broken: A store is in use, damaged or of a newer format.
    """
    folder = Path(common.data) / "index"
    _rebuild_if_asked(folder)
    shell = Shell("index", common, clock=clock, broker=broker)
    held = store or Rocks(folder / "rows", FAMILIES, format_version=FORMAT)
    Index(shell, settings, held, folder, splitter or open_splitter(settings.model)).wire()
    return shell


def _rebuild_if_asked(folder: Path) -> None:
    """`jetmem rebuild index`: an empty store is filled by `scan`, like any other that is behind."""
    old = folder.with_name(folder.name + ".old")
    if (folder / "rebuild").exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)  # all at once: a half removed store is damaged
    shutil.rmtree(old, ignore_errors=True)


class Index:
    """The running stage: one projection loop, one writer thread, a pool for questions, a thread that links graphs."""

    def __init__(self, shell: Shell, settings: IndexSettings, store: Store, folder: Path, splitter: Splitter) -> None:
        self.shell = shell
        self.settings = settings
        self.folder = folder
        self.rows = Rows(store)
        parts = shell.partitions(subjects.PARTITIONS)
        self.text = TextIndexes(folder / "text", parts, settings.heap_bytes)
        self.tenants = Tenants(self.rows, settings, folder / "graphs")
        self.indexer = Indexer(self.rows, self.text, self.tenants, splitter, parts, shell.clock)
        self.finder = Finder(self.rows, self.text, self.tenants)
        self.asker = Asker(shell, self.rows, self.indexer.pieces)
        self.projection = Projection("index", parts, self, RecordWire(shell), shell.health)
        self.writer = ThreadPoolExecutor(1, "writer")
        self.readers = ThreadPoolExecutor(settings.read_threads, "reader")
        self.linker = ThreadPoolExecutor(1, "linker", initializer=_be_nice)
        self._covered: dict[int, tuple[Head, int]] = {}
        self._moved = asyncio.Event()

    def wire(self) -> None:
        """Add loops and endpoints to the shell."""
        shell = self.shell
        shell.on_start(self._prepare)
        shell.loop("projection", self.projection.run)
        shell.loop("commit", self._commit)
        shell.loop("asker", self.asker.run)
        shell.loop("graphs", self._link)
        shell.loop("purge", self._purge)
        shell.on_stop(self._close)
        table = {
            "find": Endpoint(FindRequest, self._find),
            "applied": Endpoint(AppliedRequest, self._applied),
            "vectors": Endpoint(VectorsReady, self._vectors),
            "status": Endpoint(dict[str, Any], self._status),
            "rebuild": Endpoint(dict[str, Any], self._rebuild),
        }
        if shell.common.shards == 1:
            shell.serve(subjects.service_all("index", "*"), table)
            return
        for part in shell.partitions(subjects.PARTITIONS):
            shell.serve(subjects.service_all("index", part), table)
        shell.serve(subjects.service_all("index", "all"), table)

    # --- what the projection loop asks of us (runtime.projection.Target)

    def position(self, part: int) -> Head:
        """Where reading resumes."""
        return self.indexer.position(part)

    async def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply on the writer thread, in slices, so that commits and vectors come between; commit by time or number."""
        for start in range(0, len(entries), _APPLY_ENTRIES):
            await self.in_writer(partial(self.indexer.apply, part, entries[start : start + _APPLY_ENTRIES]))
            self.asker.wake()
            if self.indexer.uncommitted[part] >= self.settings.commit_events:
                await self._commit_now(part)

    async def reset(self, part: int) -> None:
        """The log is another one."""
        self._covered.pop(part, None)
        await self.in_writer(partial(self.indexer.reset, part))

    def heard(self, part: int, head: Head, checkpoint: int) -> None:
        """Persist has nothing more for this partition up to MEMORY sequence `checkpoint`."""
        self._covered[part] = (head, checkpoint)

    # --- loops

    async def in_writer(self, work: Callable[[], T]) -> T:
        """Run on the one thread that writes."""
        return await asyncio.get_running_loop().run_in_executor(self.writer, work)

    async def _prepare(self) -> None:
        await ensure(self.shell.nc, subjects.EMBED, self.shell.common)

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_s)
            await self._commit_now()

    async def _commit_now(self, part: int | None = None) -> None:
        await self.in_writer(partial(self.indexer.commit, part))
        self._pulse()

    async def _link(self) -> None:
        """Link rows of large tenants into their graphs, a few at a time; write snapshots now and then."""
        loop = asyncio.get_running_loop()
        saved_at = self.shell.clock.monotonic()
        while True:
            busy = [shelf for _, shelf in self.tenants.shelves() if shelf.wants_graph()]
            for shelf in busy:
                await loop.run_in_executor(self.linker, _link_some, shelf)
            if self.shell.clock.monotonic() - saved_at > self.settings.snapshot_every_s:
                for name, shelf in self.tenants.shelves():
                    await loop.run_in_executor(self.linker, self.tenants.snapshot, name, shelf)
                saved_at = self.shell.clock.monotonic()
            await asyncio.sleep(0.001 if busy else 0.5)

    async def _purge(self) -> None:
        """Rewrite what holds erased words, between other work."""
        while True:
            await asyncio.sleep(_PURGE_DELAY_S)
            if not self.indexer.erased:
                continue
            while not await self.in_writer(self.indexer.purge_step):
                pass
            await asyncio.to_thread(self.rows.store.compact)
            await self.in_writer(self.indexer.purged)

    def _pulse(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    # --- endpoints

    async def _vectors(self, part: int, ready: VectorsReady) -> Stored:
        stored = await self.in_writer(lambda: self.indexer.store_vectors(ready))
        if stored is None:  # another model's while ours is in use: asked again after its deadline
            return Stored(0)
        self.asker.came(ready)
        self._pulse()
        return Stored(stored)

    async def _find(self, part: int, request: FindRequest) -> FindReply:
        started = self.shell.clock.monotonic()
        wanted = ["text", "vector"] if request.mode == "hybrid" else [request.mode]
        other = bool(self.rows.model()) and not self.finder.vectors_fit(request)
        awaited = [arm for arm in wanted if arm == "text" or not other]
        late = await self._wait(request.tenant, request.rseq, request.wait_ms, awaited)
        # before the first vector of all there is no model to fit; who has no text either misses nothing
        nothing = bool(request.vector) and not self.rows.model() and request.tenant not in self.indexer.pieces.pending
        missing = ["vector"] if "vector" in wanted and not (nothing or self.finder.vectors_fit(request)) else []
        hits = await asyncio.get_running_loop().run_in_executor(self.readers, self.finder.find, request)
        took_ms = (self.shell.clock.monotonic() - started) * 1000
        part = self._part(request.tenant)
        return FindReply(hits, self._text_head(part), self._vector_head(part, request.tenant), late, missing, took_ms)

    async def _applied(self, part: int, request: AppliedRequest) -> AppliedReply:
        late = await self._wait(request.tenant, request.rseq, request.wait_ms, ["text", "vector"], erased=True)
        part = self._part(request.tenant)
        return AppliedReply(self._text_head(part), self._vector_head(part, request.tenant), late)

    async def _wait(
        self, tenant: str, rseq: int, wait_ms: int, arms: Sequence[str], *, erased: bool = False
    ) -> list[str]:
        """Wait until each arm has applied an entry; returns those that have not.

        With `erased` the vector arm need only have passed the entry: what it erased is gone, what is pending is not it.
        """
        if not rseq:
            return []
        part = self._part(tenant)
        deadline = self.shell.clock.monotonic() + wait_ms / 1000
        while True:
            moved = self._moved
            passed = self.indexer.rows_at[part] if erased else self._vector_head(part, tenant)
            at = {"text": self.indexer.text_at[part].rseq, "vector": passed.rseq}
            late = [arm for arm in arms if at[arm] < rseq]
            left = deadline - self.shell.clock.monotonic()
            if not late or left <= 0:
                return late
            try:
                async with asyncio.timeout(min(left, 0.25)):
                    await moved.wait()
            except TimeoutError:
                continue

    def _part(self, tenant: str) -> int:
        """A tenant's partition.

        Raises:
            RequestFailed: `unavailable`; another shard owns it.
        """
        part = subjects.partition_of(tenant)
        if part not in self.indexer.rows_at:
            raise RequestFailed("unavailable", f"this process does not own partition {part}")
        return part

    def _text_head(self, part: int) -> Head:
        return self._to_checkpoint(part, self.indexer.text_at[part])

    def _vector_head(self, part: int, tenant: str) -> Head:
        """Up to where every event of this tenant with text has its vectors."""
        first = self.indexer.pieces.first_pending(tenant)
        if first is not None:
            return Head(first.rseq - 1, first.seq - 1)
        return self._to_checkpoint(part, self.indexer.rows_at[part])

    def _to_checkpoint(self, part: int, at: Head) -> Head:
        """At the end of the log, everything that persist has read of MEMORY is covered."""
        head, checkpoint = self._covered.get(part, (Head(), 0))
        return Head(at.rseq, max(at.seq, checkpoint)) if at.rseq >= head.rseq else at

    async def _status(self, part: int, request: dict[str, Any]) -> StageStatus:
        health = self.shell.health
        good, detail = health.verdict()
        counts: dict[str, int | float | str] = {"purging": len(self.indexer.erased), "model": self.rows.model()}
        counts["unlinked"] = sum(shelf.unlinked for _, shelf in self.tenants.shelves())
        tenant = str(request.get("tenant", ""))
        if tenant:
            at = self._part(tenant)
            counts["purging"] = int(tenant in self.indexer.erased)  # how many others have is not this one's business
            counts["pending_vectors"] = self.indexer.pieces.pending.get(tenant, 0)
            counts["text_seq"] = self._text_head(at).seq
            counts["vector_seq"] = self._vector_head(at, tenant).seq
        instance = f"index-{self.shell.common.shard}"
        return StageStatus("index", instance, good, detail, health.lag, health.last_error, counts)

    async def _rebuild(self, part: int, request: dict[str, Any]) -> dict[str, Any]:
        """Begin again from an empty store: mark it and end; whoever supervises starts us again."""
        (self.folder / "rebuild").touch()
        asyncio.get_running_loop().call_later(0.2, self.shell.app.exit)
        return {"rebuilding": True}

    def _close(self) -> None:
        self.writer.submit(self.indexer.commit).result()
        self.linker.shutdown(wait=True)
        for name, shelf in self.tenants.shelves():
            self.tenants.snapshot(name, shelf)
        self.writer.shutdown(wait=True)
        self.readers.shutdown(wait=True)
        self.text.close()
        self.rows.store.close()


def _link_some(shelf: Shelf) -> None:
    """Link for a while, `_LINK_ROWS` at a time.

    Asking the event loop after each would halve the rate, and more when it is busy; what is not linked is scanned by
    every search.
    """
    until = time.monotonic() + _LINK_S
    while shelf.wants_graph() and time.monotonic() < until:
        shelf.extend_graph(_LINK_ROWS)
        time.sleep(_LINK_PAUSE_S)


def _be_nice() -> None:
    os.nice(_LINK_NICE)  # of this thread alone, on Linux
