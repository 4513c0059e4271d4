"""index killed at every named point and at random: what is searchable in the end is what was acknowledged, once."""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nats
import pytest

from harness.broker import Broker
from harness.pipeline import Pipeline, quiet
from harness.seeds import SEED
from harness.waiting import until, until_async
from jetmem.index.settings import IndexSettings
from jetmem.runtime.crashpoints import POINTS

INDEX_POINTS = [point for point in POINTS if point.startswith("index:")]


class Process:
    """One stage as `jetmem run` starts it."""

    def __init__(self, stage: str, broker: Broker, data: Path, **environ: str) -> None:
        held = {"JETMEM_SERVER": broker.url, "JETMEM_DATA": str(data), "JETMEM_LOG_FORMAT": "json", **environ}
        command = [sys.executable, "-m", "jetmem", "run", stage]
        paths = os.pathsep.join(str(Path(__file__).resolve().parents[2] / name) for name in ("services", "schemas"))
        self.log = data.parent / f"{stage}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": paths, **held}, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ended(self) -> int | None:
        return self.process.poll()


class Load:
    """Says events of two tenants and forgets some, all of it acknowledged."""

    def __init__(self, line: Pipeline, seed: int, count: int) -> None:
        self.line = line
        self.random = random.Random(SEED)
        self.count = count
        self.more = False
        self.number = 0
        self.said: dict[str, set[str]] = {"acme": set(), "zoo": set()}
        self.last: dict[str, int] = {}

    async def run(self) -> None:
        for start in itertools.count(0, 50):
            self.number = start
            if start >= self.count and not self.more:
                return
            tenant = self.random.choice(["acme", "zoo"])
            ids = [f"e{n}" for n in range(start, start + 50)]
            sessions = [self.random.choice(["s1", "s2", "s3"]) for _ in ids]
            said = (
                self.line.say(f"cargo {id_} of vessel{self.random.randrange(500)}", id=id_, tenant=tenant, session=s)
                for id_, s in zip(ids, sessions, strict=True)
            )
            self.last[tenant] = max(await asyncio.gather(*said))
            self.said[tenant] |= set(ids)
            if self.random.random() < 0.3:
                gone = self.random.sample(sorted(self.said[tenant]), 5)
                self.last[tenant] = await self.line.forget(tenant=tenant, ids=gone)
                self.said[tenant] -= set(gone)


async def judged(line: Pipeline, load: Load) -> None:
    for tenant, ids in load.said.items():
        await line.applied(load.last[tenant], tenant=tenant)
        hits = (await line.find("cargo", tenant=tenant, limit=20_000)).hits
        found = Counter(hit.id for hit in hits)
        assert not ids - found.keys(), (
            f"lost {len(ids - found.keys())} of {len(ids)}, found {len(found)}: {sorted(ids - found.keys())[:9]}"
        )
        assert not found.keys() - ids, f"unexpected: {sorted(found.keys() - ids)[:9]}"
        assert max(found.values()) == 1, f"twice: {found.most_common(3)}"
        await line.embedded(tenant)
        near = (await line.find("cargo", tenant=tenant, mode="vector", limit=20_000)).hits
        assert Counter(hit.id for hit in near) == Counter(ids)


async def answers(line: Pipeline) -> bool:
    try:
        return bool((await line.status()).healthy)
    except nats.errors.Error:
        return False


def run(tmp_path, body):
    async def test():
        print("seed", SEED)
        with Broker() as broker:
            nc = await nats.connect(broker.url, max_reconnect_attempts=-1, error_cb=quiet)
            line = Pipeline(broker, tmp_path / "data", nc, IndexSettings())
            (tmp_path / "data").mkdir()
            persist = Process("persist", broker, line.data)
            started: list[Process] = [persist]

            def index(**environ: str) -> Process:
                small = {"JETMEM_INDEX_EXACT_MAX": "100", "JETMEM_INDEX_SNAPSHOT_EVERY_S": "0.3"}
                started.append(Process("index", broker, line.data, **small, **environ))
                return started[-1]

            line.embed.start()
            try:
                await body(line, index)
            finally:
                await line.close()
                for process in started:
                    process.kill()
                await nc.close()

    asyncio.run(test())


async def asked(line: Pipeline) -> None:
    """Searches by vector, so that vectors are held in memory and linked."""
    while True:
        for tenant in ("acme", "zoo"):
            await line.ids("cargo", tenant=tenant, mode="vector", limit=5)
        await asyncio.sleep(0)


async def made(line: Pipeline) -> bool:
    """Whether persist is there: before it, nobody takes what is said."""
    try:
        await line.nc.jetstream().stream_info("MEMORY")
    except nats.js.errors.NotFoundError:
        return False
    return True


async def reached(load: Load, number: int) -> bool:
    return load.number >= number


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("point", INDEX_POINTS)
def test_killed_at_a_named_point(tmp_path, point, count):
    async def body(line, index):
        await until_async(lambda: made(line), "persist is ready")
        process = index(JETMEM_CRASH=f"{point}:{count}")
        load = Load(line, SEED, 1_500)
        load.more = True
        loading, asking = asyncio.create_task(load.run()), asyncio.create_task(asked(line))
        await asyncio.to_thread(until, lambda: process.ended() is not None, f"index dies at {point}")
        asking.cancel()
        load.more = False
        assert process.ended() == -signal.SIGKILL
        index()
        await loading
        await until_async(lambda: answers(line), "index is back")
        await judged(line, load)

    run(tmp_path, body)


@pytest.mark.slow
def test_killed_at_random(tmp_path):
    async def body(line, index):
        await until_async(lambda: made(line), "persist is ready")
        chance = random.Random(SEED)
        process = index()
        load = Load(line, SEED, 4_000)
        load.more = True
        loading = asyncio.create_task(load.run())
        for _ in range(6):
            await until_async(lambda: answers(line), "index is back")
            after = load.number + chance.randrange(600)
            await until_async(lambda after=after: reached(load, after), f"{after} events were said")
            process.kill()
            process = index()
        load.more = False
        await loading
        await until_async(lambda: answers(line), "index is back")
        await judged(line, load)

    run(tmp_path, body)
