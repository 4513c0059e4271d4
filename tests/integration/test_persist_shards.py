"""persist as several processes: each has its partitions, one that is away hurts its tenants only, and they move."""

import asyncio
from contextlib import asynccontextmanager

import nats
import nats.errors
import pytest

from harness.broker import Broker
from harness.persist_process import Client, run
from harness.shards import Shards, answers, moved, recorded, tenants_of, timeline
from jetmem_schemas import subjects

EVERY = list(range(subjects.PARTITIONS))
TENANTS = tenants_of(EVERY)


@asynccontextmanager
async def plain(broker):
    nc = await nats.connect(broker.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        yield Client(nc)
    finally:
        await nc.close()


def on(tmp_path, body, **settings):
    async def go(broker, shards):
        async with plain(broker) as c:
            await body(c, shards)

    with Broker() as broker, Shards(broker, tmp_path, persist_purge_delay_s=0.1, **settings) as shards:
        run(go(broker, shards))


async def say(c, tenant, *ids, word="words"):
    acks = [await c.publish({"id": i, "text": f"{word} of {i}"}, f"mem.{tenant}.event.alice.s1") for i in ids]
    return acks[-1]


async def everywhere(c, *ids, tenants=TENANTS):
    return max(await asyncio.gather(*(say(c, tenant, *ids) for tenant in tenants)))


async def has(c, tenant, *ids):
    """Exactly these, in the log and in time, each once."""
    assert await timeline(c, tenant) == list(ids)
    entries = await c.entries(tenant)
    assert [e.id for e in entries if e.kind == "event"] == list(ids)


def test_four_share_the_partitions_and_one_that_is_away_hurts_its_own_tenants_only(tmp_path):
    async def body(c, shards):
        shards.start(0, 1, 2, 3, shards=4)
        table = await moved(c, 4)
        assert len({line.store for line in table}) == 4
        seq = await everywhere(c, "a", "b")
        await recorded(c, seq, *TENANTS)
        for tenant in TENANTS:
            await has(c, tenant, "a", "b")
            status = await c.ask("status", tenant, tenant=tenant)
            assert (status.instance, status.counts["events"]) == (f"persist-{subjects.partition_of(tenant) % 4}", 2)
        shards.kill(2)
        theirs = [t for t in TENANTS if subjects.partition_of(t) % 4 == 2]
        rest = [t for t in TENANTS if t not in theirs]
        seq = await everywhere(c, "c")
        await recorded(c, seq, *rest)
        for tenant in theirs:
            with pytest.raises(nats.errors.NoRespondersError):
                await c.ask("status", tenant)
        for tenant in rest:
            await has(c, tenant, "a", "b", "c")
        assert all([await answers(c, tenant) for tenant in rest])
        shards.start(2, shards=4)
        await recorded(c, seq, *theirs)
        for tenant in theirs:
            await has(c, tenant, "a", "b", "c")
        shards.stop(0, 1, 2, 3)

    on(tmp_path, body)


def test_a_refusal_and_a_wrong_shape_are_one_dead_letter_and_a_forget_reaches_them(tmp_path):
    async def body(c, shards):
        shards.start(0, 1, shards=2)
        await moved(c, 2)
        for tenant in TENANTS[:8]:
            await c.publish(b"no", f"mem.{tenant}.event.alice.s1")
            await c.publish({"text": "x"}, f"mem.{tenant}.event.alice")
        await c.dead_count(16)
        for tenant in TENANTS[:8]:
            seq = await c.publish({"all": True}, f"mem.{tenant}.forget._._")
            await recorded(c, seq, tenant)
            await c.purged(seq, tenant)
        assert await c.dead() == []

    on(tmp_path, body)


def test_partitions_move_from_one_to_four_and_back_with_all_that_was_said(tmp_path):
    async def body(c, shards):
        shards.start(0, shards=1)
        await moved(c, 1)
        await everywhere(c, "a", "gone", "b")
        for tenant in TENANTS:
            seq = await c.publish({"ids": ["gone"]}, f"mem.{tenant}.forget._._")
        await recorded(c, seq, *TENANTS)
        shards.restart(0, 1, 2, 3, shards=4)
        last = await everywhere(c, "c")
        table = await moved(c, 4)
        assert {line.moves for part, line in enumerate(table) if part % 4} == {1}
        await recorded(c, last, *TENANTS)
        seq = await everywhere(c, "gone", "d")
        await recorded(c, seq, *TENANTS)
        for tenant in TENANTS:
            await has(c, tenant, "a", "b", "c", "d")
        shards.restart(0, 1, 2, 3, shards=1)
        last = await everywhere(c, "e")
        table = await moved(c, 1)
        assert {line.moves for part, line in enumerate(table) if part % 4} == {2}
        await recorded(c, last, *TENANTS)
        for tenant in TENANTS:
            await has(c, tenant, "a", "b", "c", "d", "e")
        shards.stop(1, 2, 3)
        seq = await everywhere(c, "f")
        await recorded(c, seq, *TENANTS)

    on(tmp_path, body)
