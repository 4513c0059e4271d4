"""Ranking options and corrections through persist, index and query over a real broker, as agents ask."""

import asyncio
import shutil

from harness.pipeline import pipeline

WAIT = {"mode": "text", "wait_ms": 20_000}


def run(body, tmp_path):
    async def test():
        async with pipeline(tmp_path) as line:
            await line.start("persist", "index", "query")
            line.embed.start()
            await body(line)

    asyncio.run(test())


async def search(line, query, *, after, **request):
    reply = await line.query("search", query=query, after=after, **WAIT, **request)
    assert (reply["degraded"], reply["stale"]) == ([], False)
    return reply


def marks(reply):
    return {hit["id"]: hit.get("superseded_by", "") for hit in reply["hits"]}


def test_a_correction_marks_what_it_corrects_as_soon_as_it_is_acknowledged(tmp_path):
    async def body(line):
        await line.say("the harbour closes at nine", id="old")
        other = await line.say("harbour", id="old", tenant="zoo")
        seq = await line.say("it closes at ten", id="new", supersedes="old")
        assert marks(await search(line, "harbour", after=seq)) == {"old": "new", "new": ""}
        assert marks(await search(line, "harbour", tenant="zoo", after=other)) == {"old": ""}
        lowered = await search(line, "harbour", after=seq, rank={"supersede": True}, explain=True)
        assert {hit["id"]: hit["explain"]["superseded"] for hit in lowered["hits"]} == {"old": 0.7, "new": 1.0}

        await line.stop("index")
        shutil.rmtree(line.data / "index")
        await line.start("index")
        assert marks(await search(line, "harbour", after=seq)) == {"old": "new", "new": ""}, "rebuilt from the record"

        seq = await line.forget(ids=["new"])
        assert marks(await search(line, "harbour", after=seq)) == {"old": ""}

    run(body, tmp_path)


def test_repeats_are_folded_page_by_page_and_stay_when_the_newest_is_forgotten(tmp_path):
    async def body(line):
        for number in range(30):
            text = "the harbour is open" if number % 3 else f"harbour news {number}"
            seq = await line.say(text, id=f"e{number}", session=f"s{number}")
        await line.embedded()
        shown, folded, cursor = [], [], {}
        while cursor is not None:
            reply = await search(line, "harbour", after=seq, limit=4, rank={"fold": True}, **cursor)
            shown += [hit["id"] for hit in reply["hits"]]
            folded += [each for hit in reply["hits"] for each in hit.get("folded", [])]
            cursor = {"cursor": reply["cursor"]} if "cursor" in reply else None
        repeats = [f"e{number}" for number in range(29, -1, -1) if number % 3]
        assert sorted([*shown, *folded]) == sorted(f"e{number}" for number in range(30))
        assert folded == repeats[1:], "the newest stands for all"
        assert len(await listed(line, seq)) == 30, "off by default"

        seq = await line.forget(ids=[repeats[0]])
        reply = await search(line, "harbour", after=seq, limit=50, rank={"fold": True})
        assert {hit["id"]: hit["folded"] for hit in reply["hits"] if "folded" in hit} == {repeats[1]: repeats[2:]}

    run(body, tmp_path)


async def listed(line, seq):
    return (await search(line, "harbour", after=seq, limit=50))["hits"]
