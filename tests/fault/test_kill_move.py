"""persist killed with SIGKILL at every named point of a move of partitions, on either side, while agents go on talking.

Oracle: acknowledged - readable is empty, readable - attempted is empty, nothing twice, nothing forgotten comes back, no
file of any store keeps what was forgotten; and all of it said again changes nothing.
"""

import asyncio
import math
import os
import random
import time

import nats
import nats.errors
import pytest

from harness.broker import Broker
from harness.files import grep
from harness.persist_process import Client, run
from harness.shards import Shards, moved, recorded, tenants_of, timeline
from harness.waiting import until_async
from jetmem.runtime.crashpoints import POINTS

MOVE_POINTS = [point for point in POINTS if point.startswith("move:")]
#: Reached in the process that a partition leaves; the others in the one it comes to.
OF_THE_OWNER = ("move:after-park", "move:after-let-go", "move:after-drop")
#: Every start claims, and passes it.
AT_START = ("move:after-own",)
#: Tenants of partitions that stay where they are, and of some that move.
TENANTS = tenants_of([0, 2, 1, 3, 5])
#: Each meets every tenant.
FORGET_EVERY, REPEAT_EVERY, BAD_EVERY, EXPIRE_EVERY = 21, 14, 39, 26
assert all(math.gcd(every, len(TENANTS)) == 1 for every in (FORGET_EVERY, REPEAT_EVERY, BAD_EVERY, EXPIRE_EVERY))
#: In the midst of a move, or after it.
EXPIRES_AFTER_MS = 500


class Load:
    """What was attempted, acknowledged, refused and forgotten."""

    def __init__(self):
        self.said: dict[str, dict[str, bytes]] = {tenant: {} for tenant in TENANTS}
        self.acknowledged: set[tuple[str, str]] = set()
        self.forgotten: set[tuple[str, str]] = set()
        self.expiring: set[tuple[str, str]] = set()
        self.bad: set[int] = set()
        self.forgets: dict[str, int] = {}
        self.number = self.last = 0
        self.going = True

    async def go_on(self, c):
        """As fast as a shard that nothing is wrong with records it; a move must not be waited for by its own load."""
        while self.going:
            await self.publish(c, 20)
            await recorded(c, self.last, TENANTS[0])

    async def publish(self, c, count):
        first, self.number = self.number, self.number + count
        await asyncio.gather(*(self._one(c, number) for number in range(first, first + count)))

    async def _one(self, c, number):
        tenant, id_ = TENANTS[number % len(TENANTS)], f"e{number}"
        subject, body = f"mem.{tenant}.event.bot{number % 3}.s{number % 7}", {"id": id_, "text": f"words of {number}"}
        doomed = number % FORGET_EVERY == 0
        if doomed:
            body["text"] = f"secretword{number}"
        elif number % EXPIRE_EVERY == 0:
            body |= {"text": f"secretword{number}", "expires_at": time.time_ns() // 1_000_000 + EXPIRES_AFTER_MS}
            self.expiring.add((tenant, id_))
        self.said[tenant][id_] = body
        await self._send(c, subject, body)
        self.acknowledged.add((tenant, id_))
        if number % REPEAT_EVERY == 0:
            await self._send(c, subject, body)
        if number % BAD_EVERY == 0:
            self.bad.add(await self._send(c, subject, {"text": number}))
        if doomed:
            self.forgets[tenant] = await self._send(c, f"mem.{tenant}.forget._._", {"ids": [id_]})
            self.forgotten.add((tenant, id_))

    async def _send(self, c, subject, body):
        seq = await c.publish(body, subject)
        self.last = max(self.last, seq)
        return seq

    async def say_all_again(self, c):
        said = [(tenant, id_, body) for tenant, bodies in self.said.items() for id_, body in bodies.items()]
        for start in range(0, len(said), 100):
            await asyncio.gather(*(self._again(c, *each) for each in said[start : start + 100]))

    async def _again(self, c, tenant, id_, body):
        number = int(id_[1:])
        await self._send(c, f"mem.{tenant}.event.bot{number % 3}.s{number % 7}", body)

    async def check(self, c):
        await recorded(c, self.last, *TENANTS)
        await until_async(lambda: self._all_expired(c), "what expires is forgotten", 90)
        listed = [(t, e.id) for t in TENANTS for e in await c.entries(t) if e.kind == "event"]
        paged = [(t, id_) for t in TENANTS for id_ in await timeline(c, t)]
        live = self.acknowledged - self.forgotten - self.expiring
        for found in (listed, paged):
            assert len(found) == len(set(found)), "something is there twice"
            assert live - set(found) == set(), "acknowledged, and lost"
            assert set(found) & (self.forgotten | self.expiring) == set(), "forgotten, and back"
            assert set(found) <= self.acknowledged, "never said"
        for tenant in TENANTS:
            agents = (await c.ask("agents", tenant=tenant, limit=100)).items
            assert sum(a.events for a in agents) == sum(t == tenant for t, _ in live)

        async def all_dead():
            found = [int(m.headers["Jetmem-Seq"]) for m in await c.dead()]
            return found if len(found) >= len(self.bad) else None

        assert sorted(await until_async(all_dead, "all dead letters")) == sorted(self.bad)

    async def _all_expired(self, c):
        found = {(t, e.id) for t in TENANTS for e in await c.entries(t) if e.kind == "event"}
        return not found & self.expiring

    async def nothing_is_left(self, c, data):
        for tenant, seq in self.forgets.items():
            await until_async(lambda t=tenant, s=seq: purged(c, t, s), f"forget {seq} of {tenant} is purged", 90)
            await until_async(lambda t=tenant: clean(c, t), f"what expired of {tenant} is purged", 90)
        assert grep(b"words of 1", data) != [], "what is there can be found"
        assert grep(b"secretword", data) == []

    async def end(self, c, data):
        """All is there, once, also when it is said again; what was forgotten is nowhere."""
        await self.check(c)
        await self.say_all_again(c)
        await self.check(c)
        await self.nothing_is_left(c, data)


async def purged(c, tenant, seq):
    try:
        return (await c.ask("forgotten", tenant, tenant=tenant, seq=seq))["purged"]
    except nats.errors.Error:
        return False


async def clean(c, tenant):
    try:
        return (await c.ask("status", tenant=tenant)).counts["purging"] == 0
    except nats.errors.Error:
        return False


async def dies(shards, shard):
    async def died():
        return not shards.processes[shard].running()

    await until_async(died, f"shard {shard} dies; it said {shards.said(shard)}", 60)
    assert shards.processes[shard].ended() == -9


def on(tmp_path, body):
    async def go(broker, shards):
        nc = await nats.connect(broker.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
        try:
            await body(Client(nc), shards, Load())
        finally:
            await nc.close()

    with Broker() as broker, Shards(broker, tmp_path, persist_purge_delay_s=0.1, persist_expire_every_s=0.1) as shards:
        run(go(broker, shards))


async def begun(c, shards, load):
    """One shard has all, and some of everything is recorded."""
    shards.start(0, shards=1)
    await moved(c, 1)
    await load.publish(c, 300)
    await recorded(c, load.last, *TENANTS)


async def killed(shards, point, number):
    """Move to so many shards; one dies at this point of it, and is started again."""
    owner, other = (0, 1) if number == 2 else (1, 0)
    victim = owner if point in OF_THE_OWNER else other
    passes = 2 + (point in AT_START)
    for shard in (owner, other):
        if shard in shards.processes and shards.processes[shard].running():
            shards.stop(shard)
        shards.start(shard, shards=number, **({"crash": f"{point}:{passes}"} if shard == victim else {}))
    await dies(shards, victim)
    shards.start(victim, shards=number)


def test_killed_at_each_named_point_of_moves_back_and_forth(tmp_path):
    async def body(c, shards, load):
        await begun(c, shards, load)
        for turn, point in enumerate(MOVE_POINTS):
            number = 1 if turn % 2 else 2
            print(point, "on the way to", number)
            load.going = True
            going = asyncio.create_task(load.go_on(c))
            await killed(shards, point, number)
            await moved(c, number)
            load.going = False
            await going
            await load.check(c)
        await load.end(c, tmp_path)

    on(tmp_path, body)


@pytest.mark.slow
@pytest.mark.parametrize("point", MOVE_POINTS)
def test_killed_at_a_named_point_of_a_move_there_and_of_the_move_back(tmp_path, point):
    async def body(c, shards, load):
        await begun(c, shards, load)
        going = asyncio.create_task(load.go_on(c))
        for number in (2, 1):
            await killed(shards, point, number)
            await moved(c, number, 90)
        load.going = False
        await going
        await load.end(c, tmp_path)

    on(tmp_path, body)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("move:after-slice", marks=pytest.mark.slow),
        pytest.param("move:after-whole"),
        pytest.param("move:after-release"),
        pytest.param("move:after-catch-up", marks=pytest.mark.slow),
    ],
)
def test_whoever_thinks_better_of_it_in_the_middle_has_all_where_it_was(tmp_path, point):
    """What was copied and not taken is dropped, what was parked is read on, what had moved comes back."""

    async def body(c, shards, load):
        await begun(c, shards, load)
        going = asyncio.create_task(load.go_on(c))
        shards.restart(0, shards=2)
        shards.start(1, shards=2, crash=f"{point}:3")
        await dies(shards, 1)
        shards.restart(0, shards=1)
        shards.start(1, shards=1)
        await moved(c, 1, 90)
        shards.restart(0, 1, shards=2)
        await moved(c, 2, 90)
        load.going = False
        await going
        await load.end(c, tmp_path)

    on(tmp_path, body)


def test_a_copy_of_a_state_that_was_read_on_since_is_begun_again(tmp_path):
    """Half of it is copied; its owner keeps it, reads a forget, dies, and gives it away after all."""
    tenant, word = tenants_of([1])[0], "secretword"
    subject, padding = f"mem.{tenant}.event.alice.s1", " padding" * 10_000

    async def body(c, shards, _):
        shards.start(0, shards=1)
        await moved(c, 1)
        await c.publish({"id": "gone", "text": word + padding}, subject)
        for number in range(20):
            last = await c.publish({"id": f"e{number}", "text": f"words of {number}{padding}"}, subject)
        await recorded(c, last, tenant)
        shards.restart(0, shards=2)
        shards.start(1, shards=2, crash="move:after-slice")
        await dies(shards, 1)
        seq = await c.publish({"ids": ["gone"]}, f"mem.{tenant}.forget._._")
        shards.stop(0)
        shards.start(0, shards=1, crash="move:after-catch-up")
        await dies(shards, 0)
        shards.start(0, 1, shards=2)
        await moved(c, 2, 90)
        await recorded(c, seq, tenant)
        assert await timeline(c, tenant) == [f"e{number}" for number in range(20)]
        assert {e.id for e in await c.entries(tenant) if e.kind == "event"} == {f"e{number}" for number in range(20)}
        await until_async(lambda: purged(c, tenant, seq), "the forget is purged")
        assert grep(b"words of 1", tmp_path) != [], "what is there can be found"
        assert grep(word.encode(), tmp_path) == []

    on(tmp_path, body)


def test_killed_at_random_moments_of_moves_between_one_and_three(tmp_path):
    seed = int(os.environ.get("JETMEM_TEST_SEED", random.randrange(2**32)))
    print("seed", seed)
    chance = random.Random(seed)

    async def body(c, shards, load):
        shards.start(0, shards=1)
        await moved(c, 1)
        await load.publish(c, 200)
        going = asyncio.create_task(load.go_on(c))
        for number in (3, 2, 1):
            shards.restart(0, 1, 2, shards=number)
            for _ in range(4):
                victim, target = chance.randrange(3), load.last + chance.randrange(1, 300)

                async def there(at=target):
                    return load.last >= at

                await until_async(there, f"{target} published")
                shards.kill(victim)
                shards.start(victim, shards=number)
            await moved(c, number, 120)
        load.going = False
        await going
        await load.end(c, tmp_path)

    on(tmp_path, body)
