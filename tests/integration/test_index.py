"""index against a real broker and the real persist: whatever is lost on the way, in the end it finds what was said."""

import asyncio
import shutil

import msgspec
import numpy as np
import pytest

from harness.pipeline import pipeline
from harness.waiting import DEADLINE_S, until_async
from jetmem.adapters.tantivy_text import analyze
from jetmem.index import app
from jetmem.runtime import limits, metrics
from jetmem_schemas import subjects
from jetmem_schemas.internal import encode


def run(body, tmp_path, *, embed=True, start=("persist", "index"), **settings):
    async def test():
        async with pipeline(tmp_path, **settings) as line:
            await line.start(*start)
            if embed:
                line.embed.start()
            await body(line)

    asyncio.run(test())


def names(count, prefix="e"):
    return [f"{prefix}{n}" for n in range(count)]


async def say_all(line, word, ids, **where):
    return max(await asyncio.gather(*(line.say(f"{word} number {id_}", id=id_, **where) for id_ in ids)))


def test_words_are_found_soon_and_vectors_as_they_come(tmp_path):
    async def body(line):
        line.embed.open.clear()
        await say_all(line, "zanzibar", names(20))
        await line.finds("zanzibar", names(20))
        reply = await line.find("zanzibar", mode="hybrid")
        assert reply.missing == ["vector"], "no model is known before the first vectors"
        line.embed.open.set()
        await line.embedded()
        await line.finds("zanzibar", names(20), mode="vector")
        reply = await line.find("zanzibar number e7", mode="hybrid")
        assert reply.hits[0].id == "e7"
        assert sorted(reply.hits[0].arms) == ["text", "vector"]
        assert reply.missing == reply.late == []
        assert sorted(line.embed.texts) == sorted(f"zanzibar number {i}" for i in names(20))

    run(body, tmp_path)


def test_equal_texts_are_embedded_once(tmp_path):
    async def body(line):
        await asyncio.gather(*(line.say("lighthouse keeper", id=f"e{n}", session=f"s{n % 3}") for n in range(200)))
        await line.finds("lighthouse", names(200), limit=1000)
        await line.embedded()
        await line.finds("lighthouse", names(200), limit=1000, mode="vector")
        assert line.embed.texts == ["lighthouse keeper"]

    run(body, tmp_path)


@pytest.mark.parametrize("how", ["purge", "delete"])
def test_lost_announcements_are_scanned(tmp_path, how):
    async def body(line):
        await say_all(line, "zanzibar", names(5))
        await line.finds("zanzibar", names(5))
        for round_ in range(5):
            saying = asyncio.create_task(say_all(line, "zanzibar", names(60, f"r{round_}")))
            while not saying.done():
                if how == "purge":
                    await line.purge_stream(subjects.RECORD)
                else:
                    await line.delete_stream(subjects.RECORD)
                await asyncio.sleep(0)
            await saying
            # the last message of the round is lost for sure
            await line.delete_stream(subjects.RECORD)
        every = names(5) + [i for r in range(5) for i in names(60, f"r{r}")]
        await line.finds("zanzibar", every, limit=1000)
        assert len((await line.find("zanzibar", limit=1000)).hits) == len(every)

    run(body, tmp_path, embed=False)


def test_a_restarted_broker_loses_both_wires_and_nothing_else(tmp_path):
    async def body(line):
        line.embed.open.clear()
        await say_all(line, "zanzibar", names(30))
        await line.finds("zanzibar", names(30))
        await asyncio.to_thread(line.broker.restart)
        await until_async(lambda: connected(line), "the client is back")
        await say_all(line, "zanzibar", names(30, "f"))
        await line.finds("zanzibar", names(30) + names(30, "f"))
        line.embed.open.set()
        await line.embedded()
        await line.finds("zanzibar", names(30) + names(30, "f"), mode="vector")

    run(body, tmp_path)


async def connected(line):
    return line.nc.is_connected


def test_persist_away_for_a_while(tmp_path):
    async def body(line):
        await say_all(line, "zanzibar", names(5))
        await line.finds("zanzibar", names(5))
        await line.stop("persist")
        await say_all(line, "zanzibar", names(5, "f"))
        await line.finds("zanzibar", names(5))
        await line.start("persist")
        await line.finds("zanzibar", names(5) + names(5, "f"))

    run(body, tmp_path, embed=False)


def test_index_away_for_a_while_and_before_persist(tmp_path):
    async def body(line):
        await line.start("index")
        assert await line.ids("zanzibar") == []
        await line.start("persist")
        await say_all(line, "zanzibar", names(5))
        await line.finds("zanzibar", names(5))
        await line.stop("index")
        await say_all(line, "zanzibar", names(50, "f"))
        await line.start("index")
        await line.finds("zanzibar", names(5) + names(50, "f"))

    run(body, tmp_path, embed=False, start=())


def test_rebuild_is_an_empty_store(tmp_path):
    async def body(line):
        await say_all(line, "zanzibar", names(40))
        await line.embedded()
        await line.finds("zanzibar", names(40))
        subject = subjects.service("index", "all", "rebuild")
        reply = await line.nc.request(subject, encode({}), timeout=DEADLINE_S)
        assert msgspec.msgpack.decode(reply.data) == {"rebuilding": True}
        await line.ended("index")
        await line.start("index")
        assert line.shells["index"].health.ready
        await line.finds("zanzibar", names(40))
        await line.embedded()
        await line.finds("zanzibar", names(40), mode="vector")
        assert not (line.data / "index" / "rebuild").exists()
        assert len(line.embed.texts) == 80

    run(body, tmp_path)


def test_an_index_that_begins_anew_says_that_it_lacks(tmp_path):
    async def body(line):
        await say_all(line, "zanzibar", names(40))
        await line.finds("zanzibar", names(40))
        await line.stop("index", "persist")
        shutil.rmtree(line.data / "index")
        await line.start("index")
        reply = await line.find("zanzibar")
        assert (reply.hits, reply.late) == ([], ["text"])
        await line.start("persist")
        await line.finds("zanzibar", names(40))
        assert (await line.find("zanzibar")).late == []

    run(body, tmp_path)


def test_an_older_persist_makes_index_rebuild(tmp_path):
    """Its stream was replaced too, so what follows has other sequences: index must not keep what no log has."""

    async def body(line):
        await say_all(line, "zanzibar", names(5))
        await line.finds("zanzibar", names(5))
        await line.stop("persist")
        shutil.copytree(line.data / "persist", line.data / "copy")
        await line.start("persist")
        await say_all(line, "zanzibar", names(5, "lost"))
        await line.finds("zanzibar", names(5) + names(5, "lost"))
        await line.stop("persist")
        shutil.rmtree(line.data / "persist")
        (line.data / "copy").rename(line.data / "persist")
        await line.start("persist")  # reads on from its own checkpoint: the same log again
        await line.finds("zanzibar", names(5) + names(5, "lost"))
        await line.stop("persist")
        shutil.rmtree(line.data / "persist")
        await line.delete_stream(subjects.MEMORY)
        await line.start("persist")
        await line.finds("zanzibar", [])
        await say_all(line, "zanzibar", names(3, "new"))
        await line.finds("zanzibar", names(3, "new"))

    run(body, tmp_path, embed=False)


def test_a_small_tenant_does_not_wait_behind_anothers_import(tmp_path):
    async def body(line):
        line.embed.open.clear()
        await asyncio.gather(*(line.say(f"import {n}", id=f"e{n}", tenant="big") for n in range(5_000)))
        await line.finds("import 4999", ["e4999"], tenant="big", limit=1)
        await line.say("zanzibar", tenant="small", id="small")
        await line.finds("zanzibar", ["small"], tenant="small")
        line.embed.hold_after = "small"
        line.embed.open.set()
        await line.embedded("small")
        await line.finds("zanzibar", ["small"], tenant="small", mode="vector")
        assert (await line.status("big")).counts["pending_vectors"] > 1_000
        assert line.embed.order.index("small") <= 40, "no more than the seconds of work that were out"

    run(body, tmp_path)


def test_a_full_queue_is_waited_for_and_no_text_is_encoded_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "EMBED_BYTES_MAX", 20_000)
    monkeypatch.setattr(limits, "RETRY_LAST_S", 0.5)

    async def body(line):
        line.embed.open.clear()
        tenants = [f"t{n}" for n in range(30)]
        long = "zanzibar " * 100
        await asyncio.gather(*(line.say(f"{long} {t} {n}", id=f"e{n}", tenant=t) for t in tenants for n in range(3)))

        async def refused():
            return metrics.retried.labels("index")._value.get() > before + 2

        await until_async(refused, "the queue is full")
        queue = await line.nc.jetstream().stream_info(subjects.EMBED)
        assert 0 < queue.state.messages < 30
        line.embed.open.set()
        for tenant in tenants:
            await line.embedded(tenant)
        assert len(line.embed.texts) == len(set(line.embed.texts)) == 90

    before = metrics.retried.labels("index")._value.get()
    run(body, tmp_path)


def test_waiting_for_what_was_just_said(tmp_path):
    async def body(line):
        line.embed.open.clear()
        for number in range(5):
            seq = await line.say("zanzibar", id=f"e{number}")
            rseq = await line.covered(seq)
            reply = await line.find("zanzibar", rseq=rseq, wait_ms=20_000)
            assert f"e{number}" in {hit.id for hit in reply.hits}
            assert reply.late == []
            assert reply.text.seq >= seq
        reply = await line.find("zanzibar", mode="hybrid", rseq=rseq, wait_ms=50)
        assert reply.missing == ["vector"]
        line.embed.open.set()
        await line.embedded()
        line.embed.open.clear()
        rseq = await line.covered(await line.say("another thing", id="late"))
        assert (await line.find("another", rseq=rseq, wait_ms=20_000)).late == []
        reply = await line.find("another", mode="hybrid", rseq=rseq, wait_ms=200)
        assert reply.late == ["vector"]
        assert "late" in {hit.id for hit in reply.hits}
        assert reply.vector.rseq < rseq <= reply.text.rseq
        line.embed.open.set()
        reply = await line.find("another", mode="vector", rseq=rseq, wait_ms=20_000)
        assert reply.late == []
        assert "late" in {hit.id for hit in reply.hits}

    run(body, tmp_path)


def dense(texts, **_):
    """Vectors that RocksDB cannot compress, so that they can be looked for."""
    made = [np.random.default_rng(list(text.encode())).standard_normal(384).astype(np.float32) for text in texts]
    return np.array([each / np.linalg.norm(each) for each in made])


def held_in(folder, wanted):
    """Files below a folder that hold these bytes."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and wanted in path.read_bytes():
            found.append(path.name)
    return found


def test_forgotten_means_gone_from_answers_and_then_from_files(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "_PURGE_DELAY_S", 3600.0)

    async def body(line):
        line.embed.encoder.encode = dense
        secret, folder = "zanzibarsecret plan", line.data / "index"
        await say_all(line, "ordinary", names(30))
        await line.say(secret, id="gone", author="Mallory")
        await say_all(line, "ordinary", names(5, "f"))
        await line.embedded()
        assert "gone" in await line.ids("zanzibarsecret")
        vector = line.embed.encoder.encode([f"Mallory: {secret}"])[0].tobytes()
        index = app_of(line)
        for needle in (secret.encode(), vector, b"Mallory"):
            assert held_in(folder, needle), "in the log of RocksDB"
        await index.process.in_writer(index.rows.store.compact)
        assert held_in(folder, vector), "in its tables"
        seq = await line.forget(ids=["gone"])
        reply = await line.applied(seq)
        assert reply.late == []
        assert await line.ids("zanzibarsecret") == []
        assert "gone" not in await line.ids("zanzibarsecret plan", mode="vector")
        assert len(await line.ids("ordinary")) == 35
        token = analyze("zanzibarsecret")[0]
        assert index.text.words_held(subjects.partition_of("acme"), "acme", token) > 0, (
            "its words are in the files still"
        )
        await purge(index)
        for needle in (b"zanzibarsecret", vector, b"Mallory"):
            assert not held_in(folder, needle)
        assert index.text.words_held(subjects.partition_of("acme"), "acme", token) == 0
        await line.finds("ordinary", names(30) + names(5, "f"))
        await line.stop("index")
        for needle in (b"zanzibarsecret", vector, b"Mallory"):
            assert not held_in(folder, needle)
        await line.start("index")
        await line.finds("ordinary", names(30) + names(5, "f"))
        assert await line.ids("zanzibarsecret") == []

    run(body, tmp_path)


def app_of(line):
    """The running stage behind a shell."""
    return line.shells["index"]._loops["purge"].__self__


async def purge(index):
    """What the purge loop does, now."""
    while not await index.process.in_writer(index.indexer.purge_step):
        pass
    await asyncio.to_thread(index.rows.store.compact)
    await index.process.in_writer(index.indexer.purged)
    assert not index.indexer.erased


def test_the_purge_loop_works_beside_new_events(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "_PURGE_DELAY_S", 0.05)

    async def body(line):
        await say_all(line, "zanzibar", names(300))
        await line.finds("zanzibar", names(300), limit=1000)
        saying = asyncio.create_task(say_all(line, "zanzibar", names(300, "f")))
        for start in range(0, 100, 10):
            await line.applied(await line.forget(ids=names(300)[start : start + 10]))
        await saying
        left = names(300)[100:] + names(300, "f")
        await line.finds("zanzibar", left, limit=1000)

        async def purged():
            return (await line.status()).counts["purging"] == 0

        await until_async(purged, "purged")
        await line.finds("zanzibar", left, limit=1000)
        await line.stop("index")
        await line.start("index")
        await line.finds("zanzibar", left, limit=1000)

    run(body, tmp_path, embed=False)


def test_a_large_tenant_is_searched_by_its_graph_before_and_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr("jetmem.index.shelf.NARROW_ROWS", 50)

    async def body(line):
        ids = names(600)
        await asyncio.gather(*(line.say(f"topic{n} thing{n % 50}", id=id_) for n, id_ in enumerate(ids)))
        await line.embedded()
        assert (await line.find("topic7 thing7", mode="vector")).hits[0].id == "e7"
        index = app_of(line)

        async def linked():
            shelf = index.tenants.get("acme").shelf
            return shelf is not None and not shelf.wants_graph() and shelf.graph is not None

        await until_async(linked, "every row is linked")
        await line.applied(await line.forget(ids=["e9"]))
        assert (await line.find("topic7 thing7", mode="vector")).hits[0].id == "e7"
        await line.stop("index")
        assert (line.data / "index" / "graphs" / "acme" / "manifest.json").exists()
        await line.start("index")
        assert (await line.find("topic7 thing7", mode="vector")).hits[0].id == "e7"
        graph = app_of(line).tenants.get("acme").shelf.graph
        assert graph is not None
        assert graph.rows == 600
        assert "e9" not in await line.ids("topic9 thing9", mode="vector")

    run(body, tmp_path, exact_max=100)


def test_another_model_is_asked_for_everything(tmp_path, monkeypatch):
    monkeypatch.setattr("jetmem.runtime.models.QUIET_S", 0.0)

    async def body(line):
        await say_all(line, "zanzibar", names(10))
        await line.embedded()
        index = app_of(line)
        monkeypatch.setattr("harness.pipeline.MODEL", "other@1")
        line.embed.encoder.dimensions = 48
        await line.say("something else", id="new")

        async def changed():
            return index.rows.model() == "other@1" and index.rows.dimensions() == 48

        await until_async(changed, "the other model is in use")
        await line.embedded()
        await line.finds("zanzibar", sorted([*names(10), "new"]), mode="vector")
        assert np.isfinite(index.tenants.get("acme").shelf.vectors).all()

    run(body, tmp_path)
