"""A stage that is added later is one folder and one line: `harness/stages/tally` and the line in `harness/toy.py`."""

import asyncio

import nats
import nats.js.errors
import pytest

import jetmem
from harness import toy
from harness.broker import Broker
from harness.pipeline import pipeline
from harness.waiting import DEADLINE_S, until_async
from jetmem import flow
from jetmem.adapters.embed_asker import is_full
from jetmem.adapters.supervised import Timing
from jetmem.query.settings import QuerySettings
from jetmem.supervisor import Plan, Supervisor
from jetmem_schemas import subjects
from jetmem_schemas.internal import AppliedReply, AppliedRequest, StageStatus

STAGES = ("persist", "index", "tally", "query")


@pytest.fixture
def line_in_the_flow(monkeypatch):
    monkeypatch.setattr(jetmem, "__path__", toy.path())
    monkeypatch.setattr(flow, "STAGES", toy.stages("embed", "summarize", "learn"))


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.settings["query"] = QuerySettings(forget_wait_s=1.0)  # of who is down; nobody is waited for longer
            await line.start(*STAGES)
            line.embed.start()
            await body(line)

    asyncio.run(test())


async def words(line, **how):
    from jetmem.tally.app import CountReply, CountRequest

    reply = await line.ask("tally", "count", CountRequest("acme", **how), CountReply)
    assert reply.late == []
    return reply.words


async def said(line, count, prefix="e"):
    """Four words each."""
    return max(await asyncio.gather(*(line.say(f"zanzibar has number {n}", id=f"{prefix}{n}") for n in range(count))))


def test_it_applies_and_is_waited_for(line_in_the_flow, tmp_path):
    async def body(line):
        seq = await said(line, 30)
        rseq = await line.covered(seq)
        assert await words(line, rseq=rseq, wait_ms=20_000) == 120
        reply = await line.ask("tally", "applied", AppliedRequest("acme", rseq, 20_000), AppliedReply)
        assert (set(reply.at), reply.late) == ({"tally"}, [])
        assert reply.at["tally"].rseq == rseq
        own = await line.ask("tally", "status", {"tenant": "acme"}, StageStatus)
        assert (own.stage, own.instance, own.healthy) == ("tally", "tally-0", True)
        assert own.counts["tally_seq"] >= seq
        seq = await line.say("four words once more")
        status = await line.query("status", after=seq, wait_ms=20_000)
        assert (status["degraded"], status["stale"]) == ([], False)
        assert min(status["fresh"][arm] for arm in ("record", "text", "vector", "tally")) >= seq
        assert [(s["stage"], s["state"]) for s in status["stages"]] == [(name, "ok") for name in STAGES]
        assert status["events"] == 31, "persist's, not what another stage calls so"

    run(body, tmp_path)


def test_while_it_is_down_answers_say_so_and_a_forget_waits_for_it(line_in_the_flow, tmp_path):
    async def body(line):
        rseq = await line.covered(await said(line, 10))
        assert await words(line, rseq=rseq, wait_ms=20_000) == 40
        await line.stop("tally")
        reply = await line.query("status")
        assert reply["degraded"] == ["tally"]
        assert {s["stage"]: s["state"] for s in reply["stages"]}["tally"] == "down"
        seq = await line.say("four words once more")
        reply = await line.query("status", after=seq, wait_ms=200)
        assert "tally" in reply["degraded"]
        assert reply["stale"]
        reply = await line.query("forget", ids=["e0", "e1"])
        assert (reply["state"], reply["waiting"]) == ("accepted", ["tally"])
        assert reply["degraded"] == ["tally"]
        assert (await line.query("search", query="zanzibar", mode="text"))["degraded"] == [], "no arm of a search"
        await line.start("tally")
        assert await words(line, rseq=await line.covered(reply["seq"]), wait_ms=20_000) == 36
        await line.stop("query")
        line.settings["query"] = QuerySettings(forget_wait_s=60.0)
        await line.start("query")
        reply = await line.query("forget", ids=["e2"])
        assert (reply["state"], reply["waiting"], reply["degraded"]) == ("applied", [], [])
        assert reply["fresh"]["tally"] >= reply["seq"]
        assert await words(line) == 32

    run(body, tmp_path)


def test_it_is_rebuilt_from_nothing(line_in_the_flow, tmp_path):
    async def body(line):
        rseq = await line.covered(await said(line, 10))
        rseq = await line.covered(await line.forget(ids=["e0"]))
        assert await words(line, rseq=rseq, wait_ms=20_000) == 36
        await line.purge_stream(subjects.RECORD)
        assert await line.ask("tally", "rebuild", {}, dict) == {"rebuilding": True}
        await line.ended("tally")
        await line.start("tally")
        assert not (line.data / "tally" / "rebuild").exists()
        assert await words(line, rseq=rseq, wait_ms=20_000) == 36

    run(body, tmp_path)


def test_the_supervisor_runs_it_as_any_other(line_in_the_flow, tmp_path):
    async def test():
        timing = Timing(restart_first_s=0.1)
        up = Supervisor(Plan(root=tmp_path / "data", port=0, command=toy.command, timing=timing))
        running = asyncio.create_task(up.run())
        try:

            async def ready():
                return up.ready.is_set() or running.done()

            await until_async(ready, "ready")
            assert [(child.name, child.state) for child in up.running()] == [
                ("nats-server", "ok"), *((name, "ok") for name in STAGES)
            ]  # fmt: skip
        finally:
            up.stop()
            await asyncio.wait_for(running, DEADLINE_S)

    asyncio.run(test())


def test_a_full_stream_is_recognised():
    """Asking embed waits then; the server says it in words only, its code is that of every refusal to store."""

    async def test():
        with Broker() as broker:
            nc = await nats.connect(broker.url)
            js = nc.jetstream()
            for name, bound in (("BYTES", {"max_bytes": 2_000}), ("NUMBER", {"max_msgs": 3})):
                await js.add_stream(name=name, subjects=[f"{name}.>"], discard="new", storage="memory", **bound)
                with pytest.raises(nats.js.errors.APIError) as caught:
                    for _ in range(10):
                        await js.publish(f"{name}.x", b"x" * 400)
                assert is_full(caught.value), caught.value
            with pytest.raises(nats.js.errors.Error) as caught:
                await js.publish("nobody.listens", b"")
            assert not is_full(caught.value)
            await nc.close()

    asyncio.run(test())
