"""`expires_at`: past it no verb returns the event, later no file holds it, whoever is killed and whatever is moved."""

import asyncio
import contextlib
import json
import shutil
import time

import msgspec
import nats
import nats.errors
import pytest

from harness.broker import Broker
from harness.files import grep
from harness.persist_process import Client, PersistProcess, client, run
from harness.shards import Shards, moved, recorded, tenants_of
from harness.up import up
from harness.waiting import until_async
from jetmem import client as sdk
from jetmem.adapters.nats_streams import next_message
from jetmem.adapters.rocks import Rocks
from jetmem.client import ClientError
from jetmem.persist import expiring
from jetmem.persist.moments import go_epoch_ms
from jetmem.persist.record import FAMILIES, FORMAT
from jetmem_schemas import subjects
from jetmem_schemas.internal import decode_entry

QUICK = {"persist_purge_delay_s": 0.1, "persist_expire_every_s": 0.1}
NEVER = {"persist_expire_every_s": 0}
PAST = 1_000_000_000_000


@pytest.fixture
def own(tmp_path):
    """Not started yet."""
    with Broker() as broker:
        persist = PersistProcess(broker, tmp_path / "data", **QUICK)
        try:
            yield broker, persist
        finally:
            if persist.running():
                persist.kill()


def on(pair, body):
    async def go():
        async with client(pair[0]) as c:
            await body(c)

    run(go())


def now_ms():
    return time.time_ns() // 1_000_000


async def say(c, id_, expires_at=None, *, tenant="acme", word="unmentionable"):
    body = {"id": id_, "text": f"{word} of {id_}"} | ({} if expires_at is None else {"expires_at": expires_at})
    return await c.publish(body, f"mem.{tenant}.event.alice.s1")


async def held(c, *ids, tenant="acme"):
    found = await c.ask("fetch", tenant=tenant, ids=list(ids))
    return [decode_entry(each.entry).id for each in found.items]


async def gone(c, *ids, tenant="acme"):
    async def none():
        try:
            return not await held(c, *ids, tenant=tenant)
        except nats.errors.NoRespondersError:  # who was just started owns it, and does not listen yet
            return False

    await until_async(none, f"{len(ids)} events expire")


async def forgets(c, tenant="acme"):
    """(sequence, broker time in ms, ids) of each forget in MEMORY."""
    found, seq = [], 1
    while message := await next_message(c.nc, subjects.MEMORY, seq, f"memp.*.{tenant}.forget.>"):
        found.append((message.seq, go_epoch_ms(message.time), json.loads(message.data)["ids"]))
        seq = message.seq + 1
    return found


async def forgotten_once(c, ids, tenant="acme"):
    """All of them, in entries of so many at most; what came with each is in the log once."""
    told = [msgspec.msgpack.decode(e.body)[0] for e in await c.entries(tenant) if e.kind == "forgot"]
    assert sorted(each for some in told for each in some) == sorted(ids)
    assert max(map(len, told)) <= 500


def test_past_its_time_an_event_is_erased_and_not_before(own):
    broker, persist = own

    async def body(c):
        at = now_ms() + 1_500
        await say(c, "short", at)
        await c.recorded(await say(c, "long", at + 3_600_000, word="kept"))
        await gone(c, "short")
        ((seq, when, ids),) = await forgets(c)
        assert ids == ["short"] and when >= at, "by the broker's clock"
        await c.purged(seq)
        assert not grep(b"unmentionable", broker.data / "nats", persist.data / "persist")
        assert grep(b"kept of long", broker.data / "nats", persist.data / "persist")
        assert await held(c, "long") == ["long"]
        await c.recorded(await say(c, "short", at))
        assert await held(c, "short") == [], "said again it stays away"

    persist.start()
    on(own, body)


@pytest.mark.parametrize("point", ["expire:before-publish", "expire:after-publish"])
def test_killed_on_the_way_it_is_forgotten_once(own, point):
    broker, persist = own

    async def body(c):
        await c.recorded(await say(c, "stays", word="kept"))
        await say(c, "one", PAST)

        async def died():
            return not persist.running()

        await until_async(died, f"persist dies at {point}")
        assert persist.ended() == -9
        published = await forgets(c)
        assert len(published) == (point == "expire:after-publish")
        persist.start()
        await c.recorded(1)
        await gone(c, "one")
        ((seq, _, ids),) = await forgets(c)
        assert ids == ["one"]
        await c.purged(seq)
        await forgotten_once(c, ["one"])
        assert await held(c, "stays") == ["stays"]
        assert not grep(b"unmentionable", broker.data / "nats", persist.data / "persist")

    persist.start(crash=point)
    on(own, body)


def test_what_expires_while_nobody_is_there_goes_at_the_next_start(own):
    _, persist = own

    async def before(c):
        await c.recorded(await say(c, "one", PAST))
        assert await held(c, "one") == ["one"], "0 is for never"

    async def after(c):
        await gone(c, "one", "unread")
        assert len(await forgets(c)) == 1

    persist.start(**NEVER)
    on(own, before)
    persist.kill()
    persist.start(**NEVER)

    async def unread(c):
        await c.recorded(await say(c, "unread", PAST))

    on(own, unread)
    persist.stop()
    persist.start()
    on(own, after)


def test_thousands_at_once_go_in_turns_beside_what_others_say(own):
    count = 3_000
    many = [f"e{n}" for n in range(count)]

    async def body(c):
        at = now_ms() + 2_000
        bodies = (msgspec.json.encode({"id": id_, "text": "w", "expires_at": at}) for id_ in many)
        sent = [await c.js.publish_async("mem.acme.event.bot.s", body) for body in bodies]
        await c.recorded(max(ack.seq for ack in await asyncio.gather(*sent)))
        await c.recorded(await say(c, "one", at, tenant="zoo"))
        await gone(c, "one", tenant="zoo")
        await c.recorded(await say(c, "other", tenant="other"))
        for start in range(0, count, 500):
            await gone(c, *many[start : start + 500])
        published = await forgets(c)
        assert sorted(id_ for _, _, ids in published for id_ in ids) == sorted(many)
        assert max(len(ids) for _, _, ids in published) <= 500
        await forgotten_once(c, many)
        assert (await c.ask("agents", tenant="acme", limit=10)).items == []

    own[1].start()
    on(own, body)


def test_a_store_of_a_version_that_knew_no_expiry_is_looked_through(own):
    _, persist = own

    async def before(c):
        await say(c, "past", PAST)
        await c.recorded(await say(c, "never"))

    async def after(c):
        await gone(c, "past")
        assert await held(c, "never") == ["never"]

    persist.start(**NEVER)
    on(own, before)
    persist.stop()
    store = Rocks(persist.data / "persist", FAMILIES, format_version=FORMAT)
    batch = store.batch()
    for mine in (expiring.EXPIRES, expiring.LISTED):
        rows = list(store.scan("meta", mine))
        assert len(rows) == 1
        batch.delete("meta", rows[0][0])
    store.write(batch, sync=True)
    store.close()
    persist.start()
    on(own, after)


def test_a_store_put_back_forgets_what_expired_since_the_copy_once(own, tmp_path):
    _, persist = own
    copy = tmp_path / "copy"

    async def before(c):
        await say(c, "stays")
        await c.recorded(await say(c, "one", PAST))

    async def since(c):
        await gone(c, "one")
        ((seq, *_),) = await forgets(c)
        await c.purged(seq)

    async def after(c):
        await gone(c, "one")
        await forgotten_once(c, ["one"])
        assert len(await forgets(c)) == 1
        assert await held(c, "stays") == ["stays"]

    persist.start(**NEVER)
    on(own, before)
    persist.stop()
    shutil.copytree(persist.data / "persist", copy)
    persist.start()
    on(own, since)
    persist.stop()
    shutil.rmtree(persist.data / "persist")
    shutil.copytree(copy, persist.data / "persist")
    persist.start()
    on(own, after)


def test_who_has_the_partition_forgets_what_expires_in_it(tmp_path):
    stays, goes = tenants_of([0, 1])

    async def body(c, shards):
        shards.start(0, shards=1, **NEVER)
        await moved(c, 1)
        seq = max([await say(c, "one", PAST, tenant=tenant) for tenant in (stays, goes)])
        await recorded(c, seq, stays, goes)
        assert await held(c, "one", tenant=goes) == ["one"]
        shards.stop(0)
        shards.start(0, shards=2, **NEVER)
        shards.start(1, shards=2)
        await moved(c, 2)
        await gone(c, "one", tenant=goes)
        assert await held(c, "one", tenant=stays) == ["one"]
        shards.restart(0, shards=2)
        for tenant in (stays, goes):
            await gone(c, "one", tenant=tenant)
            ((_, _, ids),) = await forgets(c, tenant)
            assert ids == ["one"]

    async def go(broker, shards):
        async with plain(broker.url) as c:
            await body(c, shards)

    with Broker() as broker, Shards(broker, tmp_path, **QUICK) as shards:
        run(go(broker, shards))


@contextlib.asynccontextmanager
async def plain(url):
    nc = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        yield Client(nc)
    finally:
        await nc.close()


# the whole pipeline

WORD = "unmentionable"
ASKED = (
    ("search", {"query": WORD, "mode": "text", "target": "both"}),
    ("search", {"query": WORD, "mode": "hybrid", "target": "both"}),
    ("search", {"query": WORD, "mode": "vector"}),
    ("get", {"ids": ["short"]}),
    ("expand", {"id": "short"}),
    ("expand", {"id": "long", "before_events": 5, "after_events": 5}),
    ("timeline", {}),
    ("toc", {}),
    ("route", {"query": f"what was said of the {WORD} thing?"}),
    ("topics", {}),
)


async def telling(memory):
    """Verbs in whose answers the word stands, beside the question."""
    found = set()
    for verb, asked in ASKED:
        try:
            reply = (await memory.ask(verb, asked)).decode()
        except ClientError as error:
            assert error.code == "not_found"
            continue
        if f"the {WORD} colour" in reply:
            found.add(verb)
    return found


def test_no_verb_returns_what_is_past_its_time_and_no_file_holds_it(tmp_path):
    async def before(url):
        async with sdk.connect(url, tenant="acme", agent="alice", answer_s=60) as memory:
            await memory.publish(f"the {WORD} colour is green", session="s1", id="short", expires_at=PAST)
            await memory.publish("the harbour gate is open", session="s1", id="long")

            async def told():
                return {"search", "get", "expand", "timeline", "toc"} <= await telling(memory)

            await until_async(told, "every verb tells it")

    async def after(url):
        async with sdk.connect(url, tenant="acme", agent="alice", answer_s=60) as memory:

            async def untold():
                return not await telling(memory)

            await until_async(untold, "no verb tells it")
            assert (await memory.get("long")).missing == []

            async with plain(url) as c:
                ((seq, _, ids),) = await forgets(c)
            assert ids == ["short"]

            async def purged():
                return (await memory.forget(seq=seq)).state == "purged"

            await until_async(purged, "the forget is purged")

    with up(tmp_path, **NEVER) as running:
        asyncio.run(before(running.url))
    assert grep(WORD.encode(), tmp_path)
    with up(tmp_path, **QUICK) as running:
        asyncio.run(after(running.url))
        assert grep(WORD.encode(), tmp_path) == []
