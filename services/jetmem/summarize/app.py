"""Build and wire summarize."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import nats.errors
import nats.js.errors

from jetmem.adapters.chat_endpoint import ChatEndpoint
from jetmem.adapters.density_clusters import grouped
from jetmem.adapters.layouts import Layout, own_folder
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.adapters.tantivy_text import analyze
from jetmem.adapters.tenant_settings import TenantWatch, Told
from jetmem.runtime.clock import Clock, SystemClock
from jetmem.runtime.errors import Retryable
from jetmem.runtime.settings import Common, SettingsError, secret
from jetmem.runtime.store import Store
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.index_vectors import IndexVectors
from jetmem.summarize.places import segments_of
from jetmem.summarize.ports import Chat, Group
from jetmem.summarize.publisher import Publisher
from jetmem.summarize.remaking import Remaking
from jetmem.summarize.rows import FAMILIES, FORMAT, Rows, prefix
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.teller import Teller
from jetmem.summarize.topic_answers import Answers
from jetmem.summarize.topic_loops import Placer, Topicker
from jetmem.summarize.vectors import Vectors
from jetmem_schemas import subjects
from jetmem_schemas.internal import Counts, Entry, Head
from jetmem_schemas.placing import SegmentsReply, SegmentsRequest
from jetmem_schemas.topics import TopicFound, TopicRequest, TopicsFound, TopicsRequest

ARM: Final = "toc"
#: Nodes are made for so long before other work of the writer gets its turn.
_MAKE_S: Final = 0.05
#: With nothing due it looks again after so long.
_LOOK_S: Final = 0.05
#: Sessions whose time has come are looked for this often; half an hour is not exact to the second.
_CLOSE_EVERY_S: Final = 5.0
#: Purging waits this long after a forget, so that several share one rewriting.
_PURGE_DELAY_S: Final = 5.0
_ACK_S: Final = 5.0
#: Rows that a status counts, at most: some 10 ms.
_COUNTED_MAX: Final = 10_000
LAYOUT: Final = Layout(stage="summarize", families=FAMILIES, format=FORMAT)


def build(
    common: Common,
    settings: SummarizeSettings,
    *,
    store: Store | None = None,
    endpoint: Chat | None = None,
    clock: Clock | None = None,
    broker: Any = None,
    group: Group = grouped,
) -> Shell:
    """Build the process; nothing is connected before `run`, the store is opened at once.

    Raises:
        Broken: The store is in use, damaged or of another format.
        SettingsError: An endpoint without a model, or whose key cannot be had.
    """
    endpoint = endpoint or _endpoint(settings, clock or SystemClock())
    folder = own_folder(Path(common.data), "summarize")
    shell = Shell("summarize", common, clock=clock, broker=broker)
    held = store or LAYOUT.open(Path(common.data))
    process = Summarize(shell, settings, held, endpoint, group)
    process.wire(ProjectionProcess(shell, process, folder, read_threads=settings.read_threads))
    return shell


def _endpoint(settings: SummarizeSettings, clock: Clock) -> Chat | None:
    if not settings.endpoint_url:
        return None
    if not settings.endpoint_model:
        raise SettingsError("summarize.endpoint_url is set, so summarize.endpoint_model must be")
    return ChatEndpoint(
        settings.endpoint_url,
        settings.endpoint_model,
        secret(settings.endpoint_key_file, settings.endpoint_key_variable),
        reply=settings.endpoint_reply,
        limit=settings.endpoint_limit,
        timeout_s=settings.endpoint_timeout_s,
        clock=clock,
    )


class Summarize:
    """The running stage: a projection's process, and loops that make, publish, close and purge."""

    def __init__(
        self, shell: Shell, settings: SummarizeSettings, store: Store, endpoint: Chat | None, group: Group
    ) -> None:
        self.endpoint = endpoint
        self.shell = shell
        self.settings = settings
        self._group = group
        parts = shell.partitions(subjects.PARTITIONS)
        timezone = shell.common.timezone
        self.summarizer = Summarizer(Rows(store), settings, parts, analyze, shell.clock, timezone=timezone)

    def wire(self, process: ProjectionProcess) -> None:
        """Add loops and endpoints to the shell."""
        self.process = process
        publisher = Publisher(self.shell, self.summarizer, process.in_writer, self._publish)
        TenantWatch(self.shell, known=self.summarizer.tenants.values(), told=self._told).wire()
        self.shell.loop("nodes", self._make)
        self.shell.loop("publish", publisher.run)
        self.shell.loop("close", self._close)
        self.shell.loop("purge", self._purge)
        self._wire_better(process)
        self._wire_topics(process)
        own = {
            "segments_of": Endpoint(SegmentsRequest, self._segments_of),
            "topics": Endpoint(TopicsRequest, self._topics),
            "topic": Endpoint(TopicRequest, self._topic),
        }
        process.wire({**own, **Remaking(process, self.summarizer).endpoints()})

    def _wire_better(self, process: ProjectionProcess) -> None:
        """What makes nodes better than words at once can."""
        it = self.summarizer
        work = (process.in_reader, process.in_writer)
        rest_s, paused = self.settings.vectors_rest_s, it.tenants.paused
        vectors = Vectors(it.rows, it.maker, *work, IndexVectors(self.shell), self.shell.clock, rest_s, paused)
        self.shell.loop("vectors", vectors.run)
        if self.endpoint is not None:
            self.shell.loop("teller", Teller(self.shell, it, self.settings, self.endpoint, *work).run)
            self.shell.on_stop(self.endpoint.close)

    def _wire_topics(self, process: ProjectionProcess) -> None:
        topics = self.summarizer.topics
        self.placer = Placer(self.shell, topics, IndexVectors(self.shell), process.in_writer, process.in_background)
        every_s = self.settings.topics_every_s
        topicker = Topicker(self.shell, topics, self._group, process.in_writer, process.in_background, every_s)
        self.answers = Answers(topics.rows, self.shell.clock)
        self.shell.loop("place", self.placer.run)
        self.shell.loop("topics", topicker.make)
        self.shell.loop("group", topicker.group)

    # --- what the process asks of us (adapters.projection_process.Projected)

    def position(self, part: int) -> Head:
        """Where reading resumes."""
        return self.summarizer.at[part]

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        """Apply; nodes are made by a loop of their own."""
        self.summarizer.apply(part, entries)

    def reset(self, part: int) -> None:
        """The log is another one."""
        self.summarizer.reset(part)

    def heads(self, part: int, tenant: str) -> dict[str, Head]:
        """Up to where every node of this tenant is recorded."""
        return {ARM: self.summarizer.waiting.since(tenant) or self.summarizer.at[part]}

    def passed(self, part: int) -> dict[str, Head]:
        """Up to where segments are cut."""
        return {ARM: self.summarizer.at[part]}

    def counts(self, tenant: str) -> Counts:
        """What waits to be purged, made or recorded."""
        erased = self.summarizer.erased
        purging = int(tenant in erased) if tenant else len(erased)
        waiting = self.summarizer.waiting
        counts: Counts = {"purging": purging, "pending_nodes": waiting.count(tenant)}
        counts["pending_topics"] = self.summarizer.topics.count(tenant)
        counts["topics"] = "stand still: index cannot be asked" if self.placer.still else "ok"
        if tenant:
            counts["remaking"] = waiting.asked(tenant) + int(self.summarizer.sweeps.running(tenant))
            counts["remake_asked"] = self.summarizer.sweeps.asked[tenant]
            counts["paused"] = int(self.summarizer.tenants.paused(tenant))
            lacking = self.summarizer.rows.store.scan("lacking", prefix(tenant))
            counts["without_vectors"] = sum(1 for _ in islice(lacking, _COUNTED_MAX))
        return counts

    def close(self) -> None:
        """Close the store."""
        self.summarizer.rows.store.close()

    # --- questions

    async def _segments_of(self, part: int, request: SegmentsRequest) -> SegmentsReply:
        zone = self.summarizer.maker.zone
        find = partial(segments_of, self.summarizer.rows, zone, request.tenant, request.rseqs)
        return SegmentsReply(await self.process.in_reader(find))

    async def _topics(self, part: int, request: TopicsRequest) -> TopicsFound:
        at, still = self._topics_at(request.tenant)
        return await self.process.in_reader(partial(self.answers.topics, request, at, still))

    async def _topic(self, part: int, request: TopicRequest) -> TopicFound:
        at, still = self._topics_at(request.tenant)
        return await self.process.in_reader(partial(self.answers.topic, request, at, still))

    def _topics_at(self, tenant: str) -> tuple[Head, bool]:
        """Up to where topics are, and whether they stand still there. Before the rows: what comes meanwhile is more."""
        topics = self.summarizer.topics
        at = topics.at(tenant, self.process.at(tenant)[ARM])
        return at, self.placer.still and topics.count(tenant) > 0

    # --- loops

    async def _told(self, news: Sequence[Told]) -> None:
        await self.process.in_writer(partial(self.summarizer.told, news))

    async def _make(self) -> None:
        while True:
            more = await self.process.in_writer(partial(self.summarizer.some, _MAKE_S))
            if not more:
                self.process.pulse()
                await asyncio.sleep(_LOOK_S)

    async def _publish(self, subject: str, body: bytes) -> int:
        try:
            ack = await self.shell.nc.jetstream().publish(subject, body, timeout=_ACK_S)
        except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
            raise Retryable(f"a node was not acknowledged: {error or type(error).__name__}") from error
        return ack.seq

    async def _close(self) -> None:
        while True:
            now_ms = self.shell.clock.now_ms()
            due = await self.process.in_reader(partial(self.summarizer.due, now_ms))
            if due:
                await self.process.in_writer(partial(self.summarizer.close, due, now_ms))
            await asyncio.sleep(_CLOSE_EVERY_S)

    async def _purge(self) -> None:
        """Rewrite what holds erased words, once no row holds them any more."""
        while True:
            await asyncio.sleep(_PURGE_DELAY_S)
            done = await self.process.in_writer(self.summarizer.purgeable)
            if done:
                await asyncio.to_thread(self.summarizer.rows.store.compact)
                await self.process.in_writer(partial(self.summarizer.purged, done))
