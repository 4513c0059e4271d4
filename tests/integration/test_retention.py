"""Nodes leave the index by their tenant's retention, and are found by walking: over a broker and real stages."""

import asyncio
import json

import nats.errors

from harness.commands import jetmem
from harness.pipeline import pipeline
from harness.toc_tree import caught_up, nodes, tree
from harness.waiting import until_async
from jetmem.runtime.clock import SystemClock
from jetmem.summarize.settings import SummarizeSettings
from jetmem_schemas import toc

QUICK = SummarizeSettings(open_every_s=0.2, rollup_every_s=0.1)
DAY_MS = 86_400_000
#: By event time all this is long ago; it arrives now. The first segment is closed, since more is said hours later.
SAID = (
    ("s1", "2020-05-05T10:00:00Z", "the lighthouse keeper paints the harbour red"),
    ("s1", "2020-05-05T18:00:00Z", "the harbour ferry was late"),
    ("s2", "2020-05-06T09:00:00Z", "copper lanterns hang over the harbour"),
)


class Later(SystemClock):
    """So many days from now."""

    days = 0

    def now_ms(self):
        return super().now_ms() + self.days * DAY_MS


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = QUICK
            line.fakes["index"]["clock"] = Later()
            line.embed.start()
            await line.start("persist", "index", "summarize", "query")
            for number, (session, ts, text) in enumerate(SAID):
                await line.say(text, id=f"e{number}", session=session, ts=ts)
            await caught_up(line)
            await body(line)

    asyncio.run(test())


async def has_levels(line, wanted, mode="text"):
    """Until index finds nodes of these levels, this many of each."""

    async def same():
        found = [toc.level_of(id_) for id_ in await line.ids("harbour", mode=mode, target="nodes")]
        return {level: found.count(level) for level in toc.LEVELS if level in found} == wanted

    await until_async(same, f"by {mode} index finds {wanted}")


async def counts(line, name, wanted):
    async def same():
        try:
            return (await line.status()).counts[name] == wanted
        except nats.errors.Error:
            return False

    await until_async(same, f"{name} is {wanted}")


ALL = {"year": 1, "month": 1, "week": 1, "day": 2, "segment": 3}
WITHOUT_SEGMENTS = {level: count for level, count in ALL.items() if level != "segment"}


def test_nodes_leave_after_a_dry_run_are_found_by_walking_and_come_back(tmp_path):
    async def body(line):
        await has_levels(line, ALL)
        await has_levels(line, {"segment": 1}, "vector")
        line.fakes["index"]["clock"].days = 40
        told = json.loads(await jetmem(line, "tenant", "set", "acme", "retention=offered", "--dry-run"))
        assert (told["tenant"], told["dry_run"], list(told["levels"])) == ("acme", True, list(toc.LEVELS))
        leaving = {level: (each["indexed"], each["leaving"], each["days"]) for level, each in told["levels"].items()}
        assert leaving == {
            "year": (1, 0, 0), "month": (1, 0, 0), "week": (1, 0, 1826), "day": (2, 0, 365), "segment": (3, 3, 30)
        }  # fmt: skip
        assert told["levels"]["day"]["next"] and not told["levels"]["segment"]["next"]
        assert json.loads(await jetmem(line, "tenant", "show", "acme"))["settings"] == {}
        assert (await line.status()).counts["nodes_out"] == 0
        await has_levels(line, ALL)

        before = await tree(line)
        await jetmem(line, "tenant", "set", "acme", "retention=offered")
        await counts(line, "nodes_out", 3)
        await has_levels(line, WITHOUT_SEGMENTS)
        await has_levels(line, {}, "vector")
        assert await line.ids("harbour") == ["e0", "e1", "e2"], "it is about nodes alone"
        assert await tree(line) == before, "the record is never touched"
        await walked(line)

        await jetmem(line, "tenant", "set", "acme", "retention.segment=60")
        await has_levels(line, ALL)
        await has_levels(line, {"segment": 1}, "vector")
        await jetmem(line, "tenant", "set", "acme", "retention.segment=10", "retention.day=39")
        await has_levels(line, {"year": 1, "month": 1, "week": 1})
        await jetmem(line, "tenant", "set", "acme", "retention=off")
        await has_levels(line, ALL)

    run(body, tmp_path)


async def walked(line):
    """What is out of the index is there for who goes down the tree, and for a search without any index."""
    day = (await line.query("browse", node="toc:week:2020-W19"))["nodes"][0]
    segments = (await line.query("browse", node=day["id"]))["nodes"]
    assert len(segments) == 2
    grip = segments[0]["bullets"][0]["grips"][0]
    assert "lighthouse" in (await line.query("expand", grip=grip))["excerpt"]
    explored = await line.query("route", query="what did we talk about in May 2020?", now="2020-06-10T00:00:00Z")
    assert (explored["strategy"], [node["id"] for node in explored["nodes"]]) == ("toc", ["toc:month:2020-05"])
    await line.stop("index")
    found = await line.query("search", query="lighthouse keeper", mode="text", target="nodes")
    assert (found["mode"], found["hits"][0]["id"]) == ("toc", segments[0]["id"])
    await line.start("index")


def test_a_restart_and_a_rebuild_leave_out_what_is_out(tmp_path):
    async def body(line):
        await has_levels(line, ALL)
        await jetmem(line, "tenant", "set", "acme", "retention=offered")
        dry = await jetmem(line, "tenant", "set", "acme", "retention.week=", "--dry-run")
        assert json.loads(dry)["levels"]["week"]["days"] == 0, "with what is set already"
        await line.stop("index")
        line.fakes["index"]["clock"].days = 400
        await line.start("index")
        await counts(line, "nodes_out", 5)
        await has_levels(line, {"year": 1, "month": 1, "week": 1})
        await line.ask("index", "rebuild", {}, dict)
        await line.ended("index")
        await line.start("index")
        await counts(line, "nodes_out", 5)
        await has_levels(line, {"year": 1, "month": 1, "week": 1})
        # what is told while its time is over does not enter, be it new or a next version
        await line.say("the harbour master sleeps", id="e9", session="s9", ts=SAID[2][1])
        await caught_up(line)
        last = (await nodes(line, "toc:day:2020-05-06"))[0]
        assert last.events == 2
        await counts(line, "nodes_out", 6)

    run(body, tmp_path)


def test_what_cannot_be_rehearsed_is_said(tmp_path):
    async def body(line):
        pairs = ("timezone=Asia/Tokyo", "retention=off")
        assert "--dry-run is of a retention alone" in await jetmem(
            line, "tenant", "set", "acme", *pairs, "--dry-run", code=2
        )
        assert "retention must be offered or off" in await jetmem(line, "tenant", "set", "acme", "retention=1y", code=2)

    run(body, tmp_path)
