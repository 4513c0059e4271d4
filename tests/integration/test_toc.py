"""The table of contents as agents ask for it: broker, persist, index, summarize and query, all real but embed."""

import asyncio

import pytest

from harness.pipeline import pipeline
from harness.waiting import until_async
from jetmem import client
from jetmem.summarize.settings import SummarizeSettings
from jetmem_schemas import requests

QUICK = SummarizeSettings(open_every_s=0.2, rollup_every_s=0.1)
NOW = "2026-05-12T12:00:00Z"
SAID = [
    ("s1", "2026-05-05T10:00:00Z", "the lighthouse keeper paints the harbour red"),
    ("s1", "2026-05-05T10:01:00Z", "he needs twelve buckets of paint for it"),
    ("s1", "2026-05-05T10:02:00Z", "the ferry brings them on Friday"),
    ("s2", "2026-05-06T09:00:00Z", "copper lanterns hang in the meadow"),
    ("s2", "2026-05-06T09:05:00Z", "a violin plays under the lanterns"),
    ("s3", "2025-03-02T09:00:00Z", "the engine of the old tractor is broken"),
]


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = QUICK
            line.embed.start()
            await line.start("persist", "index", "summarize", "query")
            async with client.connect(line.broker.url, tenant="acme", agent="alice") as memory:
                for place, (session, ts, text) in enumerate(SAID):
                    await memory.publish(text, session=session, ts=ts, id=f"e{place}", author="Ann")
                await body(line, memory)

    asyncio.run(test())


def ids(items):
    return [each.id for each in items]


async def told(memory):
    """The root, once every node tells of all that was published."""

    async def whole():
        return not (await memory.toc(after="mine", wait_ms=2_000)).stale

    await until_async(whole, "the table of contents tells of everything")
    return await memory.toc(after="mine")


def test_an_agent_walks_from_the_years_to_the_very_words(tmp_path):
    async def body(line, memory):
        root = await told(memory)
        assert ids(root.nodes) == ["toc:year:2025", "toc:year:2026"]
        assert (root.degraded, root.stale) == ([], False)
        assert root.fresh["toc"] >= memory.last_seq
        node, way = root.nodes[1], []
        while node.children:
            way.append(node.level)
            assert (await memory.toc(node.id)).node == node
            below = [child async for child in memory.browse_all(node.id, limit=1)]
            assert ids(below) == node.children
            assert min(child.start for child in below) == node.start
            assert max(child.end for child in below) == node.end
            node = below[0]
        assert way == ["year", "month", "week", "day"]
        assert (node.session, node.events, node.agents) == ("s1", 3, ["alice"])
        for bullet in node.bullets:
            shown = await memory.expand(grip=bullet.grips[0])
            assert shown.excerpt in shown.event.text
            assert shown.node == node.id
            assert ids(shown.events) == ["e0", "e1", "e2"]
        with pytest.raises(client.RequestRefused) as caught:
            await memory.toc("toc:day:2020-01-01")
        assert (caught.value.code, caught.value.field) == ("not_found", "node")
        assert (await memory.as_tenant("other").toc()).nodes == []

    run(body, tmp_path)


def test_questions_find_their_own_way(tmp_path):
    async def body(line, memory):
        await told(memory)
        week = await memory.route("what did we talk about last week?", now=NOW)
        assert (week.intent, week.strategy, ids(week.nodes)) == ("time-boxed", "toc", ["toc:week:2026-W19"])
        day = await memory.route("what happened on 6 May?", now=NOW)
        assert ids(day.nodes) == ["toc:day:2026-05-06"]
        matter = await memory.route("tell me about the tractor", now=NOW, limit=1)
        assert (matter.nodes[0].level, matter.nodes[0].session) == ("segment", "s3")
        answer = await memory.route("how many buckets of paint?", now=NOW, after="mine", wait_ms=20_000)
        assert (answer.intent, answer.hits[0].id, answer.nodes) == ("answer", "e1", [])
        boxed = await memory.route("who painted in May 2026?", now=NOW)
        assert boxed.since == "2026-05-01T00:00:00.000Z"
        assert set(ids(boxed.hits)) <= {"e0", "e1", "e2", "e3", "e4"}

    run(body, tmp_path)


def test_with_the_indexes_down_a_walk_still_answers(tmp_path):
    async def body(line, memory):
        await told(memory)
        found = await memory.search("violin lanterns", mode="text", after="mine", wait_ms=20_000)
        assert (found.mode, found.hits[0].id) == ("text", "e4")
        await line.stop("index")
        found = await memory.search("violin lanterns", mode="text")
        assert (found.mode, found.hits[0].id, found.degraded) == ("toc", "e4", ["text"])
        assert found.hits[0].segment.startswith("toc:segment:2026-05-06:")
        await line.stop("summarize")
        found = await memory.search("violin lanterns", mode="text", agent="alice", until="2026-05-06T09:05:00Z")
        assert (found.mode, found.hits[0].id, found.degraded) == ("toc", "e3", ["text", "toc"])
        assert (await memory.toc()).degraded == ["toc"]
        assert (await memory.search("violin", mode="text", agent="nobody")).mode == "recent"

    run(body, tmp_path)


def test_what_is_forgotten_is_in_no_node_and_behind_no_grip(tmp_path):
    async def body(line, memory):
        await told(memory)
        week = (await memory.toc("toc:day:2026-05-06")).node
        segment = (await memory.browse(week.id)).nodes[0]
        grips = {(await memory.expand(grip=g)).event.id: g for bullet in segment.bullets for g in bullet.grips}
        assert set(grips) <= {"e3", "e4"} and grips
        await memory.forget(ids=["e3", "e4"])
        for grip in grips.values():
            with pytest.raises(client.RequestRefused) as caught:
                await memory.expand(grip=grip)
            assert (caught.value.code, caught.value.field) == ("not_found", "grip")

        async def gone():
            try:
                await memory.toc(week.id)
            except client.RequestRefused as error:
                return error.code == "not_found"
            return False

        await until_async(gone, "the day is no more")
        await told(memory)
        raw = await memory.ask("toc", {"explain": True})
        assert b"violin" not in raw and b"lantern" not in raw and b"harbour" in raw
        assert isinstance(await memory.route("what's new?"), requests.RouteReply)

    run(body, tmp_path)


async def nodes_found(memory, query, **fields):
    """Ids of the nodes that index finds; what it has not read yet comes later."""
    reply = await memory.search(query, target="nodes", limit=100, **fields)
    return ids(reply.hits) if reply.mode == fields["mode"] else []


async def finds_node(memory, query, wanted, **fields):
    async def found():
        return wanted in await nodes_found(memory, query, **fields)

    await until_async(found, f"{wanted} is found by {query}")


def test_nodes_are_searched_by_words_and_by_vector(tmp_path):
    async def body(line, memory):
        await memory.publish("the ferry was late", session="s1", ts="2026-05-05T18:00:00Z", id="e6", author="Ann")
        await told(memory)
        day, segment = "toc:day:2026-05-06", (await memory.browse("toc:day:2026-05-05")).nodes[0]
        await finds_node(memory, "violin lanterns", day, mode="text")
        found = await memory.search("violin lanterns", mode="text", target="nodes", after="mine", wait_ms=20_000)
        assert (found.mode, found.degraded, found.stale) == ("text", [], False)
        levels = {hit.level: hit for hit in found.hits}
        assert {"segment", "day"} <= set(levels), "what is above tells of other things first"
        assert (levels["day"].type, levels["day"].id) == ("node", day)
        assert "violin" in levels["segment"].text
        assert levels["segment"].session == "s2"
        week = await memory.search("violin paint", mode="text", target="nodes", until="2026-05-06T00:00:00Z")
        assert day not in ids(week.hits) and segment.id in ids(week.hits)
        assert not segment.open, "something was said hours later"

        async def near():
            return segment.id in await line.ids("lighthouse keeper", mode="vector", target="nodes")

        await until_async(near, "a closed segment is found by its vector")
        assert day not in await line.ids("violin lanterns", mode="vector", target="nodes"), "it is still open"
        both = await memory.search("violin lanterns", mode="text", target="both", limit=100)
        assert {hit.type for hit in both.hits} == {"event", "node"}
        other = await memory.as_tenant("other").search("violin", mode="text", target="nodes")
        assert other.hits == []

    run(body, tmp_path)


def test_each_hit_names_the_segment_that_holds_it(tmp_path):
    async def body(line, memory):
        await told(memory)

        async def placed():
            found = await memory.search("violin lanterns", mode="text", after="mine", wait_ms=20_000, limit=1)
            return found.hits[0].segment  # not waited for as long as for the hits

        node = (await memory.toc(await until_async(placed, "a hit names its segment"))).node
        assert (node.session, node.level) == ("s2", "segment")
        await line.stop("summarize")
        found = await memory.search("violin lanterns", mode="text", limit=1)
        assert (ids(found.hits), found.hits[0].segment, found.degraded) == (["e4"], None, [])

    run(body, tmp_path)


def test_what_is_forgotten_is_in_no_node_that_is_found_also_after_a_rebuild(tmp_path):
    async def body(line, memory):
        await told(memory)
        day = "toc:day:2026-05-06"
        await finds_node(memory, "violin lanterns", day, mode="text")
        await finds_node(memory, "paint harbour", "toc:day:2026-05-05", mode="text")
        await memory.forget(ids=["e3", "e4"])
        assert await nodes_found(memory, "violin lanterns", mode="text") == []
        await told(memory)
        await finds_node(memory, "paint harbour", "toc:week:2026-W19", mode="text")
        assert await nodes_found(memory, "violin lanterns", mode="text") == []
        await line.ask("index", "rebuild", {}, dict)
        await line.ended("index")
        await line.start("index")
        await finds_node(memory, "paint harbour", "toc:week:2026-W19", mode="text")
        await finds_node(memory, "paint harbour", "toc:day:2026-05-05", mode="text")
        assert await nodes_found(memory, "violin lanterns", mode="text") == []

    run(body, tmp_path)


def test_with_the_index_down_nodes_are_found_by_a_walk(tmp_path):
    async def body(line, memory):
        await told(memory)
        await line.stop("index")
        found = await memory.search("violin lanterns", mode="text", target="nodes")
        assert (found.mode, found.degraded, [hit.level for hit in found.hits]) == ("toc", ["text"], ["segment"])
        assert "violin" in found.hits[0].text

    run(body, tmp_path)
