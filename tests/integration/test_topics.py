"""Topics as agents ask for them: broker, persist, index, summarize and query, all real but embed."""

import asyncio
import contextlib

import pytest

from harness.files import grep
from harness.pipeline import pipeline
from harness.toc_tree import caught_up
from harness.waiting import until_async
from jetmem import client
from jetmem.summarize.settings import SummarizeSettings
from jetmem_schemas.internal import StageStatus

QUICK = SummarizeSettings(open_every_s=0.1, rollup_every_s=0.1, topics_every_s=0.2)
START_MS = 1_777_975_200_000  # 2026-05-05, 10:00 in UTC
HOUR = 3_600_000
#: Grouping starts a process of the lowest priority that imports scikit-learn: on a busy machine that takes its time.
GROUPED_S = 120.0
TALKS = {
    "sea": "the harbour lighthouse keeper watches every ship at sea",
    "cake": "lemon cake needs butter sugar eggs and a warm oven",
}


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            line.settings["summarize"] = QUICK
            line.embed.start()
            await line.start("persist", "index", "summarize", "learn", "query")
            async with client.connect(line.broker.url, tenant="acme", agent="alice") as memory:
                await body(line, memory)

    asyncio.run(test())


async def talk(line, kind, first, count):
    """Events an hour apart: each closes the segment of the one before, the last one stays open."""
    for n in range(first, first + count):
        text = f"{TALKS[kind]} {kind}{n}x"
        await line.say(text, id=f"{kind}{n}", session=kind, ts=START_MS + n * HOUR, author="Ann")


@contextlib.asynccontextmanager
async def at_once(line):
    """All that is said meanwhile is placed in one write, so that all of it is grouped together, however slowly."""
    line.embed.open.clear()
    yield
    await caught_up(line)
    await line.stop("summarize")
    line.embed.open.set()
    await line.embedded()
    await line.start("summarize")


async def sizes(memory, *wanted):
    """Topics by title, once they have so many segments."""
    found = []

    async def so():
        nonlocal found
        found = (await memory.topics()).topics
        return sorted(t.segments for t in found) == sorted(wanted) and all(t.title for t in found)

    try:
        await until_async(so, f"topics of {wanted} segments", GROUPED_S)
    except AssertionError as error:
        raise AssertionError(f"topics are {found}") from error
    return found


def of(found, word):
    return next(t for t in found if word in " ".join(t.keywords).lower())


def test_topics_come_grow_forget_and_stay(tmp_path):
    async def body(line, memory):
        async with at_once(line):
            await talk(line, "sea", 0, 15)
            await talk(line, "cake", 0, 12)
        found = await sizes(memory, 14, 11)
        sea, cake = of(found, "harbour"), of(found, "cake")
        assert (sea.events, sea.agents, sea.first) == (14, ["alice"], "2026-05-05T10:00:00.000Z")
        assert sea.importance > cake.importance > 0
        assert "ann" not in " ".join([sea.title, *sea.keywords]).lower()
        opened = await memory.topic(sea.id, limit=10)
        rest = await memory.topic(sea.id, limit=10, cursor=opened.cursor)
        assert len(opened.segments + rest.segments) == 14
        node = (await memory.toc(opened.segments[0].id)).node
        assert (node.title, node.session) == (opened.segments[0].title, "sea")
        assert [t.id async for t in memory.topics_all(limit=1)] == [sea.id, cake.id]
        assert [t.id for t in (await memory.topics(since=START_MS + 12 * HOUR)).topics] == [sea.id]
        assert (await memory.as_tenant("other").topics()).topics == []
        with pytest.raises(client.RequestRefused) as caught:
            await memory.as_tenant("other").topic(sea.id)
        assert (caught.value.code, caught.value.field) == ("not_found", "id")

        await talk(line, "sea", 15, 1)
        found = await sizes(memory, 15, 11)
        assert {t.id for t in found} == {sea.id, cake.id}

        await line.stop("summarize")
        await line.start("summarize")
        assert {t.id: t.segments for t in await sizes(memory, 15, 11)} == {sea.id: 15, cake.id: 11}

    run(body, tmp_path)


def test_no_topic_says_what_was_forgotten_and_no_file_holds_it(tmp_path):
    async def body(line, memory):
        async with at_once(line):
            await talk(line, "sea", 0, 15)
            await talk(line, "cake", 0, 15)
            for n in range(15, 25):
                text = "zanzibarian whispers of zanzibarian ghosts"
                await line.say(text, id=f"z{n}", session="z", ts=START_MS + n * HOUR)
        found = await sizes(memory, 14, 14, 9)
        ghost = of(found, "zanzibarian")
        reply = await memory.forget(ids=[f"z{n}" for n in range(15, 24)])
        assert reply.state in ("applied", "purged")
        assert b"zanzibar" not in await memory.ask("topics", {})
        assert "zanzibar" not in " ".join(t.title for t in (await sizes(memory, 14, 14)))
        with pytest.raises(client.RequestRefused):
            await memory.topic(ghost.id)
        await memory.forget(ids=["z24", "cake3"])
        await caught_up(line)

        async def purged():
            status = await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)
            return status.counts["purging"] == 0

        await until_async(purged, "purged")
        await sizes(memory, 14, 13)
        assert grep(b"lighthouse", line.data / "summarize")
        assert not grep(b"zanzibar", line.data / "summarize")

    run(body, tmp_path)


def test_with_index_down_topics_stand_still_and_say_so(tmp_path):
    async def body(line, memory):
        async with at_once(line):
            await talk(line, "sea", 0, 15)
            await talk(line, "cake", 0, 10)
        await sizes(memory, 14, 9)
        await line.stop("index")
        await talk(line, "sea", 15, 2)

        async def still():
            reply = await memory.topics()
            return reply.degraded == ["vector", "topics"] and sorted(t.segments for t in reply.topics) == [9, 14]

        await until_async(still, "it says that topics stand still")
        status = await line.ask("summarize", "status", {"tenant": "acme"}, StageStatus)
        assert status.counts["topics"] == "stand still: index cannot be asked"
        await line.start("index")
        await sizes(memory, 16, 9)
        await caught_up(line)

        async def whole():
            return (await memory.topics()).degraded == []

        await until_async(whole, "nothing is degraded")
        await line.stop("summarize")
        with pytest.raises(client.Unavailable):
            await memory.topics()

    run(body, tmp_path)
