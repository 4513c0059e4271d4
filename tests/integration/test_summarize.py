"""summarize with a real broker and the real persist: nodes come back recorded, and go with what they were made of."""

import asyncio
import re

import msgspec

from harness.files import grep
from harness.pipeline import pipeline
from harness.toc_tree import caught_up, check, contents, levels, tree
from harness.waiting import until_async
from jetmem.summarize.settings import SummarizeSettings
from jetmem_schemas import subjects, toc
from jetmem_schemas.internal import NodesReply, NodesRequest, StageStatus

QUICK = SummarizeSettings(open_every_s=0.3, rollup_every_s=0.1)
MAY_5 = "2026-05-05T10:00:00Z"
MAY_6 = "2026-05-06T10:00:00Z"


def run(body, tmp_path, *, settings=QUICK):
    async def test():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = settings
            await line.start("persist", "summarize")
            await body(line)

    asyncio.run(test())


def test_what_is_said_stands_in_the_tree(tmp_path):
    async def body(line):
        await line.say("the lighthouse keeper paints the harbour red", id="e1", ts=MAY_5, author="Ann")
        await line.say("copper lanterns hang in the meadow", id="e2", ts=MAY_6)
        await line.say("another agent's violin", id="e3", ts=MAY_6, session="s2")
        await line.say("somebody else's engine", tenant="other", ts=MAY_6)
        await caught_up(line)
        found = await tree(line)
        check(found)
        assert levels(found) == {"year": 1, "month": 1, "week": 1, "day": 2, "segment": 3}
        year = found["toc:year:2026"]
        assert (year.events, year.agents, year.open) == (3, ["alice"], True)
        assert "lighthous" in year.terms and "engin" not in year.terms
        segment = next(
            node for node in found.values() if node.level == "segment" and "toc:segment:2026-05-05" in node.id
        )
        assert [bullet.text for bullet in segment.bullets] == ["Ann: the lighthouse keeper paints the harbour red"]
        assert (segment.session, segment.grips[0].first) == ("s1", "e1")
        status = await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)
        assert (status.counts["pending_nodes"], status.counts["purging"]) == (0, 0)

    run(body, tmp_path)


def test_a_growing_segment_has_new_versions_and_old_ones_stay(tmp_path):
    async def body(line):
        await line.say("rain over the harbour", id="e1", ts=MAY_5)
        await caught_up(line)
        before = await tree(line)
        await line.say("the violin is out of tune", id="e2", ts=MAY_5)
        await caught_up(line)
        after = await tree(line)
        assert set(before) == set(after)
        for name in before:
            assert after[name].version > before[name].version
            assert (before[name].events, after[name].events) == (1, 2)
        old = await line.ask(
            "persist", "nodes", NodesRequest("acme", ["toc:year:2026"], before["toc:year:2026"].version), NodesReply
        )
        assert [toc.decode_node(raw).events for raw in old.nodes] == [1]

    run(body, tmp_path)


def test_what_is_forgotten_leaves_the_tree_and_every_file(tmp_path):
    async def body(line):
        for n in range(20):
            await line.say(f"meadow number {n}", id=f"e{n}", ts=MAY_5)
        await line.say("zanzibarian secrets", id="x1", ts=MAY_5)
        await line.say("zanzibarian whispers", id="x2", ts=MAY_6, session="s2")
        await caught_up(line)
        assert any("zanzibarian" in bullet.text for node in (await tree(line)).values() for bullet in node.bullets)
        await line.forget(ids=["x1", "x2"])
        await caught_up(line)
        found = await tree(line)
        check(found)
        assert levels(found) == {"year": 1, "month": 1, "week": 1, "day": 1, "segment": 1}
        assert found["toc:year:2026"].events == 20
        assert not any(re.search("zanzibar", str(node)) for node in found.values())

        async def purged():
            status = await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)
            return status.counts["purging"] == 0

        await until_async(purged, "purged")
        assert grep(b"meadow", line.data / "summarize")
        assert not grep(b"zanzibar", line.data / "summarize")
        await line.forget(all=True)
        await caught_up(line)
        assert await tree(line) == {}

    run(body, tmp_path)


def test_a_rebuild_gives_the_same_tree_and_publishes_nothing(tmp_path):
    async def body(line):
        for n in range(30):
            await line.say(f"garden engine {n} is warm", id=f"e{n}", ts=MAY_5 if n % 2 else MAY_6, session=f"s{n % 3}")
        await line.forget(ids=["e3", "e4"])
        await caught_up(line)
        before = await tree(line)
        check(before)
        assert await line.ask("summarize", "rebuild", {}, dict) == {"rebuilding": True}
        await line.ended("summarize")
        line.settings["summarize"] = msgspec.structs.replace(QUICK, open_every_s=0.1)
        await line.start("summarize")
        await caught_up(line)
        await until_async(lambda: same(line, before), "the tree is as before")

    async def same(line, before):
        return contents(await tree(line)) == contents(before)

    run(body, tmp_path)


def test_stopped_at_any_time_it_goes_on(tmp_path):
    async def body(line):
        for n in range(6):
            await asyncio.gather(*(line.say(f"winter ticket {n} {m}", id=f"e{n}-{m}", ts=MAY_5) for m in range(10)))
            await line.stop("summarize")
            await line.say("said while it is down", id=f"down{n}", ts=MAY_6)
            if n == 3:
                await line.delete_stream(subjects.RECORD)
                await line.stop("persist")
                await line.start("persist")
            await line.start("summarize")
        await caught_up(line)
        found = await tree(line)
        check(found)
        assert found["toc:year:2026"].events == 66

    run(body, tmp_path)


def test_vectors_of_index_choose_the_bullets_once_they_are_there(tmp_path):
    settings = msgspec.structs.replace(QUICK, vectors_rest_s=0.2)

    async def body():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = settings
            await line.start("persist", "summarize")
            said = [f"copper lantern {n} hangs near the meadow of {'Bob' if n % 2 else 'Nora'}" for n in range(20)]
            for n, text in enumerate(said):
                await line.say(text, id=f"e{n}", ts=MAY_5)
            await caught_up(line)
            before = await tree(line)
            assert {node.by for node in before.values()} == {"words"}, "index is not even there"
            line.embed.start()
            await line.start("index")
            await until_async(lambda: lacks(line, 0), "vectors came")
            await caught_up(line)
            after = await tree(line)
            check(after)
            assert {node.by for node in after.values()} == {"vectors"}
            await line.forget(ids=["e3"])
            await caught_up(line)
            await until_async(lambda: lacks(line, 0), "without the forgotten one")
            await caught_up(line)
            found = await tree(line)
            check(found)
            assert found["toc:year:2026"].events == 19

    async def lacks(line, count):
        status = await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)
        return status.counts["without_vectors"] == count and status.counts["pending_nodes"] == 0

    asyncio.run(body())
