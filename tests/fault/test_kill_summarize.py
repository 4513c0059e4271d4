"""summarize killed at every named point and at random: the tree is the one that a rebuild makes of what is left."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from harness.broker import Broker
from harness.pipeline import Pipeline, quiet
from harness.seeds import SEED
from harness.toc_tree import caught_up, check, contents, tree
from harness.waiting import until, until_async
from jetmem.adapters.tenant_settings import Bucket
from jetmem.index.settings import IndexSettings
from jetmem.runtime.crashpoints import POINTS
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.topics import TopicFound, TopicRequest, TopicsFound, TopicsRequest

TOPICS = "summarize:after-topics"
#: Grouping starts a process of the lowest priority that imports scikit-learn: on a busy machine that takes its time.
GROUPED_S = 120.0
OWN_POINTS = [point for point in POINTS if point.startswith("summarize:") and point != TOPICS]
MAY_MS = 1_777_900_000_000
QUICK = {"JETMEM_SUMMARIZE_OPEN_EVERY_S": "0.3", "JETMEM_SUMMARIZE_ROLLUP_EVERY_S": "0.1"}
TENANTS = ("acme", "zoo")
ZONES = ("", "Asia/Tokyo", "America/New_York")


class Process:
    """One stage as `jetmem run` starts it."""

    def __init__(self, stage, broker, data, **environ):
        held = {"JETMEM_SERVER": broker.url, "JETMEM_DATA": str(data), "JETMEM_LOG_FORMAT": "json", **QUICK, **environ}
        paths = os.pathsep.join(str(Path(__file__).resolve().parents[2] / name) for name in ("services", "schemas"))
        with (data.parent / f"{stage}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jetmem", "run", stage],
                env={**os.environ, "PYTHONPATH": paths, **held}, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ended(self):
        return self.process.poll()


class Load:
    """Two tenants talk, some of it late, and forget some of it; all is acknowledged. Goes on while `more`."""

    def __init__(self, line):
        self.line = line
        self.random = random.Random(SEED)
        self.more = True
        self.number = 0
        self.said = {tenant: set() for tenant in TENANTS}

    async def run(self):
        while self.more:
            tenant = self.random.choice(TENANTS)
            ids = [f"e{n}" for n in range(self.number, self.number + 30)]
            self.number += len(ids)
            now = MAY_MS + self.number * 120_000
            await asyncio.gather(*(self.say(tenant, id_, now) for id_ in ids))
            self.said[tenant] |= set(ids)
            if self.random.random() < 0.3:
                gone = self.random.sample(sorted(self.said[tenant]), 5)
                await self.line.forget(tenant=tenant, ids=gone)
                self.said[tenant] -= set(gone)
            if self.random.random() < 0.3:
                await self.moves(tenant)

    async def moves(self, tenant):
        with contextlib.suppress(RequestFailed):  # before summarize has made the bucket
            await Bucket(self.line.nc).change(tenant, {"timezone": self.random.choice(ZONES)})

    async def say(self, tenant, id_, now):
        late = self.random.choice([0, 0, 0, 60_000, 3_600_000, 30 * 3_600_000])
        text = f"Vessel {self.random.randrange(500)} brings cargo {id_} to the harbour."
        session = self.random.choice(["s1", "s2", "s3"])
        await self.line.say(text, id=id_, tenant=tenant, session=session, ts=now - late, author="Ann")


async def judged(line, load, again):
    """Every event is in the tree; from nothing the same tree is made."""
    trees = {}
    for tenant in TENANTS:
        await caught_up(line, tenant)
        trees[tenant] = await tree(line, tenant)
        check(trees[tenant])
        years = [node for node in trees[tenant].values() if node.level == "year"]
        assert sum(node.events for node in years) == len(load.said[tenant])
    again()
    for tenant in TENANTS:
        await caught_up(line, tenant)
        assert contents(await tree(line, tenant)) == contents(trees[tenant])


def run(tmp_path, body):
    async def test():
        print("seed", SEED)
        with Broker() as broker:
            nc = await nats.connect(broker.url, max_reconnect_attempts=-1, error_cb=quiet)
            line = Pipeline(broker, tmp_path / "data", nc, IndexSettings())
            (tmp_path / "data").mkdir()
            started = [Process("persist", broker, line.data)]

            def summarize(**environ):
                started.append(Process("summarize", broker, line.data, **environ))
                return started[-1]

            def again():
                started[-1].kill()
                shutil.rmtree(line.data / "summarize")
                summarize()

            try:
                await until_async(lambda: made(line), "persist is ready")
                await body(line, summarize, again)
            finally:
                await line.close()
                for process in started:
                    process.kill()
                await nc.close()

    asyncio.run(test())


async def made(line):
    try:
        await line.nc.jetstream().stream_info("MEMORY")
    except nats.js.errors.NotFoundError:
        return False
    return True


async def reached(load, number):
    return load.number >= number


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("point", OWN_POINTS)
def test_killed_at_a_named_point(tmp_path, point, count):
    async def body(line, summarize, again):
        process = summarize(JETMEM_CRASH=f"{point}:{count}")
        load = Load(line)
        loading = asyncio.create_task(load.run())
        await asyncio.to_thread(until, lambda: process.ended() is not None, f"summarize dies at {point}")
        assert process.ended() == -signal.SIGKILL
        load.more = False
        summarize()
        await loading
        await judged(line, load, again)

    run(tmp_path, body)


async def topics(line, tenant="acme"):
    """Segments of each topic by its sessions, as summarize has them."""
    found = await line.ask("summarize", "topics", TopicsRequest(tenant, 100), TopicsFound, tenant=tenant)
    sizes = {}
    for each in found.topics:
        opened = await line.ask("summarize", "topic", TopicRequest(tenant, each.id, 100), TopicFound, tenant=tenant)
        assert {s.session for s in opened.segments} == {opened.segments[0].session}
        sizes[opened.segments[0].session] = (each.segments, len(opened.segments), bool(each.title))
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])  # placed, moved, counted, made
def test_killed_while_topics_are_made(tmp_path, count):
    said = {"sea": "the harbour lighthouse keeper watches ships", "cake": "lemon cake needs butter and eggs"}

    async def body(line, summarize, again):
        line.embed.start()
        await line.start("index")
        process = summarize(JETMEM_CRASH=f"{TOPICS}:{count}", JETMEM_SUMMARIZE_TOPICS_EVERY_S="0.2")
        line.embed.open.clear()
        for n in range(13):
            for kind, text in said.items():
                await line.say(f"{text} {kind}{n}", id=f"{kind}{n}", session=kind, ts=MAY_MS + n * 3_600_000)
        await caught_up(line)
        line.embed.open.set()
        dies = f"summarize dies at {TOPICS}"
        await asyncio.to_thread(until, lambda: process.ended() is not None, dies, GROUPED_S)
        assert process.ended() == -signal.SIGKILL
        summarize(JETMEM_SUMMARIZE_TOPICS_EVERY_S="0.2")

        async def whole():
            try:
                return await topics(line) == {"sea": (12, 12, True), "cake": (12, 12, True)}
            except nats.errors.Error:
                return False

        await until_async(whole, "topics hold every closed segment", GROUPED_S)

    run(tmp_path, body)


@pytest.mark.slow
def test_killed_at_random(tmp_path):
    async def body(line, summarize, again):
        chance = random.Random(SEED)
        process = summarize()
        load = Load(line)
        loading = asyncio.create_task(load.run())
        for _ in range(6):
            after = load.number + 300 + chance.randrange(600)
            await until_async(lambda after=after: reached(load, after), f"{after} events were said")
            process.kill()
            process = summarize()
        load.more = False
        await loading
        await judged(line, load, again)

    run(tmp_path, body)
