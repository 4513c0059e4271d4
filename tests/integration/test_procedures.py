"""Questions about procedures as agents ask them: broker, persist, learn and query, all real but embed."""

import asyncio

import msgspec
import pytest

from harness.pipeline import FakeEmbed, pipeline
from harness.waiting import until_async
from jetmem.learn.settings import LearnSettings
from jetmem_schemas import subjects

NOW = 1_767_000_000_000
TASK = "repair the failing unit tests of the parser"


async def ran(line, procedure, success, **fields):
    body = msgspec.json.encode({"task": TASK, "success": success, "procedure": procedure, **fields})
    ack = await line.nc.jetstream().publish(subjects.memory("acme", "run", "alice", "s1"), body, timeout=5)
    return int(ack.seq)


def test_runs_are_learnt_and_recommended_and_forgotten(tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.embed = FakeEmbed(line.nc, "learn")
            await line.start("persist", "index", "summarize", "learn", "query")
            line.embed.start()
            for n in range(4):
                tools = [{"tool": "read"}, {"tool": "edit"}]
                await ran(line, "plan", True, id=f"good{n}", steps=tools, context={"lang": "python"})
                seq = await ran(line, "guess", n == 0, id=f"bad{n}", failure="boom")
            how = {"after": seq, "wait_ms": 20_000}
            reply = await line.query("recommend", task=TASK, context={"lang": "python"}, **how)
            assert [each["id"] for each in reply["procedures"]] == ["plan", "guess"]
            assert (reply["degraded"], reply["cold"]) == (["vector"], False), "nobody encodes questions here"
            assert reply["fresh"]["procedures"] >= seq
            assert (await line.query("predict", task=TASK, procedure="plan"))["probability"] > 0.5
            detail = (await line.query("procedure", id="guess", **how))["procedure"]
            assert (detail["runs"], detail["successes"], detail["failures"][0]["text"]) == (4, 1, "boom")
            page = await line.query("procedures", limit=1)
            assert (len(page["procedures"]), "cursor" in page) == (1, True)
            rest = await line.query("procedures", limit=1, cursor=page["cursor"])
            assert page["procedures"] != rest["procedures"]

            async def made():
                raw = await line.nc.request(subjects.query("acme", "patterns"), b"{}", timeout=20)
                return b"read > edit" in raw.data

            await until_async(made, "patterns are found", 60)
            assert [each["id"] for each in (await line.query("related", id="plan"))["procedures"]] == ["guess"]
            assert (await line.query("insights"))["insights"][0]["tasks"] >= 1
            reply = await line.query("forget", ids=[f"bad{n}" for n in range(4)], wait_ms=20_000)
            assert (reply["state"], reply["waiting"]) == ("applied", [])
            reply = await line.query("recommend", task=TASK)
            assert [each["id"] for each in reply["procedures"]] == ["plan"]

    asyncio.run(test())


def test_a_name_for_each_run_leaves_lists_bounded_and_what_is_left_out_within_reach(tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.embed = FakeEmbed(line.nc, "learn")
            line.settings["learn"] = LearnSettings(procedures_max=10)
            await line.start("persist", "index", "summarize", "learn", "query")
            line.embed.start()
            for n in range(40):
                await ran(line, f"plan-{n}", True, task=f"{n} parsers to repair", id=f"x{n}", ts=NOW + n)
                seq = await ran(line, "weekly", n % 2 == 0, ts=NOW + n)
            how = {"after": seq, "wait_ms": 20_000}
            latest = [f"plan-{n}" for n in range(31, 40)]

            async def said():
                listed = await line.query("procedures", sort="name", **how)
                alike = await line.query("recommend", task="3 parsers to repair", k=1, **how)
                told = await line.query("predict", task=TASK, procedure="plan-3", **how)
                shown = (await line.query("procedure", id="plan-3", **how))["procedure"]
                assert [each["id"] for each in listed["procedures"]] == [*latest, "weekly"]
                assert listed["left_out"] == 31
                assert (alike["procedures"][0]["id"], shown["runs"], told["why"]["runs"]) == ("plan-3", 1, 1)
                assert shown["lift"] == pytest.approx(82 / 61), "over all runs, of listed procedures and others"
                return alike["procedures"][0]["probability"], told["probability"]

            before = await said()
            await line.stop("learn")
            await line.start("learn")
            assert await said() == pytest.approx(before, abs=1e-6), "but for what decays meanwhile"
            reply = await line.query("forget", ids=[f"x{n}" for n in range(35, 40)], wait_ms=20_000)
            assert (reply["state"], reply["waiting"]) == ("applied", [])
            listed = await line.query("procedures", sort="name")
            assert [each["id"] for each in listed["procedures"]] == [*(f"plan-{n}" for n in range(26, 35)), "weekly"]
            assert listed["left_out"] == 26
            seq = await ran(line, "plan-3", True, ts=NOW + 99)
            listed = await line.query("procedures", sort="last", limit=1, after=seq, wait_ms=20_000)
            assert (listed["procedures"][0]["id"], listed["procedures"][0]["runs"]) == ("plan-3", 2)

    asyncio.run(test())
