"""Zones, pauses and nodes made again as operators have them: commands as processes, over real stages and a broker."""

import asyncio
import json

import msgspec
import nats.errors
import pytest
import typer

from harness.commands import jetmem, spawned
from harness.pipeline import pipeline
from harness.toc_tree import caught_up, check, levels, tree
from harness.waiting import DEADLINE_S, until_async
from jetmem.adapters.nats_connect import api
from jetmem.adapters.tenant_settings import Bucket
from jetmem.console import toc_operations
from jetmem.runtime.errors import Broken, RequestFailed
from jetmem.summarize.settings import SummarizeSettings
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus

QUICK = SummarizeSettings(open_every_s=0.2, rollup_every_s=0.1)
LATE = "2026-05-05T20:00:00Z"  # the 6th in Tokyo
TOKYO, UTC_DAY = "toc:day:2026-05-06", "toc:day:2026-05-05"


def run(body, tmp_path, *stages):
    async def test():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = QUICK
            await line.start("persist", "summarize", *stages)
            await body(line)

    asyncio.run(test())


async def has(line, day, but):
    async def moved():
        found = await tree(line)
        return day in found and but not in found

    await until_async(moved, f"{day} is there and {but} is not")
    await caught_up(line)
    found = await tree(line)
    check(found)
    return found


async def status(line):
    return await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)


async def paused(line, wanted):
    async def same():
        return (await status(line)).counts["paused"] == wanted

    await until_async(same, f"paused is {wanted}")


def test_a_zone_moves_days_at_once_and_holds_through_a_restart_of_everything(tmp_path):
    async def body(line):
        await line.say("rain over the harbour", id="e1", ts=LATE)
        await line.say("somebody else's rain", id="e1", ts=LATE, tenant="other")
        await has(line, UTC_DAY, TOKYO)
        told = json.loads(await jetmem(line, "tenant", "set", "acme", "timezone=Asia/Tokyo"))
        assert told == {"tenant": "acme", "revision": 1, "settings": {"timezone": "Asia/Tokyo"}}
        assert (await has(line, TOKYO, UTC_DAY))["toc:year:2026"].events == 1
        may_6 = ("--since", "2026-05-06", "--until", "2026-05-06T06:00")
        shown = json.loads(await jetmem(line, "timeline", "acme", *may_6))
        assert (shown["timezone"], [each["id"] for each in shown["events"]]) == ("Asia/Tokyo", ["e1"])
        assert json.loads(await jetmem(line, "timeline", "other", *may_6))["events"] == []
        assert UTC_DAY in await tree(line, "other")
        await line.stop("summarize")
        line.broker.restart()
        await line.start("summarize")
        await line.say("more rain", id="e2", ts=LATE, session="s2")
        assert (await has(line, TOKYO, UTC_DAY))["toc:year:2026"].events == 2
        assert json.loads(await jetmem(line, "tenant", "show", "acme"))["settings"] == {"timezone": "Asia/Tokyo"}
        assert json.loads(await jetmem(line, "tenant", "list")) == {
            "tenant": "acme", "settings": {"timezone": "Asia/Tokyo"}
        }  # fmt: skip
        assert "no setting 'colour'; there is timezone" in await jetmem(
            line, "tenant", "set", "acme", "colour=1", code=2
        )
        line.broker.restart()
        await until_async(lambda: changed(line, timezone=""), "the broker answers")
        await has(line, UTC_DAY, TOKYO)

    run(body, tmp_path, "query")


async def changed(line, **changes):
    try:
        return await Bucket(line.nc).change("acme", changes)
    except (RequestFailed, nats.errors.Error):
        return None


def test_settings_that_were_lost_with_the_brokers_data_are_put_back(tmp_path):
    async def body(line):
        await Bucket(line.nc).change("acme", {"timezone": "Asia/Tokyo"})
        await line.say("rain over the harbour", id="e1", ts=LATE)
        await has(line, TOKYO, UTC_DAY)
        await line.delete_stream(subjects.TENANTS)

        async def back():
            try:
                return (await Bucket(line.nc).get("acme"))[0] == b'{"timezone":"Asia/Tokyo"}'
            except RequestFailed:
                return False

        await until_async(back, "what it knew is back while it runs")
        await line.stop("summarize")
        await line.delete_stream(subjects.TENANTS)
        await line.start("summarize")
        assert await back(), "before it makes the first node"
        await line.say("more rain", id="e2", ts=LATE, session="s2")
        assert (await has(line, TOKYO, UTC_DAY))["toc:year:2026"].events == 2
        # unset is not lost
        await line.stop("summarize")
        await Bucket(line.nc).change("acme", {"timezone": ""})
        await line.start("summarize")
        await has(line, UTC_DAY, TOKYO)

    run(body, tmp_path)


def test_what_others_write_into_the_bucket_wrongly_changes_nothing(tmp_path):
    async def body(line):
        bucket = Bucket(line.nc)
        await bucket.change("acme", {"timezone": "Asia/Tokyo"})
        await line.say("rain over the harbour", id="e1", ts=LATE)
        await has(line, TOKYO, UTC_DAY)
        js = line.nc.jetstream()
        await js.publish(subjects.tenant_settings("acme"), b'{"timezone":"Mars/Phobos"}')
        await js.publish(subjects.tenant_settings("acme") + ".x", b"{}")
        await js.publish(subjects.tenant_settings("beta"), b'{"timezone":"Asia/Tokyo"}')
        await line.say("rain", id="b1", ts=LATE, tenant="beta")

        async def heard():
            return TOKYO in await tree(line, "beta")

        await until_async(heard, "what came afterwards is heard")
        assert TOKYO in await tree(line)
        assert "timezone must be an IANA name" in (await status(line)).last_error
        assert "bad_field: timezone must be" in await jetmem(line, "toc", "pause", "acme", code=1)

    run(body, tmp_path)


def test_two_who_change_the_same_tenant_both_have_their_way(tmp_path):
    async def body(line):
        bucket = Bucket(line.nc)
        await line.nc.jetstream().publish(subjects.tenant_settings("acme"), b'{"newer":{"field":1}}')
        await asyncio.gather(
            *(bucket.change("acme", {"timezone": zone}) for zone in ("Asia/Tokyo", "Asia/Seoul")),
            bucket.change("acme", {"toc_paused": True}),
        )
        value, revision = await bucket.get("acme")
        held = msgspec.json.decode(value)
        assert (held["newer"], held["toc_paused"]) == ({"field": 1}, True)
        assert held["timezone"] in ("Asia/Tokyo", "Asia/Seoul")
        assert revision == 4
        assert (await bucket.change("acme", {"toc_paused": True}))[1] == 4, "nothing to change"

    run(body, tmp_path)


def test_a_bucket_that_would_lose_settings_stops_the_start(tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            config = {"name": subjects.TENANTS, "subjects": list(subjects.TENANTS_SUBJECTS), "storage": "memory"}
            await api(line.nc, subjects.raw_stream_api("STREAM.CREATE", subjects.TENANTS), config)
            with pytest.raises(Broken, match="stream KV_TENANTS has .* is needed; correct or remove it"):
                await line.start("summarize")
            told = await jetmem(line, "toc", "rebuild", "acme", code=1)
            assert told == "jetmem: unavailable: stage summarize is not running"
            await line.delete_stream(subjects.TENANTS)
            told = await jetmem(line, "tenant", "set", "acme", "timezone=Asia/Tokyo", code=1)
            assert "index, summarize and query make the place for them when they start" in told

    asyncio.run(test())


def test_while_paused_answers_say_so_and_afterwards_all_is_made(tmp_path):
    async def body(line):
        await line.say("rain over the harbour", id="e1", ts=LATE)
        await caught_up(line)
        assert (await jetmem(line, "toc", "pause", "acme")).startswith("paused: acme")
        await paused(line, 1)
        seq = await line.say("a storm", id="e2", ts=LATE)
        await line.say("nobody's business", id="z1", ts=LATE, tenant="zoo")
        await caught_up(line, "zoo")
        reply = await line.query("toc", after=seq, wait_ms=100)
        assert (reply["stale"], reply["degraded"], reply["nodes"][0]["events"]) == (True, ["toc"], 1)
        told = await line.query("status")
        (mine,) = (each for each in told["stages"] if each["stage"] == "summarize")
        assert mine["state"] == "paused"
        assert mine["detail"].endswith(" nodes wait")
        (others,) = (
            each for each in (await line.query("status", tenant="zoo"))["stages"] if each["stage"] == "summarize"
        )
        assert others["state"] == "ok"
        again = json.loads(await jetmem(line, "toc", "rebuild", "acme"))
        assert (again["paused"], again["made"]) == (True, 0)
        await line.forget(ids=["e1"])

        async def purged():
            found = await status(line)
            return found.counts["purging"] == 0 and found.counts["pending_nodes"] == 0

        await until_async(purged, "a forget does not wait")
        assert (await tree(line))["toc:year:2026"].events == 1
        await line.stop("summarize")
        await line.start("summarize")
        await line.say("another storm", id="e3", ts=LATE)
        await paused(line, 1)
        assert await jetmem(line, "toc", "resume", "acme") == "resumed: acme"
        await caught_up(line)
        assert (await tree(line))["toc:year:2026"].events == 2

    run(body, tmp_path, "query")


def test_a_pause_of_everyone_is_lifted_apart_from_a_tenants_own(tmp_path):
    async def body(line):
        await jetmem(line, "toc", "pause")
        await jetmem(line, "toc", "pause", "acme")
        await line.say("rain", id="e1", ts=LATE)
        process = await spawned(line, "toc", "resume")
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert (out.decode().strip(), err.decode().strip()) == ("resumed: everyone", "still paused: acme")
        await paused(line, 1)
        await jetmem(line, "toc", "resume", "acme")
        await caught_up(line)
        assert levels(await tree(line))["year"] == 1

    run(body, tmp_path)


def test_a_rebuild_is_rehearsed_and_then_publishes_nothing_that_is_right(tmp_path):
    async def body(line):
        for n in range(6):
            await line.say(f"copper lantern {n}", id=f"e{n}", ts=f"2026-05-{n + 5:02}T10:00:00Z", session=f"s{n}")
        await line.say("rain", id="z1", ts=LATE, tenant="zoo")
        await caught_up(line)
        await caught_up(line, "zoo")
        before = await tree(line)
        stream = await line.nc.jetstream().stream_info(subjects.MEMORY)
        dry = json.loads(await jetmem(line, "toc", "rebuild", "acme", "--from", "2026-05-09", "--dry-run"))
        assert dry == {
            "tenant": "acme", "from": "2026-05-09", "paused": False, "dry_run": True,
            "levels": {
                "year": {"made": 1, "changed": 0}, "month": {"made": 1, "changed": 0},
                "week": {"made": 1, "changed": 0}, "day": {"made": 2, "changed": 0},
                "segment": {"made": 2, "changed": 0},
            },
        }  # fmt: skip
        told = [json.loads(each) for each in (await jetmem(line, "toc", "rebuild", "--all")).splitlines()]
        assert [(each["tenant"], each["made"], each["paused"], each["dry_run"]) for each in told] == [
            ("acme", 15, False, False), ("zoo", 5, False, False)
        ]  # fmt: skip
        assert (await status(line)).counts["remaking"] == 0
        await caught_up(line)
        assert await tree(line) == before
        assert (await line.nc.jetstream().stream_info(subjects.MEMORY)).state.last_seq == stream.state.last_seq
        for wrong in (("acme", "--all"), (), ("acme", "--from", "yesterday")):
            await jetmem(line, "toc", "rebuild", *wrong, code=2)

    run(body, tmp_path)


def test_whoever_interrupts_a_rebuild_is_told_that_it_goes_on(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(toc_operations, "call", interrupted)
    with pytest.raises(typer.Exit) as ended:
        toc_operations.rebuild("acme")
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "jetmem: interrupted; what was asked for so far goes on in summarize\n"
    with pytest.raises(typer.Exit):
        toc_operations.rebuild("acme", dry_run=True)
    assert capsys.readouterr().err == "jetmem: interrupted; nothing was changed\n"


def test_questions_are_understood_in_the_tenants_zone(tmp_path):
    async def body(line):
        await Bucket(line.nc).change("acme", {"timezone": "Asia/Tokyo"})

        async def in_tokyo():
            reply = await line.query("route", query="what did we say yesterday?", now="2026-05-07T20:00:00Z")
            return (reply["since"], reply["until"]) == ("2026-05-06T15:00:00.000Z", "2026-05-07T15:00:00.000Z")

        await until_async(in_tokyo, "yesterday is Tokyo's")
        other = await line.query(
            "route", tenant="other", query="what did we say yesterday?", now="2026-05-07T20:00:00Z"
        )
        assert other["since"] == "2026-05-06T00:00:00.000Z"
        line.broker.restart()
        await until_async(lambda: changed(line, timezone="Europe/Amsterdam"), "the broker answers")

        async def in_amsterdam():
            try:
                reply = await line.query("route", query="what did we say yesterday?", now="2026-05-07T20:00:00Z")
            except (nats.errors.Error, AssertionError):  # it reconnects
                return False
            return reply["since"] == "2026-05-05T22:00:00.000Z"

        await until_async(in_amsterdam, "yesterday is Amsterdam's")

    run(body, tmp_path, "query")
