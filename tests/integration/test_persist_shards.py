"""persist as several processes: each has its partitions, one that is away hurts its tenants only, and they move."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager

import msgspec
import nats
import nats.errors
import pytest

from harness.broker import Broker
from harness.persist_process import Client, PersistProcess, run
from harness.shards import Shards, answers, moved, owners, recorded, tenants_of, timeline
from harness.waiting import until_async
from jetmem.adapters.rocks import Rocks
from jetmem.persist.record import FAMILIES, SHARED, WHOLE
from jetmem.runtime.errors import Broken
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus

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


async def command(broker, *words):
    """What a command of operators prints as JSON, and its exit code."""
    whole = (sys.executable, "-m", "jetmem", *words, "--json", "--server", broker.url)
    ran = await asyncio.create_subprocess_exec(*whole, stdout=asyncio.subprocess.PIPE)
    out, _ = await ran.communicate()
    return ran.returncode, msgspec.json.decode(out)


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
        code, shown = await command(shards.broker, "shards", "--wait-for", "4", "--wait-s", "60")
        assert (code, shown["left"], shown["waiting"]) == (0, [], 0)
        assert shown["owners"] == {f"persist-{shard}": 16 for shard in range(4)}
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


def test_what_is_refused_of_what_came_while_it_moved_is_a_dead_letter_at_once(tmp_path):
    async def body(c, shards):
        other = TENANTS[1]
        shards.start(0, shards=1)
        await moved(c, 1)
        shards.restart(0, shards=2)
        shards.start(1, shards=2, crash="move:after-release")
        assert shards.processes[1].ended() == -signal.SIGKILL
        await c.publish(b"no", f"mem.{other}.event.alice.s1")
        shards.start(1, shards=2)
        await moved(c, 2)
        await c.dead_count(1)
        seq = await c.publish({"all": True}, f"mem.{other}.forget._._")
        await recorded(c, seq, other)
        await c.purged(seq, other)
        assert await c.dead() == []

    on(tmp_path, body)


def test_an_owner_that_is_away_is_waited_for_and_said_so(tmp_path):
    async def body(c, shards):
        shards.start(0, shards=1)
        await moved(c, 1)
        seq = await everywhere(c, "a")
        await recorded(c, seq, *TENANTS)
        shards.stop(0)
        shards.start(1, shards=2)
        other = TENANTS[1]
        shards.processes[1].wait_said("started")

        async def said_so():
            reply = await c.nc.request(subjects.service_status("persist"), b"\x80", timeout=5)
            status = msgspec.msgpack.decode(reply.data, type=StageStatus)
            return status.detail if status.healthy and "partition" in status.detail else None

        assert "partition 1 is at persist-0" in await until_async(said_so, "what it waits for")
        with pytest.raises(nats.errors.NoRespondersError):
            await c.ask("status", other)
        shards.start(0, shards=1)  # still with the old number: it keeps what it has, and says so

        async def refused():
            return "runs with --shards 1" in (await said_so() or "")

        await until_async(refused, "whose number is the old one")
        await has(c, other, "a")
        shards.restart(0, shards=2)
        await moved(c, 2)
        await recorded(c, seq, *TENANTS)
        await has(c, other, "a")

    on(tmp_path, body)


def test_a_store_without_the_whole_record_is_refused_by_versions_that_know_no_shards(tmp_path):
    def formats(shards, *ordinals):
        found = []
        for shard in ordinals:
            shards.stop(shard)
            folder = tmp_path / str(shard) / "persist"
            try:
                Rocks(folder, FAMILIES, format_version=WHOLE).close()
                found.append(WHOLE)
            except Broken as error:
                assert f"has format {SHARED}, newer than {WHOLE}; use a newer jetmem" in str(error)
                found.append(SHARED)
        return found

    async def body(c, shards):
        shards.start(0, shards=1)
        await until_async(lambda: answers(c, TENANTS[0]), "it knows what it has")  # which the table says before
        assert formats(shards, 0) == [WHOLE]
        shards.start(0, 1, shards=2)
        await moved(c, 2)
        assert formats(shards, 0, 1) == [SHARED, SHARED]
        shards.start(0, 1, shards=1)
        await moved(c, 1)
        seq = await everywhere(c, "a")
        await recorded(c, seq, *TENANTS)
        assert formats(shards, 0, 1) == [WHOLE, SHARED]

    on(tmp_path, body)


def test_two_stores_of_one_ordinal_never_answer_both(tmp_path):
    async def body(c, shards):
        shards.start(0, shards=1)
        await moved(c, 1)
        seq = await everywhere(c, "a", tenants=TENANTS[:4])
        await recorded(c, seq, *TENANTS[:4])
        rival = PersistProcess(shards.broker, tmp_path / "rival").start(shard=0, shards=1)
        assert rival.ended() == 1
        assert "belongs to another store of persist-0; this one serves nothing" in rival.said()
        await has(c, TENANTS[0], "a")
        shards.stop(0)
        with PersistProcess(shards.broker, tmp_path / "rival") as heir:  # MEMORY has all of it, and nobody else answers
            await recorded(c, seq, *TENANTS[:4])
            await has(c, TENANTS[0], "a")
            shards.start(0, shards=1)
            assert shards.processes[0].ended() == 1
            assert "belongs to another store of persist-0" in shards.said(0)
            assert heir.running()

    on(tmp_path, body)


def test_memory_is_trimmed_no_further_than_the_slowest_shard_has_read(tmp_path):
    async def body(c, shards):
        shards.start(0, 1, shards=2)
        await moved(c, 2)
        seq = await everywhere(c, "a")
        await recorded(c, seq, *TENANTS)

        async def trimmed():
            try:
                return (await c.ask("trim", TENANTS[0], dry_run=False))["removed"]
            except (AssertionError, nats.errors.Error) as error:
                return str(error) or type(error).__name__

        shards.kill(1)
        last = await everywhere(c, "b")
        await recorded(c, last, TENANTS[0])
        assert "MEMORY is not trimmed: partition 1" in await trimmed()
        assert (await c.js.stream_info(subjects.MEMORY)).state.first_seq == 1
        shards.start(1, shards=2)
        await recorded(c, last, *TENANTS)
        assert await trimmed() == last - 1
        for tenant in TENANTS:
            await has(c, tenant, "a", "b")
        shards.restart(0, 1, 2, shards=3)
        await moved(c, 3)
        seq = await everywhere(c, "c")
        await recorded(c, seq, *TENANTS)
        for tenant in TENANTS:
            await has(c, tenant, "a", "b", "c")

    on(tmp_path, body, persist_keep_hours=0, persist_trim_bytes_min=0, persist_trim_every_s=3600)


def test_a_lost_table_is_made_again_and_nobody_starts_empty(tmp_path):
    async def body(c, shards):
        shards.start(0, 1, shards=2)
        await moved(c, 2)
        seq = await everywhere(c, "a")
        await recorded(c, seq, *TENANTS)
        before = await owners(c)
        shards.stop(0, 1)
        await c.js.delete_stream(subjects.OWNERS)
        shards.start(0, shards=2)

        async def made():
            return await owners(c)

        table = await until_async(made, "a table")
        assert {line.owner for line in table} == {0, -1}
        shards.start(1, shards=2)
        await moved(c, 2)
        assert await owners(c) == before
        await recorded(c, seq, *TENANTS)
        for tenant in TENANTS:
            await has(c, tenant, "a")

    on(tmp_path, body)
