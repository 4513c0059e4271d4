"""persist killed with SIGKILL at every named point and at random moments of a load, then started again.

Oracle: acknowledged - readable is empty, readable - attempted is empty, nothing twice.
"""

import asyncio
import os
import random
import time

import msgspec
import pytest

from harness.broker import Broker
from harness.persist_process import PersistProcess, client, run
from harness.waiting import until_async
from jetmem.runtime.crashpoints import POINTS
from jetmem_schemas import toc
from jetmem_schemas.internal import decode_entry

PERSIST_POINTS = [p for p in POINTS if p.startswith("persist:")]
TENANTS = ("acme", "zoo")
QUICK = {"persist_purge_delay_s": 0.1, "persist_expire_every_s": 0.1}
#: Every so many messages one is refused, one is a repeat, and one is a forget of what was said just before.
BAD_EVERY, REPEAT_EVERY, FORGET_EVERY = 50, 70, 90
#: … and one expires some moments after it was said: none of those above, …
EXPIRES_EVERY, EXPIRES_AT = 40, 7
EXPIRES_AFTER_MS = 300
#: … and a node is made, in a tenant of its own, where no forget makes its version too old.
NODE_EVERY = 30
MADE = "made"


class Load:
    """What was attempted, acknowledged and forgotten, or is to be, once its time is over."""

    def __init__(self):
        self.attempted: set[tuple[str, str]] = set()
        self.acknowledged: set[tuple[str, str]] = set()
        self.forgotten: set[tuple[str, str]] = set()
        self.expiring: set[tuple[str, str]] = set()
        self.nodes: set[str] = set()
        self.bad: set[int] = set()
        self.last = 0

    async def publish(self, c, first, count):
        for start in range(first, first + count, 250):
            await asyncio.gather(*(self._one(c, n) for n in range(start, min(start + 250, first + count))))

    async def _one(self, c, number):
        tenant, id_ = TENANTS[number % 2], f"e{number}"
        subject = f"mem.{tenant}.event.bot{number % 3}.s{number % 7}"
        self.attempted.add((tenant, id_))
        body = {"id": id_, "text": f"words of {number}"}
        if number % EXPIRES_EVERY == EXPIRES_AT:
            body["expires_at"] = time.time_ns() // 1_000_000 + EXPIRES_AFTER_MS
            self.expiring.add((tenant, id_))
        await self._send(c, subject, body)
        self.acknowledged.add((tenant, id_))
        if number % BAD_EVERY == 0:
            self.bad.add(await self._send(c, subject, {"text": number}))
        if number % REPEAT_EVERY == 0:
            await self._send(c, subject, {"id": id_, "text": f"words of {number}"})
        if number % FORGET_EVERY == 0:
            await self._send(c, f"mem.{tenant}.forget._._", {"ids": [id_]})
            self.forgotten.add((tenant, id_))

        if number % NODE_EVERY == 0:
            await self._make(c, number)

    async def _make(self, c, number):
        """A node, sent twice, as an outbox does whose answer was lost."""
        await self._send(c, f"mem.{MADE}.event.bot.s", {"id": f"e{number}", "text": "w"})
        node = {"id": f"toc:segment:2026-01-15:{number}", "version": 1, "level": "segment", "sources": [(1, 1)]}
        for _ in range(2):
            await self._send(c, toc.derived_subject(MADE), node)
        self.nodes.add(node["id"])

    async def _send(self, c, subject, body):
        ack = await c.js.publish(subject, msgspec.json.encode(body), timeout=30)
        self.last = max(self.last, ack.seq)
        return ack.seq

    async def check(self, c):
        await c.recorded(self.last)
        await self._all_expired(c)
        listed = [(t, e.id) for t in TENANTS for e in await c.entries(t) if e.kind == "event"]
        paged = [(t, i) for t in TENANTS for i in await timeline(c, t)]
        live = self.acknowledged - self.forgotten - self.expiring
        for found in (listed, paged):
            assert len(found) == len(set(found)), "something is there twice"
            assert live - set(found) == set(), "acknowledged, and lost"
            assert set(found) - self.attempted == set(), "never said"
            assert set(found) & (self.forgotten | self.expiring) == set(), "forgotten, and back"
        for tenant in TENANTS:
            agents = (await c.ask("agents", tenant=tenant, limit=100)).items
            assert sum(a.events for a in agents) == sum(t == tenant for t, _ in live)

        made = [e.id for e in await c.entries(MADE) if e.kind == "derived"]
        assert sorted(made) == sorted(self.nodes), "a node is lost, or there twice"

        async def all_dead():
            found = [int(m.headers["Jetmem-Seq"]) for m in await c.dead()]
            return found if len(found) >= len(self.bad) else None

        assert sorted(await until_async(all_dead, "all dead letters")) == sorted(self.bad)

    async def _all_expired(self, c):
        async def gone():
            found = [(t, e.id) for t in TENANTS for e in await c.entries(t) if e.kind == "event"]
            return not set(found) & self.expiring

        await until_async(gone, "what expires is forgotten")
        for tenant in TENANTS:
            told = [msgspec.msgpack.decode(e.body)[0] for e in await c.entries(tenant) if e.kind == "forgot"]
            ids = [each for some in told for each in some]
            assert len(ids) == len(set(ids)), "forgotten twice"

    async def forget_nodes(self, c):
        await c.forget(MADE, ids=[e.id for e in await c.entries(MADE) if e.kind == "event"][:1])
        assert [e.kind for e in await c.entries(MADE) if e.kind in ("derived", "forgot")] == ["forgot"]


async def timeline(c, tenant):
    found, cursor = [], b""
    while True:
        page = await c.ask("timeline", tenant=tenant, limit=1000, descending=False, cursor=cursor)
        found += [decode_entry(e).id for e in page.entries]
        cursor = page.cursor
        if not cursor:
            return found


@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.parametrize("point", PERSIST_POINTS)
def test_killed_at_a_named_point(tmp_path, point, passes):
    with Broker() as broker, PersistProcess(broker, tmp_path / "data", **QUICK) as persist:

        async def go():
            async with client(broker) as c:
                load = Load()
                await load.publish(c, 0, 500)
                persist.kill()
                persist.start(crash=f"{point}:{passes}")
                await load.publish(c, 500, 1000)

                async def died():
                    if persist.running() and load.last:
                        await load.publish(c, len(load.attempted), 100)
                    return not persist.running()

                await until_async(died, f"persist dies at {point}")
                assert persist.ended() == -9
                await load.publish(c, len(load.attempted), 500)
                persist.start()
                await load.check(c)
                await load.forget_nodes(c)

        run(go())


def test_killed_at_random_moments_of_a_load(tmp_path):
    seed = int(os.environ.get("JETMEM_TEST_SEED", random.randrange(2**32)))
    print("seed", seed)
    chance = random.Random(seed)
    with Broker() as broker, PersistProcess(broker, tmp_path / "data", **QUICK) as persist:

        async def go():
            async with client(broker) as c:
                load = Load()
                for _ in range(6):
                    publishing = asyncio.create_task(load.publish(c, len(load.attempted), chance.randrange(800, 1500)))
                    target = load.last + chance.randrange(1, 900)

                    async def there(at=target):
                        return load.last >= at

                    await until_async(there, f"{target} published")
                    persist.kill()
                    persist.start()
                    await publishing
                await load.check(c)

        run(go())
