"""persist and index in this process over a real broker, and a fake embed that can be held back."""

import asyncio
import contextlib
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.js.api import ConsumerConfig

from harness.broker import Broker
from harness.waiting import DEADLINE_S, until_async
from jetmem import flow
from jetmem.index.settings import IndexSettings
from jetmem.runtime.settings import Common
from jetmem.tasks import end
from jetmem.testing.encoder import FakeEncoder, FakeSplitter
from jetmem_schemas import subjects
from jetmem_schemas.internal import (
    AppliedReply,
    AppliedRequest,
    CoverReply,
    CoverRequest,
    EmbedJob,
    FindReply,
    FindRequest,
    StageStatus,
    Stored,
    Vector,
    VectorsReady,
    encode,
)

MODEL = "fake@00000000"
#: An answer that a busy machine takes its time for. Who is away is known at once, whose answer died with it is not.
ANSWER_S = 20.0
#: So long a stage waits for what it is asked to wait for.
WAIT_MS = 60_000


class FakeEmbed:
    """Answers jobs of a stage in the order they came; waits while `open` is not set.

    A tenant in `hold_after` closes it once its job is done.
    """

    def __init__(self, nc: Any, stage: str = "index") -> None:
        self.nc = nc
        self.stage = stage
        self.encoder = FakeEncoder()
        self.open = asyncio.Event()
        self.open.set()
        self.order: list[str] = []
        self.texts: list[str] = []
        self.hold_after = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _run(self) -> None:
        await until_async(self._pulled, "jobs end, which they never do", deadline_s=math.inf)

    async def _pulled(self) -> bool:
        """False when stream, index or broker are away: to be tried again."""
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError):
            await self._pull()
        return False

    async def _pull(self) -> None:
        js = self.nc.jetstream()
        config = ConsumerConfig(ack_wait=300)  # what is held back is not to be done twice
        subject = subjects.embed_job(self.stage)
        sub = await js.pull_subscribe(subject, durable=f"embed-{self.stage}", stream=subjects.EMBED, config=config)
        while True:
            await self.open.wait()
            try:
                msgs = await sub.fetch(1, timeout=1)
            except nats.errors.TimeoutError:
                continue  # with this subscription: what is on its way would be lost to another until the ack wait ends
            for msg in msgs:
                await self.open.wait()
                try:
                    await self._done(msg)
                except nats.errors.Error:
                    await msg.nak(delay=0.2)
                    raise

    async def _done(self, msg: Any) -> None:
        job = msgspec.msgpack.decode(msg.data, type=EmbedJob)
        made = self.encoder.encode([each.text for each in job.texts])
        vectors = [Vector(each.key, made[n].tobytes()) for n, each in enumerate(job.texts)]
        ready = VectorsReady(job.tenant, MODEL, vectors)
        reply = await self.nc.request(job.reply, encode(ready), timeout=ANSWER_S)
        msgspec.msgpack.decode(reply.data, type=Stored)
        await msg.ack()
        self.order.append(job.tenant)
        self.texts += [each.text for each in job.texts]
        if job.tenant == self.hold_after:
            self.open.clear()


class Pipeline:
    """`async with pipeline() as line`. Each stage can be stopped and started; `data` stays."""

    def __init__(self, broker: Broker, data: Path, nc: Any, index: IndexSettings) -> None:
        self.broker = broker
        self.data = data
        self.nc = nc
        self.embed = FakeEmbed(nc)
        self.settings: dict[str, Any] = {"index": index}
        self.fakes: dict[str, dict[str, Any]] = {"index": {"splitter": FakeSplitter()}}
        self.common: dict[str, dict[str, Any]] = {}
        self.shells: dict[str, Any] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, *stages: str) -> None:
        shared = Common(server=self.broker.url, data=str(self.data))
        for stage in stages:
            common = msgspec.structs.replace(shared, **self.common.get(stage, {}))
            settings = self.settings.get(stage) or flow.sections()[stage]()
            shell = flow.build(stage, {"": common, stage: settings}, **self.fakes.get(stage, {}))
            self.shells[stage] = shell
            self._tasks[stage] = asyncio.create_task(shell.run())

            async def ready(stage: str = stage) -> bool:
                if self._tasks[stage].done():
                    self._tasks[stage].result()
                return bool(self.shells[stage].health.ready)

            await until_async(ready, f"{stage} is ready")

    async def stop(self, *stages: str) -> None:
        for stage in stages:
            self.shells.pop(stage).app.exit()
            await self._tasks.pop(stage)

    async def ended(self, stage: str) -> None:
        """Wait for a stage that ends by itself."""
        self.shells.pop(stage)
        await asyncio.wait_for(self._tasks.pop(stage), DEADLINE_S)

    async def close(self) -> None:
        await self.embed.stop()
        for stage in list(self.shells):
            self.shells.pop(stage).app.exit()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def say(self, text: str, *, tenant="acme", session="s1", **fields: Any) -> int:
        body = msgspec.json.encode({"text": text, **fields})
        ack = await self.nc.jetstream().publish(
            subjects.memory(tenant, "event", "alice", session), body, timeout=ANSWER_S
        )
        return int(ack.seq)

    async def say_many(self, texts: list[str], **where: Any) -> int:
        return max(await asyncio.gather(*(self.say(text, **where) for text in texts)))

    async def forget(self, tenant="acme", **what: Any) -> int:
        subject = subjects.memory(tenant, "forget", "_", "_")
        ack = await self.nc.jetstream().publish(subject, msgspec.json.encode(what), timeout=ANSWER_S)
        return int(ack.seq)

    async def ask(self, stage: str, verb: str, request: Any, kind: Any, *, tenant="acme") -> Any:
        subject = subjects.service(stage, subjects.partition_of(tenant), verb)
        waits_s = getattr(request, "wait_ms", 0) / 1000
        reply = await self.nc.request(subject, encode(request), timeout=ANSWER_S + waits_s)
        assert not (reply.headers or {}).get("Nats-Service-Error-Code"), reply.data
        return msgspec.msgpack.decode(reply.data, type=kind)

    async def query(self, verb: str, *, tenant="acme", **request: Any) -> dict[str, Any]:
        """One question as agents ask it."""
        reply = await self.nc.request(subjects.query(tenant, verb), msgspec.json.encode(request), timeout=2 * ANSWER_S)
        assert not (reply.headers or {}).get("Nats-Service-Error-Code"), reply.data
        return dict(msgspec.json.decode(reply.data))

    async def find(
        self, query: str, *, tenant="acme", mode="text", rseq=0, wait_ms=0, limit=100, target="events"
    ) -> FindReply:
        vector = b"" if mode == "text" else bytes(self.embed.encoder.encode([query])[0].tobytes())
        request = FindRequest(tenant, query, mode, limit, vector, MODEL, rseq=rseq, wait_ms=wait_ms, target=target)
        return await self.ask("index", "find", request, FindReply, tenant=tenant)

    async def ids(self, query: str, **how: Any) -> list[str]:
        """Ids found; empty while index cannot be asked."""
        try:
            return sorted(hit.id for hit in (await self.find(query, **how)).hits)
        except nats.errors.Error:
            return []

    async def finds(self, query: str, ids: list[str], **how: Any) -> None:
        last: list[str] = []

        async def same() -> bool:
            nonlocal last
            last = await self.ids(query, **how)
            return last == sorted(ids)

        try:
            await until_async(same, f"{query} is found")
        except AssertionError as error:
            raise AssertionError(f"{query}: found {last[:20]}, not {ids[:20]}") from error

    async def covered(self, seq: int, *, tenant="acme") -> int:
        reply = await self.ask("persist", "cover", CoverRequest(seq, WAIT_MS), CoverReply, tenant=tenant)
        assert reply.covered
        return int(reply.rseq)

    async def applied(self, seq: int, *, tenant="acme") -> AppliedReply:
        request = AppliedRequest(tenant, await self.covered(seq, tenant=tenant), WAIT_MS)
        reply = await self.ask("index", "applied", request, AppliedReply, tenant=tenant)
        assert tuple(reply.at) == flow.stage("index").arms, "what the flow says and what the stage does"
        return reply

    async def status(self, tenant="acme") -> StageStatus:
        return await self.ask("index", "status", {"tenant": tenant}, StageStatus, tenant=tenant)

    async def embedded(self, tenant="acme") -> None:
        """Wait until every text that was said so far has its vector."""
        stream = await self.nc.jetstream().stream_info(subjects.MEMORY)
        rseq = await self.covered(stream.state.last_seq, tenant=tenant)

        async def done() -> bool:
            reply = await self.ask("index", "applied", AppliedRequest(tenant, 0, 0), AppliedReply, tenant=tenant)
            return all(head.rseq >= rseq for head in reply.at.values())

        await until_async(done, "every text has its vector")

    async def purge_stream(self, stream: str) -> None:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await self.nc.jetstream().purge_stream(stream)

    async def delete_stream(self, stream: str) -> None:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await self.nc.jetstream().delete_stream(stream)


@asynccontextmanager
async def pipeline(tmp_path: Path, **settings: Any) -> AsyncIterator[Pipeline]:
    with Broker() as broker:
        nc = await nats.connect(broker.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=quiet)
        line = Pipeline(broker, tmp_path / "data", nc, IndexSettings(**{"heap_bytes": 15_000_000, **settings}))
        try:
            yield line
        finally:
            await line.close()
            await nc.close()
            shutil.rmtree(line.data, ignore_errors=True)


async def quiet(_: Exception) -> None:
    """Reconnects are part of the tests."""
