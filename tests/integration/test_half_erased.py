"""A broker that is killed between noting that a message is gone and overwriting it: `purged` is not said too early."""

import asyncio

from harness.files import grep
from harness.pipeline import pipeline
from harness.waiting import until_async
from jetmem.adapters.nats_connect import api
from jetmem.persist import copies
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus

LETTER = b'{"id":"u","text":["unmentionable"]}'


def killed_half_way(line, monkeypatch, stream):
    """The first message of a stream to be erased is noted as gone, its bytes stay; then another process answers."""
    theirs, left = copies.overwrite, [stream]

    async def overwrite(nc, at, seq):
        if at not in left:
            return await theirs(nc, at, seq)
        left.clear()
        await api(nc, subjects.raw_stream_api("STREAM.MSG.DELETE", at), {"seq": seq, "no_erase": True})
        monkeypatch.setattr(copies, "server_id", lambda nc: "the next process")
        raise Retryable("the broker was killed")

    monkeypatch.setattr(copies, "overwrite", overwrite)


async def is_purged(line, seq, tenant="acme"):
    reply = await line.ask("persist", "forgotten", {"tenant": tenant, "seq": seq}, dict, tenant=tenant)
    return reply["purged"]


async def purging(line, tenant="acme"):
    return (await line.ask("persist", "status", {"tenant": tenant}, StageStatus, tenant=tenant)).counts["purging"]


async def purged(line, seq, tenant="acme"):
    async def done():
        return await is_purged(line, seq, tenant)

    await until_async(done, f"forget {seq} of {tenant} is purged")


def on(tmp_path, body):
    async def go():
        async with pipeline(tmp_path) as line:
            line.settings["persist"] = PersistSettings(
                purge_delay_s=0.1, keep_hours=0, trim_bytes_min=0, trim_every_s=3600
            )
            await line.start("persist")
            await body(line)

    asyncio.run(go())


def words(line, word):
    return grep(word, line.broker.data / "nats")


def test_a_forget_waits_until_memory_is_trimmed_past_what_was_half_erased(tmp_path, monkeypatch):
    async def body(line):
        await line.say("unutterable", id="a")
        await line.say("harmless", id="b", tenant="zoo")
        await line.covered(await line.say("harmless", id="c"))
        killed_half_way(line, monkeypatch, subjects.MEMORY)
        held = await line.forget(ids=["a"])

        async def in_doubt():
            return any(row.due.held for row in line.shells["persist"]._loops["purge"].__self__._copies._held())

        await until_async(in_doubt, "the message is held")
        await others_go_on(line, held, "b")
        await line.stop("persist")
        await line.start("persist")
        await line.say("harmless", id="d", tenant="zoo")
        await others_go_on(line, held, "d")
        for number in range(12):  # more than a file of the stream
            last = await line.say("w" * 900_000, tenant="zoo", id=f"large{number}")
        await line.covered(last)
        assert (await line.ask("persist", "trim", {}, dict))["removed"] > 0
        await purged(line, held)
        assert await purging(line) == 0 and not words(line, b"unutterable")

    on(tmp_path, body)


async def others_go_on(line, held, id_):
    await purged(line, await line.forget("zoo", ids=[id_]), "zoo")  # in a round that had both
    assert not await is_purged(line, held) and await purging(line) == 1 and await purging(line, "zoo") == 0
    assert words(line, b"unutterable"), "or there is nothing to wait for"


def test_a_forget_waits_until_no_file_can_have_the_letter_that_was_half_erased(tmp_path, monkeypatch):
    async def body(line):
        js = line.nc.jetstream()
        await js.publish("mem.zoo.event.alice.s1", b'{"id":"z","text":["harmless"]}')
        refused = await js.publish("mem.acme.event.alice.s1", LETTER)
        await line.covered(refused.seq)

        async def letters():
            return (await js.stream_info(subjects.DEAD)).state.messages == 2

        await until_async(letters, "two letters")
        killed_half_way(line, monkeypatch, subjects.DEAD)
        held = await line.forget(all=True)

        async def asked():
            return bool(line.shells["persist"]._loops["purge"].__self__._copies._held())

        await until_async(asked, "the letter is held")
        assert not await is_purged(line, held) and await purging(line) == 1
        assert words(line, b"unmentionable")
        await purged(line, await line.forget("zoo", all=True), "zoo")  # empties DEAD
        await purged(line, held)
        assert not words(line, b"unmentionable")

    on(tmp_path, body)
