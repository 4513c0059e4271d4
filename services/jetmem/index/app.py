"""Build and wire index."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from jetmem.adapters.embed_asker import Asker
from jetmem.adapters.layouts import Layout, own_folder
from jetmem.adapters.memory import give_back_freed
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.adapters.tenant_settings import TenantWatch, Told
from jetmem.adapters.tokens import open_splitter
from jetmem.index.finder import Finder
from jetmem.index.handler import Indexer
from jetmem.index.lacking import Lacking
from jetmem.index.ports import Splitter
from jetmem.index.retention import Rehearsal
from jetmem.index.rows import FAMILIES, FORMAT, Rows, nodes_of
from jetmem.index.settings import IndexSettings
from jetmem.index.shelf import Shelf
from jetmem.index.tenants import Tenants
from jetmem.runtime import limits, metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.scraping import at_scrape
from jetmem.runtime.settings import Common
from jetmem.runtime.store import Store
from jetmem_schemas.internal import (
    Counts,
    Entry,
    EntryVectorsReply,
    EntryVectorsRequest,
    FindReply,
    FindRequest,
    Found,
    Head,
)
from jetmem_schemas.retention import RetentionReply, RetentionRequest

#: Rows linked before the graph's lock is let go: some 10 ms, what a search would wait.
_LINK_ROWS: Final = 32
#: … and rows of one tenant are linked for so long before another's turn; ending waits for it.
_LINK_S: Final = 0.2
#: … and so long it rests while texts wait for embed, which has more use for the processor: what is not linked is
#: scanned, what has no vector is not found. A priority does not do it: between processes Linux may weigh sessions only.
_LINK_REST_S: Final = 0.8
#: A lock is not fair: without a pause a search that waits for the graph would hardly ever get it.
_LINK_PAUSE_S: Final = 0.0005
#: Linking yields to everything else.
_LINK_NICE: Final = 10
#: Purging waits this long after a forget, so that several share one rewriting.
_PURGE_DELAY_S: Final = 5.0
#: Nodes whose time is over are looked for this often; days are not exact to the second.
_SWEEP_EVERY_S: Final = 3_600.0
#: The buffers of commits: giving them back at once would cost more than the commits.
_GIVE_BACK_S: Final = 30.0
LAYOUT: Final = Layout(stage="index", families=FAMILIES, format=FORMAT)


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
        Broken: A store is in use, damaged or of another format.
    """
    folder = own_folder(Path(common.data), "index")
    shell = Shell("index", common, clock=clock, broker=broker)
    held = store or LAYOUT.open(Path(common.data))
    Index(shell, settings, held, folder, splitter or open_splitter(settings.model)).wire()
    return shell


class Index:
    """The running stage: a projection's process, and a thread that links graphs."""

    def __init__(self, shell: Shell, settings: IndexSettings, store: Store, folder: Path, splitter: Splitter) -> None:
        self.shell = shell
        self.settings = settings
        self.process = ProjectionProcess(shell, self, folder, read_threads=settings.read_threads)
        self.rows = Rows(store)
        parts = self.process.parts
        self.text = TextIndexes(folder / "text", parts, settings.heap_bytes)
        self.tenants = Tenants(self.rows, settings, folder / "graphs")
        self.indexer = Indexer(self.rows, self.text, self.tenants, splitter, parts, shell.clock)
        self.finder = Finder(self.rows, self.text, self.tenants)
        self.asker = Asker(self.process, Lacking(self.indexer))
        self._retention_set = asyncio.Event()
        self.linker = ThreadPoolExecutor(1, "linker", initializer=_be_nice)

    def wire(self) -> None:
        """Add loops and endpoints to the shell."""
        self.shell.loop("commit", self._commit)
        self.shell.loop("graphs", self._link)
        self.shell.loop("memory", self._give_back)
        self.shell.loop("purge", self._purge)
        self.shell.loop("retention", self._retire)
        TenantWatch(self.shell, told=self._told).wire()
        at_scrape(self)
        own = {
            "find": Endpoint(FindRequest, self._find),
            "entry_vectors": Endpoint(EntryVectorsRequest, self._entry_vectors),
            "retention": Endpoint(RetentionRequest, self._retention),
        }
        self.process.wire(own | self.asker.wire())

    # --- what the process asks of us (adapters.projection_process.Projected)

    def position(self, part: int) -> Head:
        """Where reading resumes."""
        return self.indexer.position(part)

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply; commit here if many wait, else in time."""
        self.indexer.apply(part, entries)
        if self.indexer.uncommitted[part] >= self.settings.commit_events:
            self.indexer.commit(part)

    def reset(self, part: int) -> None:
        """The log is another one."""
        self.indexer.reset(part)

    def heads(self, part: int, tenant: str) -> dict[str, Head]:
        """Words up to the last commit; vectors up to where every event of this tenant with text has its own."""
        if self.indexer.remodelling:
            return {"text": self.indexer.text_at[part], "vector": Head()}
        at = self.indexer.rows_at[part]  # before what is pending: the writer moves them the other way round
        first = self.indexer.pieces.first_pending(tenant)
        vector = at if first is None else min(at, Head(first.rseq - 1, first.seq - 1), key=lambda head: head.rseq)
        return {"text": self.indexer.text_at[part], "vector": vector}

    def passed(self, part: int) -> dict[str, Head]:
        """Words and rows each to their own checkpoint."""
        return {"text": self.indexer.text_at[part], "vector": self.indexer.rows_at[part]}

    def counts(self, tenant: str) -> Counts:
        """What waits to be purged, embedded or linked."""
        purging = len(self.indexer.erased)
        unlinked = sum(shelf.unlinked for _, shelf in self.tenants.shelves())
        counts: Counts = {"purging": purging, "model": self.rows.model(), "unlinked": unlinked}
        if tenant:
            counts["purging"] = int(tenant in self.indexer.erased)  # how many others have is not this one's business
            counts["pending_vectors"] = self.indexer.pieces.lacking(tenant)
            counts["nodes_out"] = self.rows.tenant(nodes_of(tenant)).out
        return counts

    def observe(self) -> None:
        """Rows of vectors in memory, by what their graphs make of them."""
        shelves = [shelf for _, shelf in self.tenants.shelves()]
        graphs = [shelf.graph for shelf in shelves if shelf.graph is not None]
        metrics.graph_rows.labels("linked").set(sum(graph.linked for graph in graphs))
        metrics.graph_rows.labels("removed").set(sum(graph.deleted for graph in graphs))
        metrics.graph_rows.labels("unlinked").set(sum(shelf.unlinked for shelf in shelves))

    def close(self) -> None:
        """Commit, write snapshots, close."""
        self.indexer.commit()
        self.linker.shutdown(wait=True)
        for name, shelf in self.tenants.shelves():
            self.tenants.snapshot(name, shelf)
        self.text.close()
        self.rows.store.close()

    # --- loops

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_s)
            begun = await self.process.in_writer(self.indexer.begin_commit)
            await asyncio.gather(*(self._committed(part, commit) for part, commit in begun.items()))

    async def _committed(self, part: int, commit: Future[None]) -> None:
        """Each partition counts as soon as it is done; the writer works on meanwhile.

        Ending this loop must not take back a commit that waits for a thread: `close` ends what is begun.
        """
        await asyncio.shield(asyncio.wrap_future(commit))
        await self.process.in_writer(partial(self.indexer.end_commit, part))
        self.process.pulse()

    async def _give_back(self) -> None:
        while True:
            await asyncio.sleep(_GIVE_BACK_S)
            await asyncio.to_thread(give_back_freed)

    async def _link(self) -> None:
        """Link rows of large tenants into their graphs, a few at a time; write snapshots now and then."""
        loop = asyncio.get_running_loop()
        saved_at = self.shell.clock.monotonic()
        while True:
            busy = [shelf for _, shelf in self.tenants.shelves() if shelf.wants_graph()]
            for shelf in busy:
                await loop.run_in_executor(self.linker, _link_some, shelf)
                if self.indexer.pieces.pending:
                    await asyncio.sleep(_LINK_REST_S)
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
            while not await self.process.in_writer(self.indexer.purge_step):
                pass
            await asyncio.to_thread(self.rows.store.compact)
            await self.process.in_writer(self.indexer.purged)

    async def _told(self, news: Sequence[Told]) -> None:
        retentions = {one.tenant: one.settings.retention for one in news}
        if await self.process.in_writer(partial(self.indexer.limits.put, retentions)):
            self._retention_set.set()

    async def _retire(self) -> None:
        """Have nodes leave and come back: on start, now and then, and when another retention is set."""
        sweep = self.indexer.sweep
        while True:
            self._retention_set.clear()
            due = await self.process.in_reader(partial(sweep.due, self.process.parts))
            await self.process.in_writer(partial(sweep.begin, due))
            while not self._retention_set.is_set() and (turned := await self.process.in_writer(sweep.step)) is not None:
                if turned:
                    self.process.pulse()
                    await asyncio.sleep(
                        self.settings.commit_s
                    )  # a commit does the words of one turn or two, not of all
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_EVERY_S):
                    await self._retention_set.wait()

    # --- questions

    async def _find(self, part: int, request: FindRequest) -> FindReply:
        started = self.shell.clock.monotonic()
        wanted: list[str] = ["text", "vector"] if request.mode == "hybrid" else [request.mode]
        awaited = wanted if request.target != "nodes" else [arm for arm in wanted if arm == "text"]
        if request.rseq and "vector" in wanted and await self.process.in_reader(partial(self._of_another, request)):
            awaited = [arm for arm in awaited if arm != "vector"]
        late = await self.process.wait(request.tenant, request.rseq, request.wait_ms, awaited)
        if self.process.catching_up(request.tenant):
            late = wanted  # no answer is whole now, whatever was waited for
        missing, hits = await self.process.in_reader(partial(self._answer, request, wanted))
        took_ms = (self.shell.clock.monotonic() - started) * 1000
        at = self.process.at(request.tenant)
        vector = self._vector_at(part, request, at["vector"])
        if request.target != "events" and vector.rseq < request.rseq and "vector" in wanted:
            late = list(dict.fromkeys([*late, "vector"]))
        return FindReply(hits, at["text"], vector, late, missing, took_ms)

    def _vector_at(self, part: int, request: FindRequest, events: Head) -> Head:
        """Up to where what is asked for has its vectors. Nodes' are not waited for: they come when those are closed."""
        if request.target == "events":
            return events
        nodes = self.heads(part, nodes_of(request.tenant))["vector"]
        return nodes if request.target == "nodes" else min(events, nodes, key=lambda head: head.rseq)

    def _of_another(self, request: FindRequest) -> bool:
        """Whether the question's vector is of another model than ours, or lacks: no wait makes it fit."""
        return bool(self.rows.model()) and not self.finder.vectors_fit(request)

    def _answer(self, request: FindRequest, wanted: Sequence[str]) -> tuple[list[str], list[Found]]:
        """Arms that have no part in the answer, and the answer."""
        # before the first vector of all there is no model to fit; who has no text either misses nothing
        nothing = bool(request.vector) and not self.rows.model() and not self.indexer.pieces.lacking(request.tenant)
        missing = ["vector"] if "vector" in wanted and not (nothing or self.finder.vectors_fit(request)) else []
        return missing, self.finder.find(request)

    async def _retention(self, part: int, request: RetentionRequest) -> RetentionReply:
        self.process.part_of(request.tenant)
        rehearsal = Rehearsal(self.rows, request.tenant, request.retention, self.shell.clock.now_ms())
        while await self.process.in_reader(rehearsal.some):
            continue
        return RetentionReply(rehearsal.levels)

    async def _entry_vectors(self, part: int, request: EntryVectorsRequest) -> EntryVectorsReply:
        at = self.process.at(request.tenant)["vector"]  # before the vectors: what comes meanwhile is one more
        model = self.rows.model()
        rseqs = request.rseqs[: limits.VECTORS_AT_ONCE]
        vectors = await self.process.in_reader(partial(self.finder.vectors_of, request.tenant, rseqs))
        if self.indexer.remodelling or self.rows.model() != model:
            return EntryVectorsReply("", [b""] * len(rseqs), Head())  # not now
        return EntryVectorsReply(model, vectors, at)


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
