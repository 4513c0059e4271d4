"""The real pipeline as `jetmem up` starts it: plain subjects in, honest answers out, whoever is down."""

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from contextlib import asynccontextmanager

import nats
import pytest

from harness.files import grep
from harness.up import up
from harness.waiting import DEADLINE_S, until, until_async
from harness.wire import raw_request
from jetmem import client
from jetmem_schemas import subjects
from jetmem_schemas.failures import ERROR_CODE_HEADER, ERROR_HEADER
from jetmem_schemas.requests import VERBS


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with up(tmp_path_factory.mktemp("up")) as made:
        yield made


@asynccontextmanager
async def plain(running):
    nc = await nats.connect(running.url)
    try:
        yield nc
    finally:
        await nc.close()


def on(running, body, tenant="acme"):
    async def work():
        async with client.connect(running.url, tenant=tenant, agent="alice", answer_s=60) as memory:
            await body(memory)

    asyncio.run(work())


def test_any_client_publishes_and_finds_with_plain_subjects(running):
    async def body():
        async with plain(running) as nc:
            ack = await nc.jetstream().publish("mem.plain.event.alice.s1", b'{"text":"the build is green again"}')
            question = {"query": "is the build broken?", "after": ack.seq, "wait_ms": 20_000}
            reply = json.loads(
                (await nc.request("mem.plain.query.search", json.dumps(question).encode(), timeout=DEADLINE_S)).data
            )
            assert [hit["text"] for hit in reply["hits"]] == ["the build is green again"]
            assert (reply["mode"], reply["degraded"], reply["stale"]) == ("hybrid", [], False)
            assert min(reply["fresh"].values()) >= ack.seq

    asyncio.run(body())


@pytest.mark.parametrize(
    ("subject", "payload", "code", "field"),
    [
        ("mem.acme.query.nonsense", b"{}", "unknown_verb", "verb"),
        ("mem.acme.query.search.more", b"{}", "unknown_verb", "verb"),
        ("mem._.query.search", b'{"query":"x"}', "bad_subject", "tenant"),
        ("mem.acme.query.search", b"nope", "bad_json", ""),
        ("mem.acme.query.search", b"\xff", "bad_utf8", ""),
        ("mem.acme.query.search", b"{}", "missing_field", "query"),
        ("mem.acme.query.search", b'{"query":""}', "bad_field", "query"),
        ("mem.acme.query.search", b'{"query":"x","limit":1000000000}', "bad_field", "limit"),
        ("mem.acme.query.search", b'{"query":"x","agnet":"a"}', "bad_field", "agnet"),
        ("mem.acme.query.search", b'{"query":"x","since":"yesterday"}', "bad_time", "since"),
        ("mem.acme.query.search", b'{"query":"' + b"x" * 100_000 + b'"}', "bad_field", "query"),
        ("mem.acme.query.search", b'{"query":"x","cursor":"zzzz"}', "bad_cursor", "cursor"),
        ("mem.acme.query.search", b'{"a":' * 40 + b"1" + b"}" * 40, "too_deep", ""),
        ("mem.acme.query.search", b" " * 300_000, "too_large", ""),
        ("mem.acme.query.forget", b"{}", "empty_forget", ""),
        ("mem.acme.query.expand", b'{"id":"nobody"}', "not_found", "id"),
        ("mem.acme.query.expand", b'{"grip":"nobody"}', "bad_field", "grip"),
        ("mem.acme.query.toc", b'{"node":"toc:day:2020-01-01"}', "not_found", "node"),
        ("mem.acme.query.browse", b'{"node":"nobody"}', "bad_field", "node"),
        ("mem.acme.query.route", b'{"query":"x","now":"today"}', "bad_time", "now"),
    ],
)
def test_a_bad_question_gets_an_error_reply(running, subject, payload, code, field):
    async def body():
        async with plain(running) as nc:
            reply = await nc.request(subject, payload, timeout=DEADLINE_S)
            failure = json.loads(reply.data)
            assert (failure["code"], failure.get("field", "")) == (code, field)
            assert reply.headers[ERROR_CODE_HEADER] == code
            assert reply.headers[ERROR_HEADER] == failure["message"]

    asyncio.run(body())


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        (b"mem.acme.query.\xff", b"unknown_verb"),
        (b"mem.\xff.query.search", b"bad_subject"),
        (b"mem.acme.query.search.\xc3", b"unknown_verb"),
    ],
)
@pytest.mark.parametrize("headers", [b"NATS/1.0\r\n\r\n", b"NATS/1.0 \xff\xff\xff\r\n\r\n"], ids=str)
def test_a_question_that_is_no_text_gets_an_error_reply(running, subject, code, headers):
    port = int(running.url.rpartition(":")[2])
    assert b'"code":"' + code + b'"' in raw_request(port, subject, headers, b'{"query":"x"}')


def test_every_verb_reads_what_was_just_written(running):
    async def body(memory):
        for number in range(5):
            done = await memory.publish(f"reading {number} of the tide gauge", session="ryw", author="kim")
            reply = await memory.search("tide gauge", after="mine", wait_ms=20_000, session="ryw", limit=20)
            assert done.id in [hit.id for hit in reply.hits]
            assert not reply.stale
            assert done.id in [e.id for e in (await memory.get(done.id, after="mine", wait_ms=20_000)).events]
            page = await memory.timeline(session="ryw", agent="alice", after="mine", wait_ms=20_000)
            assert page.events[0].id == done.id
            session = (await memory.sessions(after="mine", wait_ms=20_000)).sessions[0]
            assert (session.id, session.events) == ("ryw", number + 1)
            agent = (await memory.agents(after="mine", wait_ms=20_000)).agents[0]
            assert (agent.id, agent.events) == ("alice", number + 1)

    on(running, body, tenant="ryw")


def test_a_hung_embed_leaves_words_and_says_so(running):
    async def body(memory):
        await memory.publish("the lighthouse keeper wants a new lamp", session="s1")
        await memory.search("lamp", after="mine", wait_ms=20_000)
        with running.hung("embed"):
            reply = await memory.search("who wants another lamp?")
            assert (reply.mode, reply.degraded) == ("text", ["vector"])
            assert [hit.text for hit in reply.hits] == ["the lighthouse keeper wants a new lamp"]
            await memory.publish("the lamp is ordered", session="s1")
            reply = await memory.search("ordered", mode="text", after="mine", wait_ms=20_000)
            assert (reply.degraded, reply.hits[0].text) == ([], "the lamp is ordered"), "words never wait for vectors"

            async def only_vectors_are_late():
                reply = await memory.search("another question", after="mine", wait_ms=100)
                assert reply.stale
                return reply.degraded == ["vector"]

            await until_async(only_vectors_are_late, "on a busy machine other arms may take longer than this, too")
        reply = await memory.search("was it bought?", after="mine", wait_ms=60_000)
        assert (reply.mode, reply.degraded) == ("hybrid", [])

    on(running, body, tenant="lamps")


def test_a_hung_index_leaves_the_table_of_contents_and_the_most_recent(running):
    async def body(memory):
        for text in ("the piano is tuned", "tea is ready", "somebody plays in the garden"):
            await memory.publish(text, session="s1")
        await memory.search("piano", after="mine", wait_ms=20_000)
        assert not (await memory.toc(after="mine", wait_ms=60_000)).stale
        with running.hung("index"):
            reply = await memory.search("piano")
            assert (reply.mode, reply.degraded) == ("toc", ["text", "vector"])
            assert (len(reply.hits), reply.hits[0].text) == (3, "the piano is tuned")
            reply = await memory.search("piano", session="s2")
            assert (reply.mode, reply.hits) == ("recent", [])
            states = {stage.stage: stage.state for stage in (await memory.status()).stages}
            assert (states["index"], states["persist"]) == ("down", "ok")
        reply = await memory.search("piano", after="mine", wait_ms=60_000)
        assert reply.mode == "hybrid"

    on(running, body, tenant="recent")


def test_a_hung_persist_is_an_error_in_time_and_nothing_is_lost(running):
    async def body(memory):
        with running.hung("persist"):
            receipt = await memory.publish("said while the record was away", session="s1")
            with pytest.raises(client.ClientError) as caught:
                await memory.timeline()
            assert caught.value.code in ("timeout", "unavailable")
        reply = await memory.get(receipt.id, after="mine", wait_ms=60_000)
        assert [event.id for event in reply.events] == [receipt.id]

    on(running, body, tenant="away")


def test_no_tenant_sees_another(running):
    names = ("harbour", "harbour2", "harbour-2", "harb")

    async def body(memory):
        seqs = {}
        for name in names:
            mine = memory.as_tenant(name)
            receipt = await mine.publish(f"the password of {name} is swordfish", session="s1", id="same-id")
            seqs[name] = receipt.seq
        for name in names:
            mine = memory.as_tenant(name)
            for mode in ("text", "vector", "hybrid"):
                reply = await mine.search("password swordfish", mode=mode, after=seqs[name], wait_ms=30_000)
                assert [hit.text for hit in reply.hits] == [f"the password of {name} is swordfish"]
            assert [e.text for e in (await mine.get("same-id")).events] == [f"the password of {name} is swordfish"]
            assert len((await mine.timeline()).events) == 1
            assert [s.events for s in (await mine.sessions()).sessions] == [1]
            status = await mine.status()
            assert (status.events, status.sessions, status.agents) == (1, 1, 1)
        done = await memory.as_tenant("harb").forget(all=True)
        assert (done.state, done.erased) == ("applied", 1)
        for name in names[:-1]:
            assert (await memory.as_tenant(name).status()).events == 1

    on(running, body)


def test_a_forget_is_purged_in_the_end_and_says_so(running):
    words = (b"aspidistra", b"begonia")

    async def body(memory):
        for number, word in enumerate(words):
            await memory.publish(f"the {word.decode()} is planted", session="s1", id=f"p{number}")
        await memory.search("planted", after="mine", wait_ms=30_000)
        assert all(grep(word, running.folder) for word in words)
        done = await memory.forget(ids=["p0"])
        assert (done.state, done.erased) == ("applied", 1)

        async def purged():
            told = await memory.forget(seq=done.seq)
            assert (told.seq, told.erased, told.waiting) == (done.seq, 1, []) and told.state in ("applied", "purged")
            return told.state == "purged"

        await until_async(purged, "the forget is purged")
        assert not grep(words[0], running.folder)
        assert grep(words[1], running.folder)
        with pytest.raises(client.RequestRefused) as refused:
            await memory.as_tenant("other").forget(seq=done.seq)
        assert refused.value.code == "not_found"
        command = [
            sys.executable,
            "-m",
            "jetmem",
            "forget",
            "nursery",
            "--state",
            str(done.seq),
            "--server",
            running.url,
        ]
        said = await asyncio.to_thread(subprocess.check_output, command)
        assert json.loads(said)["state"] == "purged"

    on(running, body, tenant="nursery")


def test_forgotten_stays_forgotten_through_a_rebuild(running):
    async def body(memory):
        for number in range(6):
            await memory.publish(f"note {number}: the marigold is planted", session="s1", id=f"n{number}")
        await memory.search("marigold", after="mine", wait_ms=30_000)
        before = running.pid("index")
        done = await memory.forget(ids=["n2"])
        assert (done.state, done.erased) == ("applied", 1)

        async def found():
            reply = await memory.search("marigold planted", limit=20)
            return {hit.id for hit in reply.hits} if reply.mode == "hybrid" else set()

        rest = {f"n{number}" for number in (0, 1, 3, 4, 5)}

        async def left():
            return await found() == rest

        await until_async(left, "the rest is found")
        await memory.nats.request(subjects.service("index", "all", "rebuild"), b"\x80", timeout=DEADLINE_S)

        async def rebuilt():
            return running.pid("index") != before and await left()

        await until_async(rebuilt, "the rebuilt index finds the rest")
        again = await memory.publish("note 2: the marigold is planted", session="s1", id="n2")
        reply = await memory.search("marigold planted", after=again.seq, wait_ms=30_000, limit=20)
        assert {hit.id for hit in reply.hits} == rest

    on(running, body, tenant="garden")


def test_bad_messages_become_dead_letters_and_stop_nobody(running):
    bad = {
        b"nope": "bad_json", b"\xff\xfe": "bad_utf8", b'{"text":1}': "bad_field", b"{}": "missing_field",
        b'{"text":"x","ts":"0000-01-01T00:00:00Z"}': "bad_time", b'{"text":"x","id":"a b"}': "bad_field",
        b'{"a":' * 40 + b"1" + b"}" * 40: "too_deep",
    }  # fmt: skip

    async def body(memory):
        heard = []
        told = await memory.nats.subscribe(subjects.notify("broken", "dead_letter"), max_msgs=len(bad))
        js = memory.nats.jetstream()
        for payload in bad:
            await js.publish("mem.broken.event.alice.s1", payload)
        for _ in bad:
            heard.append(json.loads((await told.next_msg(DEADLINE_S)).data)["code"])
        assert sorted(heard) == sorted(bad.values())
        await memory.publish("what was good beside it is kept", session="s1")
        reply = await memory.search("good", after="mine", wait_ms=20_000, mode="text")
        assert len(reply.hits) == 1
        assert (await memory.status()).dead_letters == len(bad)

    on(running, body, tenant="broken")


def test_service_discovery_knows_every_verb(running):
    async def body():
        async with plain(running) as nc:
            info = json.loads((await nc.request("$SRV.INFO.jetmem", b"", timeout=DEADLINE_S)).data)
            assert {e["name"] for e in info["endpoints"]} == set(VERBS)
            assert all(json.loads(e["metadata"]["request_schema"]) for e in info["endpoints"])

    asyncio.run(body())


def is_healthy(base):
    with contextlib.suppress(OSError):  # also while it says 503
        return urllib.request.urlopen(f"{base}/healthz").status == 200


def test_every_process_tells_its_health_and_metrics(running):
    state = json.loads((running.folder / "run" / "state.json").read_text())
    for process in state["processes"]:
        base = f"http://127.0.0.1:{process['http_port']}"
        until(lambda base=base: is_healthy(base), f"{base} is healthy")
        if process["name"] != "nats-server":
            assert b"jetmem_requests_total" in urllib.request.urlopen(f"{base}/metrics").read()
