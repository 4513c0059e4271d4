"""Questions about procedures as agents ask them: broker, persist, learn and query, all real but embed."""

import asyncio

import msgspec

from harness.pipeline import FakeEmbed, pipeline
from harness.waiting import until_async
from jetmem_schemas import subjects

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
