"""persist as a process against a real broker."""

import asyncio
import json
import shutil
from pathlib import Path

import msgspec
import nats
import nats.js.errors
import pytest

from harness.broker import Broker
from harness.files import grep
from harness.persist_process import PersistProcess, client, run
from harness.proxy import Proxy
from harness.waiting import DEADLINE_S, until_async
from harness.wire import HEADERS, SUBJECTS, raw_publish
from jetmem.adapters.nats_streams import ensure
from jetmem.adapters.rocks import Rocks
from jetmem.client.flushing import flushed
from jetmem.persist.record import FAMILIES, FORMAT, forget_row
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects, toc
from jetmem_schemas.internal import Facts, Forgotten, Heads, NodesReply, NodesRequest, decode_entry


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One broker and one persist for the tests that only talk to them, each in a tenant of its own."""
    with (
        Broker() as broker,
        PersistProcess(broker, tmp_path_factory.mktemp("persist"), persist_purge_delay_s=0.1) as persist,
    ):
        yield broker, persist


@pytest.fixture
def own(tmp_path):
    with Broker() as broker, PersistProcess(broker, tmp_path / "data", persist_purge_delay_s=0.1) as persist:
        yield broker, persist


def on(pair, body):
    async def go():
        async with client(pair[0]) as c:
            await body(c)

    run(go())


# recorded, announced, answered


def test_a_plain_publish_is_recorded_and_announced(shared):
    async def body(c):
        heard = []

        async def hear(msg):
            heard.append(msg)

        await c.nc.subscribe("memrec.*", cb=hear)
        await flushed(c.nc)
        seq = await c.publish(b'{"text":"hello"}', "mem.plain.event.alice.s1")
        await c.recorded(seq)
        (entry,) = await c.entries("plain")
        assert (entry.kind, entry.tenant, entry.agent, entry.session) == ("event", "plain", "alice", "s1")
        assert (entry.body, entry.seq, entry.rseq, entry.ts) == (b'{"text":"hello"}', seq, 1, entry.at)
        part = subjects.partition_of("plain")

        async def announced():
            facts = [msgspec.msgpack.decode(m.data, type=Facts) for m in heard if m.subject == subjects.record(part)]
            return [f for f in facts if f.partition == part]

        (fact,) = await until_async(announced, "the fact on RECORD")
        assert (fact.first, fact.before_seq) == (1, 0)
        assert [decode_entry(e) for e in fact.entries] == [entry]

        async def heads():
            found = [msgspec.msgpack.decode(m.data, type=Heads) for m in heard if m.subject == subjects.RECORD_HEADS]
            return [h for h in found if h.checkpoint >= seq]

        head = (await until_async(heads, "heads on RECORD"))[0]
        assert (head.heads[part].rseq, head.heads[part].seq) == (1, seq)

    on(shared, body)


def test_partitions_of_the_broker_are_those_of_subjects(shared):
    async def body(c):
        tenants = ["a", "A", "acme", "Zoo-9_x", "t" * 64, "_x"] + [f"tenant{n}" for n in range(100)]
        for tenant in tenants:
            seq = await c.publish({"text": "x"}, f"mem.{tenant}.event.alice.s1")
            stored = await c.js.get_msg(subjects.MEMORY, seq)
            assert stored.subject.split(".")[1] == str(subjects.partition_of(tenant)), tenant

    on(shared, body)


def test_answers_and_cursors(shared):
    async def body(c):
        base = (await c.ask("cover", "ans", after=0, wait_ms=0)).head.rseq
        for number in range(7):
            event = {"id": f"e{number}", "text": f"line {number}", "ts": 1000 + number, "author": "AB"[number % 2]}
            seq = await c.publish(event, f"mem.ans.event.bot{number % 2}.s{number % 3}")
        await c.recorded(seq)
        cover = await c.ask("cover", "ans", after=seq, wait_ms=0)
        assert cover.covered and cover.rseq == cover.head.rseq == base + 7
        assert not (await c.ask("cover", "ans", after=seq + 10**6, wait_ms=1)).covered
        found = await c.ask("fetch", "ans", tenant="ans", ids=["e5", "nope", "e1"])
        assert [decode_entry(i.entry).id for i in found.items] == ["e5", "e1"]
        near = await c.ask("fetch", "ans", tenant="ans", ids=["e3"], before=5, after=5)
        assert near.items[0].before == [] and near.items[0].after == []
        pages, cursor = [], b""
        while True:
            page = await c.ask("timeline", "ans", tenant="ans", limit=3, descending=True, cursor=cursor)
            pages.append([decode_entry(e).id for e in page.entries])
            cursor = page.cursor
            if not cursor:
                break
        assert pages == [["e6", "e5", "e4"], ["e3", "e2", "e1"], ["e0"]]
        page = await c.ask("timeline", "ans", tenant="ans", limit=9, descending=False, since=1002, until=1005)
        assert [decode_entry(e).id for e in page.entries] == ["e2", "e3", "e4"]
        page = await c.ask("timeline", "ans", tenant="ans", limit=9, descending=False, author="B")
        assert [decode_entry(e).id for e in page.entries] == ["e1", "e3", "e5"]
        first = await c.ask("sessions", "ans", tenant="ans", limit=4)
        rest = await c.ask("sessions", "ans", tenant="ans", limit=4, cursor=first.cursor)
        assert [(s.agent, s.session, s.events) for s in first.items + rest.items] == [
            ("bot0", "s0", 2), ("bot1", "s2", 1), ("bot0", "s1", 1),
            ("bot1", "s0", 1), ("bot0", "s2", 1), ("bot1", "s1", 1),
        ]  # fmt: skip
        assert first.cursor and not rest.cursor
        agents = (await c.ask("agents", "ans", tenant="ans", limit=9)).items
        assert [(a.agent, a.events, a.sessions, a.first, a.last) for a in agents] == [
            ("bot0", 4, 3, 1000, 1006),
            ("bot1", 3, 3, 1001, 1005),
        ]
        assert (await c.ask("scan", "ans", after=10**6, after_seq=0)).mismatch
        assert (await c.ask("scan", "ans", after=3, after_seq=10**9)).mismatch
        counts = (await c.ask("status", tenant="ans")).counts
        assert (counts["events"], counts["sessions"], counts["agents"]) == (7, 6, 2)

    on(shared, body)


def test_neighbours_of_one_session(shared):
    async def body(c):
        for number in range(9):
            seq = await c.publish({"id": f"e{number}", "text": "x", "ts": number}, "mem.near.event.bot.s")
        await c.recorded(seq)
        (item,) = (await c.ask("fetch", "near", tenant="near", ids=["e4"], before=2, after=3)).items
        assert [decode_entry(e).id for e in item.before] == ["e2", "e3"]
        assert [decode_entry(e).id for e in item.after] == ["e5", "e6", "e7"]

    on(shared, body)


def test_a_large_session_comes_in_slices_that_fit(shared):
    async def body(c):
        for number in range(6):
            seq = await c.publish({"id": f"e{number}", "text": str(number) * 400_000}, "mem.large.event.bot.s")
        await c.recorded(seq)
        assert [e.id for e in await c.entries("large")] == [f"e{n}" for n in range(6)]
        page = await c.ask("timeline", "large", tenant="large", limit=100, descending=False)
        assert 1 <= len(page.entries) < 6 and page.cursor

    on(shared, body)


def test_a_malformed_cursor_is_an_error(shared):
    async def body(c):
        with pytest.raises(AssertionError, match="bad_cursor"):
            await c.ask("timeline", "ans", tenant="ans", limit=1, descending=True, cursor=b"x")

    on(shared, body)


# bad input


def test_refused_input_is_in_dead_with_bytes_headers_and_code(shared):
    cases = [
        ("mem.dl.event.alice.s1", b"not json", "bad_json"),
        ("mem.dl.event.alice.s1", b'{"text":"\xff"}', "bad_utf8"),
        ("mem.dl.event.alice.s1", b'{"text":1}', "bad_field"),
        ("mem.dl.event.alice.s1", b"{}", "missing_field"),
        ("mem.dl.event.alice.s1", b'{"text":"a","ts":99999999999999}', "bad_time"),
        ("mem.dl.event.alice.s1", b"[" * 1000, "too_deep"),
        ("mem.dl.event.alice.s1.more", b'{"text":"a"}', "bad_subject"),
        ("mem.dl.event.alice", b'{"text":"a"}', "bad_subject"),
        ("mem.dl.event.al+ice.s1", b'{"text":"a"}', "bad_subject"),
        ("mem.dl.derived.alice.toc", b"{}", "bad_subject"),
        ("mem.dl.derived._.node", b"{}", "missing_field"),
        ("mem.dl.forget._._", b"{}", "empty_forget"),
    ]

    async def body(c):
        told = []

        async def hear(msg):
            told.append(json.loads(msg.data))

        await c.nc.subscribe("mem.dl.notify.>", cb=hear)
        for subject, payload, _ in cases:
            seq = await c.publish(payload, subject, **{"X-Trace": "t1", "Nats-Expected-Stream": "MEMORY"})
        await c.recorded(seq)

        async def there():
            found = [m for m in await c.dead() if m.subject.endswith(".dl")]
            return found if len(found) == len(cases) else None

        found = await until_async(there, "all dead letters")
        for message, (subject, payload, code) in zip(found, cases, strict=True):
            assert message.subject == subjects.dead(code, "dl")
            assert message.data == payload
            assert message.headers["Jetmem-Code"] == code
            assert message.headers["Jetmem-Subject"] == subject
            assert message.headers["Jetmem-Original-X-Trace"] == "t1"
            assert message.headers["Jetmem-Reason"]
            assert (await c.js.get_msg(subjects.MEMORY, int(message.headers["Jetmem-Seq"]))).data == payload
        assert await c.entries("dl") == []

        async def all_told():
            return len(told) == len(cases)

        await until_async(all_told, "the tenant is told")
        assert [t["code"] for t in told] == [code for _, _, code in cases]

    on(shared, body)


def test_a_tenant_that_is_no_token_goes_to_nobody(shared):
    async def body(c):
        seq = await c.publish(b'{"text":"a"}', "mem.t+.event.alice.s1")

        async def there():
            return [m for m in await c.dead() if m.headers["Jetmem-Seq"] == str(seq)]

        (found,) = await until_async(there, "the dead letter")
        assert found.subject == subjects.dead("bad_subject", "_")

    on(shared, body)


def test_identity_is_for_ever(shared):
    async def body(c):
        await c.publish({"id": "x", "text": "first"}, "mem.idy.event.alice.s1")
        await c.publish(b'{ "text": "first", "id": "x" }', "mem.idy.event.alice.s1")
        await c.publish({"id": "x", "text": "second"}, "mem.idy.event.alice.s1")
        seq = await c.publish({"id": "x", "text": "first"}, "mem.idy.event.alice.s2")
        await c.recorded(seq)
        assert [e.body for e in await c.entries("idy")] == [b'{"id":"x","text":"first"}']

        async def there():
            found = [m for m in await c.dead() if m.subject == subjects.dead("conflict", "idy")]
            return found if len(found) == 2 else None

        found = await until_async(there, "two conflicts")
        assert [m.headers["Jetmem-Id"] for m in found] == ["x", "x"]

    on(shared, body)


@pytest.mark.parametrize("headers", HEADERS, ids=lambda h: str(h[:40]))
@pytest.mark.parametrize("payload", [b'{"text":"a"}', b"no"])
def test_no_headers_stop_the_reader(shared, headers, payload):
    """A message with headers that no library would send; raw, because no library sends them."""

    async def body(c):
        before = (await c.js.stream_info(subjects.MEMORY)).state.last_seq
        await asyncio.to_thread(raw_publish, shared[0].port, "mem.hdr.event.alice.s1", headers, payload)
        seq = await c.publish({"text": "after it"}, "mem.hdr.event.alice.s1")
        assert seq >= before + 1
        await c.recorded(seq)
        if seq == before + 2 and payload == b"no":

            async def there():
                return [m for m in await c.dead() if (m.headers or {}).get("Jetmem-Seq") == str(before + 1)]

            assert await until_async(there, "its dead letter")

    on(shared, body)
    assert shared[1].running()


def test_who_waits_for_a_sequence_keeps_nobody_from_reading(shared):
    """`scan` is what a projection catches up by: were it to wait behind those that wait for it, nobody would move."""

    async def body(c):
        waiting = [asyncio.create_task(c.ask("cover", "wait", after=10**9, wait_ms=15_000)) for _ in range(300)]
        seq = await c.publish({"id": "a", "text": "x"}, "mem.wait.event.alice.s1")
        await c.recorded(seq)
        assert [e.id for e in await c.entries("wait")] == ["a"]
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        assert not (await c.ask("cover", "wait", after=10**9, wait_ms=1)).covered

    on(shared, body)


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_no_subject_stops_the_reader(shared, subject):
    async def body(c):
        before = (await c.js.stream_info(subjects.MEMORY)).state.last_seq
        await asyncio.to_thread(raw_publish, shared[0].port, subject, b"NATS/1.0\r\n\r\n", b'{"text":"a"}')
        await c.recorded(await c.publish({"text": "after it"}, "mem.odd.event.alice.s1"))

        async def there():
            return [m for m in await c.dead() if (m.headers or {}).get("Jetmem-Seq") == str(before + 1)]

        assert (await until_async(there, "its dead letter"))[0].headers["Jetmem-Code"] == "bad_subject"

    on(shared, body)
    assert shared[1].running()


# forget


def filled(c, tenant):
    async def fill():
        for number in range(6):
            event = {"id": f"e{number}", "text": f"secret{number}", "author": "AB"[number % 2], "ts": 1000 + number}
            seq = await c.publish(event, f"mem.{tenant}.event.bot{number % 2}.s{number // 3}")
        await c.recorded(seq)

    return fill()


FORGETS = {
    "fids": ({"ids": ["e1", "e4", "never"]}, {"e1", "e4"}),
    "fagent": ({"agent": "bot0"}, {"e0", "e2", "e4"}),
    "fsession": ({"agent": "bot0", "session": "s1"}, {"e4"}),
    "fauthor": ({"author": "B"}, {"e1", "e3", "e5"}),
    "fbefore": ({"before": 1002}, {"e0", "e1"}),
    "fall": ({"all": True}, {f"e{n}" for n in range(6)}),
}


@pytest.mark.parametrize("tenant", FORGETS)
def test_forget_erases_what_it_selects_and_its_neighbours_stay(shared, tenant):
    request, gone = FORGETS[tenant]
    stay = {f"e{n}" for n in range(6)} - gone

    async def body(c):
        await filled(c, tenant)
        other = await c.publish({"id": "e1", "text": "elsewhere"}, f"mem.{tenant}x.event.bot0.s1")
        await c.recorded(other)
        seq = await c.forget(tenant, **request)
        await check(c)
        told = (await c.entries(tenant))[-1]
        assert told.kind == "forgot" and told.seq == seq
        body = msgspec.msgpack.decode(told.body, type=Forgotten)
        assert set(body.ids) == gone and body.last
        for number in range(6):  # published again: a forgotten id stays forgotten
            event = {"id": f"e{number}", "text": f"secret{number}", "author": "AB"[number % 2], "ts": 1000 + number}
            last = await c.publish(event, f"mem.{tenant}.event.bot{number % 2}.s{number // 3}")
        await c.recorded(last)
        await check(c)

    async def check(c):
        ids = [f"e{n}" for n in range(6)]
        found = await c.ask("fetch", tenant, tenant=tenant, ids=ids)
        assert {decode_entry(i.entry).id for i in found.items} == stay
        page = await c.ask("timeline", tenant, tenant=tenant, limit=100, descending=False)
        assert {decode_entry(e).id for e in page.entries} == stay
        sessions = (await c.ask("sessions", tenant, tenant=tenant, limit=100)).items
        assert sum(s.events for s in sessions) == len(stay)
        found = await c.ask("fetch", tenant + "x", tenant=tenant + "x", ids=["e1"])
        assert len(found.items) == 1

    on(shared, body)


def test_forgotten_stays_forgotten_over_a_restart_and_a_replay(own, tmp_path):
    broker, persist = own

    async def body(c):
        await filled(c, "acme")
        await c.forget(agent="bot0")

    async def check(c):
        found = await c.ask("fetch", tenant="acme", ids=[f"e{n}" for n in range(6)])
        assert {decode_entry(i.entry).id for i in found.items} == {"e1", "e3", "e5"}

    on(own, body)
    on(own, check)
    persist.kill()
    persist.start()
    on(own, check)
    persist.stop()
    with PersistProcess(broker, tmp_path / "from-nothing"):

        async def again(c):
            await c.recorded((await c.js.stream_info(subjects.MEMORY)).state.last_seq)
            await check(c)

        on(own, again)


def test_a_forget_of_more_than_one_entry_holds(own):
    async def body(c):
        futures = [
            await c.js.publish_async("mem.acme.event.bot.s", b'{"id":"e%d","text":"w"}' % n) for n in range(1201)
        ]
        await asyncio.gather(*futures)
        await c.recorded(1201)
        await c.forget(all=True)
        told = [
            msgspec.msgpack.decode(e.body, type=Forgotten) for e in (await c.entries())[1201:] if e.kind == "forgot"
        ]
        assert [(len(t.ids), t.last) for t in told] == [(500, False), (500, False), (201, True)]
        assert (await c.ask("timeline", tenant="acme", limit=9, descending=False)).entries == []
        assert (await c.ask("agents", tenant="acme", limit=9)).items == []

    on(own, body)


def made(id_, version, *sources, **fields):
    return {"id": id_, "version": version, "level": id_.split(":")[1], "sources": sources} | fields


async def listed(c, *ids, version=0):
    """Ids, versions and titles of nodes, as any stage would ask for them."""
    request = NodesRequest("acme", list(ids), version)
    subject = subjects.service("persist", subjects.partition_of("acme"), "nodes")
    reply = await c.nc.request(subject, msgspec.msgpack.encode(request), timeout=DEADLINE_S)
    answer = msgspec.msgpack.decode(reply.data, type=NodesReply)
    assert not answer.cut and answer.at > 0
    return [(node.id, node.version, node.title) for node in map(toc.decode_node, answer.nodes)]


def test_nodes_are_recorded_superseded_listed_forgotten_and_purged(own):
    broker, persist = own
    folders = (broker.data / "nats", persist.data / "persist")
    where = toc.derived_subject("acme")
    segment, other, year = "toc:segment:2026-01-15:A", "toc:segment:2026-01-15:B", "toc:year:2026"

    async def body(c):
        for number in range(1, 5):
            last = await c.publish({"id": f"e{number}", "text": f"{'unutterable' if number == 2 else 'harmless'}"})
        await c.recorded(last)
        await c.publish(made(segment, 3, (1, 3), title="unspeakable one"), where)
        await c.publish(made(segment, 3, (1, 3), title="unspeakable one"), where)  # its outbox, sent twice
        await c.publish(made(segment, 2, (1, 2), title="unmentionable, too late"), where)
        await c.publish(made(other, 4, (4, 4), title="zephyr"), where)
        await c.publish(made(year, 4, (1, 4), title="a year"), where)
        await c.publish(made(year, 4, title=["ineffable, refused"]), where)
        await c.recorded(await c.publish(made(segment, 4, (1, 4), title="unspeakable two"), where))
        assert await listed(c, other, segment) == [(other, 4, "zephyr"), (segment, 4, "unspeakable two")]
        assert await listed(c, segment, version=3) == [(segment, 3, "unspeakable one")]
        assert await listed(c) == [(year, 4, "a year")]
        assert [e.kind for e in await c.entries()] == ["event"] * 4 + ["derived"] * 4
        assert (await c.ask("status", tenant="acme")).counts["events"] == 4
        await c.dead_count(1)
        for word in (b"unspeakable one", b"unspeakable two", b"ineffable"):
            assert grep(word, folders[0])
        assert grep(b"unspeakable", folders[1])
        seq = await c.forget(ids=["e2"])
        assert await listed(c, segment, year) == await listed(c) == await listed(c, segment, version=3) == []
        told = msgspec.msgpack.decode((await c.entries())[-1].body, type=Forgotten)
        assert (told.ids, told.rseqs) == (["e2"], [5, 7, 8, 2])
        await c.purged(seq)
        for word in (b"unutterable", b"unspeakable", b"unmentionable", b"a year", b"ineffable"):
            assert grep(word, *folders) == []
        assert grep(b"zephyr", folders[0]) and grep(b"zephyr", folders[1])
        assert await c.dead() == []
        await made_again_after(c)

    async def made_again_after(c):
        await c.publish(made(segment, 8, (1, 8), title="unspeakable, made before"), where)
        await c.recorded(await c.publish(made(year, 9, (1, 9), title="made since"), where))
        assert await listed(c, segment, year) == [(year, 9, "made since")]

        async def nowhere():
            return not grep(b"unspeakable", *folders)

        await until_async(nowhere, "what was made before the forget is erased too")
        assert await c.dead() == []

    async def still(c):
        assert await listed(c, segment, other, year) == [(other, 4, "zephyr"), (year, 9, "made since")]

    on(own, body)
    persist.kill()
    persist.start()
    on(own, still)


def test_purged_means_that_no_file_holds_it(own):
    broker, persist = own
    folders = (broker.data / "nats", persist.data / "persist")

    async def body(c):
        await c.publish({"id": "a", "text": "unutterable"})
        await c.publish({"id": "a", "text": "unutterable"})
        await c.publish(b'{"id":"a", "text":"unutterable"}')
        await c.publish({"id": "a", "text": "unspeakable"})
        await c.publish({"id": "b", "text": "harmless"})
        seq = await c.publish(b'{"id":"a","text":["unmentionable"]}')
        await c.recorded(seq)
        await c.dead_count(2)
        words = (b"unutterable", b"unspeakable", b"unmentionable")
        for word in words:
            assert grep(word, folders[0])
        assert grep(words[0], folders[1])
        await c.purged(await c.forget(ids=["a"], reason="inadmissible"))
        for word in words:
            assert grep(word, *folders) == []
        assert grep(b"harmless", folders[0]) and grep(b"harmless", folders[1])
        assert await c.dead() == []
        await c.publish({"id": "a", "text": "unutterable"})
        last = await c.publish({"id": "a", "text": "ineffable"})
        await c.recorded(last)

        async def nowhere():
            return not grep(words[0], *folders) and not grep(b"ineffable", *folders)

        await until_async(nowhere, "later repeats are erased too")
        assert (await c.js.stream_info(subjects.MEMORY)).state.last_seq == last

    on(own, body)
    persist.kill()
    persist.start()  # the checkpoint's own message was erased: no alarm

    async def goes_on(c):
        await c.recorded(await c.publish({"id": "c", "text": "next"}))
        assert [decode_entry(i.entry).id for i in (await c.ask("fetch", tenant="acme", ids=["a", "b", "c"])).items] == [
            "b",
            "c",
        ]

    on(own, goes_on)


def test_a_forget_is_kept_without_its_body_once_it_is_purged(own):
    _, persist = own

    async def body(c):
        await c.recorded(await c.publish({"id": "a", "text": "x"}))
        seq = await c.forget(ids=["a"], reason="asked to")
        await c.purged(seq)
        assert await c.ask("forgotten", tenant="acme", seq=seq) == {"known": True, "erased": 1, "purged": True}
        assert not (await c.ask("forgotten", tenant="zoo", seq=seq))["known"]
        counts = (await c.ask("status", tenant="acme")).counts
        assert (counts["purging"], counts["forgot_seq"]) == (0, seq)
        persist.stop()
        store = Rocks(persist.data / "persist", FAMILIES, format_version=FORMAT)
        assert list(store.scan("unpurged", b"")) == []
        ((_, row),) = store.scan("forgets", b"")
        assert forget_row(row).body == b""
        store.close()

    on(own, body)


def test_a_copy_that_is_gone_already_holds_up_no_purge(own):
    """Trimmed away, or erased just before we died: the server then says `no message found`, with code 500."""
    broker, persist = own

    async def body(c):
        seqs = [await c.publish({"id": f"e{number}", "text": "unutterable"}) for number in range(4)]
        refused = await c.publish(b'{"id":"e0","text":["unutterable"]}')
        await c.recorded(await c.publish({"id": "last", "text": "harmless"}))
        await c.dead_count(1)
        for seq in (seqs[1], refused):
            assert await c.js.delete_msg(subjects.MEMORY, seq)
        await c.js.purge_stream(subjects.MEMORY, seq=seqs[0] + 1)
        await c.purged(await c.forget(all=True))
        assert await c.dead() == []

    on(own, body)


def test_a_purge_ends_though_dead_was_removed(own):
    async def body(c):
        await c.recorded(await c.publish({"id": "a", "text": "unutterable"}))
        await c.js.delete_stream(subjects.DEAD)
        await c.purged(await c.forget(ids=["a"]))
        assert await c.dead() == []

    on(own, body)


# a stream that was lost


async def made_again(broker):
    """MEMORY as it is after a loss: new, empty, and filled by nobody that persist knows of."""
    nc = await nats.connect(broker.url)
    await nc.jetstream().delete_stream(subjects.MEMORY)
    await ensure(nc, subjects.MEMORY, Common())
    return nc


def test_a_forget_of_what_a_lost_stream_said_erases_nothing_of_the_new_one(own):
    """Sequences begin again at 1: under those of the old messages are others, most of them unread yet."""
    broker, persist = own
    count = 3000

    async def before(c):
        sent = [await c.js.publish_async("mem.acme.event.bot.s", b'{"id":"e%d","text":"w"}' % n) for n in range(count)]
        await asyncio.gather(*sent)
        sent = [await c.publish(b'{"id":"e1","text":["unmentionable"]}', "mem.acme.event.bot.s") for _ in range(5)]
        await c.recorded(sent[-1])
        await c.dead_count(5)

    on(own, before)
    persist.stop()
    said = {}

    async def lose():
        nc = await made_again(broker)
        js = nc.jetstream()
        said["forget"] = (await js.publish("mem.acme.forget._._", b'{"all":true}')).seq
        sent = [await js.publish_async("mem.acme.event.bot.s", b'{"id":"n%d","text":"w"}' % n) for n in range(count)]
        said["last"] = max([ack.seq for ack in await asyncio.gather(*sent)])
        await nc.close()

    run(lose())
    persist.start(persist_accept_gap="true")

    async def after(c):
        await c.recorded(said["last"])
        await c.purged(said["forget"])
        assert (await c.js.stream_info(subjects.MEMORY)).state.messages == count + 1
        events = [e.id for e in await c.entries() if e.kind == "event"]
        assert sorted(events) == sorted(f"n{n}" for n in range(count))
        assert await c.dead() == []
        assert not grep(b"unmentionable", broker.data / "nats", persist.data / "persist")
        assert (await c.ask("status", tenant="acme")).counts["forgot_seq"] == said["forget"]

    on(own, after)


def test_what_was_still_to_be_purged_in_a_lost_stream_is_not_purged_in_the_new_one(tmp_path):
    with Broker() as broker, PersistProcess(broker, tmp_path / "data", persist_purge_delay_s=3600) as persist:

        async def before(c):
            for number in range(5):
                await c.publish({"id": f"e{number}", "text": "w"})
            refused = await c.publish(b'{"text":["unmentionable"]}')
            await c.recorded(refused)
            await c.dead_count(1)
            await c.forget(all=True)

        async def lose():
            nc = await made_again(broker)
            for number in range(9):
                await nc.jetstream().publish("mem.acme.event.bot.s", b'{"id":"n%d","text":"w"}' % number)
            await nc.close()

        async def after(c):
            await c.recorded(9)
            await c.purged(7)
            assert await c.dead() == []
            await c.purged(await c.forget(ids=["n8"]))
            state = (await c.js.stream_info(subjects.MEMORY)).state
            assert state.messages == 9 and state.last_seq == 10

        on((broker, persist), before)
        persist.stop()
        run(lose())
        persist.start(persist_accept_gap="true", persist_purge_delay_s=0.1)
        on((broker, persist), after)


# the outbox


def test_dead_letters_wait_while_dead_is_full_or_gone(own):
    broker, _ = own

    async def body(c):
        config = (await c.js.stream_info(subjects.DEAD)).config
        config.max_bytes = 1
        await c.js.update_stream(config)
        for number in range(3):
            seq = await c.publish(b"nonsense %d" % number)
        good = await c.publish({"id": "good", "text": "x"})
        await c.recorded(good)
        assert len((await c.ask("fetch", tenant="acme", ids=["good"])).items) == 1
        assert await c.dead() == []
        config.max_bytes = 10**6
        await c.js.update_stream(config)
        found = await c.dead_count(3)
        assert [m.data for m in found] == [b"nonsense 0", b"nonsense 1", b"nonsense 2"]
        await c.js.delete_stream(subjects.DEAD)
        seq = await c.publish(b"nonsense 3")
        await c.recorded(seq)

        async def again():
            try:
                return await c.dead()
            except nats.js.errors.NotFoundError:
                return None

        (found,) = await until_async(again, "DEAD is made again")
        assert found.data == b"nonsense 3"

    on(own, body)


def test_health_tells_of_letters_that_dead_does_not_take(own):
    async def body(c):
        config = (await c.js.stream_info(subjects.DEAD)).config
        config.max_bytes = 1
        await c.js.update_stream(config)
        for _ in range(70):
            seq = await c.publish(b"nonsense")
        await c.recorded(seq)

        async def told():
            status = await c.ask("status")
            return status.lag == 70 and "maximum bytes exceeded" in status.last_error

        await until_async(told, "lag and reason in status")
        config.max_bytes = 10**6
        await c.js.update_stream(config)
        await c.dead_count(70)

        async def over():
            return (await c.ask("status")).lag == 0

        await until_async(over, "nothing waits any more")

    on(own, body)


def test_a_letter_whose_row_was_left_behind_is_not_stored_twice(own):
    """The broker's own window is two minutes; a persist that was down for longer must look for itself."""
    _, persist = own

    async def body(c):
        await c.recorded(await c.publish(b"nonsense 0"))
        await c.dead_count(1)
        persist.kill()
        persist.start(crash="persist:before-outbox-clear")
        await c.publish(b"nonsense 1")
        await until_async(lambda: asyncio.to_thread(lambda: not persist.running()), "it dies with its row left")
        assert persist.ended() == -9, persist.said()
        await c.dead_count(2)
        await asyncio.gather(*(c.publish(b"nonsense %d" % n) for n in (2, 3)))
        await window_over(c)
        persist.start()
        await c.recorded(4)
        await until_async(lambda: at_least(c, 4), "all letters")
        assert sorted(letters(await c.dead())) == [b"nonsense %d" % n for n in range(4)]
        persist.stop()
        store = Rocks(persist.data / "persist", FAMILIES, format_version=FORMAT)
        assert list(store.scan("outbox", b"")) == []
        store.close()

    on(own, body)


def letters(found):
    return [m.data for m in found if m.data != b"probe"]


async def at_least(c, count):
    return len(letters(await c.dead())) >= count


async def window_over(c):
    """Have the broker forget which ids it got: with a window so short that it is over, then with the usual one."""
    config = (await c.js.stream_info(subjects.DEAD)).config
    usual, config.duplicate_window = config.duplicate_window, 0.1
    await c.js.update_stream(config)

    async def again():
        ack = await c.js.publish(subjects.dead("probe", "_"), b"probe", headers={"Nats-Msg-Id": "probe"})
        return not ack.duplicate

    assert await again()
    await until_async(again, "an id of a tenth of a second ago is new again")
    config.duplicate_window = usual
    await c.js.update_stream(config)


def test_the_outbox_is_sent_after_a_restart(own):
    broker, persist = own

    async def fill(c):
        config = (await c.js.stream_info(subjects.DEAD)).config
        config.max_bytes = 1
        await c.js.update_stream(config)
        await c.recorded(await c.publish(b"nonsense"))
        persist.kill()
        config.max_bytes = 10**6
        await c.js.update_stream(config)
        persist.start()
        (found,) = await c.dead_count(1)
        assert found.data == b"nonsense"

    on(own, fill)


# restarts, losses


def test_restarts_of_the_broker_and_of_persist(own):
    broker, persist = own

    async def body(c):
        for round_ in range(3):
            await c.recorded(await c.publish({"id": f"r{round_}", "text": "x"}))
            if round_ == 0:
                await asyncio.to_thread(broker.restart)
            else:
                persist.kill() if round_ == 1 else persist.stop()
                persist.start()

            async def back(number=round_):
                try:
                    return await c.publish({"id": f"b{number}", "text": "x"})
                except (nats.errors.Error, nats.js.errors.Error):
                    return None

            await c.recorded(await until_async(back, "the broker is back"))

        async def record_back():
            try:
                return (await c.js.stream_info(subjects.RECORD)).state.messages
            except nats.js.errors.NotFoundError:
                return None

        await until_async(record_back, "RECORD is made again, heads are in it")
        entries = await c.entries()
        assert [e.id for e in entries] == ["r0", "b0", "r1", "b1", "r2", "b2"]

    on(own, body)
    assert persist.stop() == 0


def test_a_broker_that_comes_late_is_waited_for(tmp_path):
    broker = Broker()
    persist = PersistProcess(broker, tmp_path / "data")
    with persist, broker:
        on((broker, persist), lambda c: c.recorded(0))


def stops_saying(persist, text):
    assert persist.ended() != 0
    assert text in persist.said()


def test_a_stream_made_again_stops_persist(own):
    broker, persist = own

    async def body(c):
        await c.recorded(await c.publish({"text": "x"}))
        await c.js.delete_stream(subjects.MEMORY)

    on(own, body)
    stops_saying(persist, "MEMORY was removed")
    persist.log.write_text("")
    persist.start()  # does not make it anew, so that publishing goes on failing
    stops_saying(persist, "MEMORY was removed")

    async def make_again():
        nc = await nats.connect(broker.url)
        with pytest.raises(nats.js.errors.NotFoundError):
            await nc.jetstream().stream_info(subjects.MEMORY)
        await ensure(nc, subjects.MEMORY, Common())
        await nc.close()

    run(make_again())
    persist.start()
    stops_saying(persist, "MEMORY was replaced")
    persist.start(persist_accept_gap="true")

    async def accepted(c):
        seq = await c.publish({"id": "new", "text": "y"})
        assert seq == 1
        await c.recorded(seq)
        cover = await c.ask("cover", after=seq, wait_ms=0)
        assert cover.covered and cover.rseq == 2
        assert [e.rseq for e in await c.entries()] == [1, 2]

    on(own, accepted)


def test_a_stream_trimmed_beyond_the_checkpoint_stops_persist(own):
    broker, persist = own

    async def body(c):
        for _ in range(5):
            seq = await c.publish({"text": "x"})
        await c.recorded(seq)
        persist.stop()
        for _ in range(5):
            seq = await c.publish({"text": "y"})
        await c.js.purge_stream(subjects.MEMORY, seq=8)

    on(own, body)
    persist.start()
    stops_saying(persist, "no longer holds the checkpoint's message 5")
    persist.start(persist_accept_gap="true")

    async def accepted(c):
        await c.recorded(await c.publish({"text": "z"}))
        assert [e.seq for e in await c.entries()] == [1, 2, 3, 4, 5, 8, 9, 10, 11]

    on(own, accepted)


def test_a_store_put_back_lies_before_what_was_erased_since(own, tmp_path):
    """The copy's checkpoint, and messages before it, are gone from MEMORY; what came since comes again."""
    broker, persist = own
    copy = tmp_path / "copy"

    async def before(c):
        for number in range(40):
            seq = await c.publish({"id": f"e{number}", "text": "x"})
        await c.recorded(seq)

    on(own, before)
    persist.stop()
    shutil.copytree(persist.data / "persist", copy)
    persist.start()

    async def since(c):
        await c.recorded(await c.publish({"id": "n", "text": "x"}))
        await c.purged(await c.forget(ids=[f"e{number}" for number in range(20, 40)]))
        state = (await c.js.stream_info(subjects.MEMORY)).state
        assert (state.first_seq, state.messages, state.last_seq) == (1, 22, 42)

    on(own, since)
    persist.stop()
    shutil.rmtree(persist.data / "persist")
    shutil.copytree(copy, persist.data / "persist")
    persist.start()

    async def after(c):
        await c.recorded(await c.publish({"id": "z", "text": "x"}))
        held = [e.id for e in await c.entries() if e.kind == "event" and e.body]
        assert held == [*(f"e{number}" for number in range(20)), "n", "z"]

    on(own, after)


def copied(broker, copy):
    """Take a copy of its streams, while it does not run."""
    broker.stop()
    shutil.copytree(broker.data / "nats", copy)
    broker.start()


def put_back(broker, copy):
    """Run it with the copy."""
    broker.stop()
    shutil.rmtree(broker.data / "nats")
    shutil.copytree(copy, broker.data / "nats")
    broker.start()


def test_an_older_copy_of_the_stream_that_went_on_stops_persist(own, tmp_path):
    """Also where its message at the checkpoint is gone."""
    broker, persist = own

    async def say(c):
        for _ in range(3):
            seq = await c.publish({"text": "x"})
        await c.recorded(seq)

    on(own, say)
    copied(broker, tmp_path / "copy")
    on(own, say)
    persist.stop()
    put_back(broker, tmp_path / "copy")

    async def other():
        nc = await nats.connect(broker.url)
        js = nc.jetstream()
        for _ in range(4):
            await js.publish("mem.acme.event.alice.s1", b'{"text":"y"}')
        assert await js.delete_msg(subjects.MEMORY, 6)
        await nc.close()

    run(other())
    persist.start()
    stops_saying(persist, "MEMORY holds another message at the checkpoint 6")


def test_an_older_copy_of_the_stream_stops_persist(own, tmp_path):
    broker, persist = own

    async def body(c):
        await c.recorded(await c.publish({"text": "x"}))

    on(own, body)
    copied(broker, tmp_path / "copy")
    on(own, body)
    persist.stop()
    put_back(broker, tmp_path / "copy")
    persist.start()
    stops_saying(persist, "MEMORY ends at 1, before the checkpoint 2")


def test_a_foreign_stream_configuration_stops_persist(tmp_path):
    with Broker() as broker:

        async def make():
            nc = await nats.connect(broker.url)
            await nc.jetstream().add_stream(name=subjects.MEMORY, subjects=list(subjects.MEMORY_SUBJECTS))
            await nc.close()

        run(make())
        with PersistProcess(broker, tmp_path / "data") as persist:
            stops_saying(persist, "is needed; correct or remove it")


# trim, full


def test_trim_keeps_the_checkpoints_own_message(tmp_path):
    with (
        Broker() as broker,
        PersistProcess(
            broker, tmp_path / "data", persist_keep_hours=0, persist_trim_bytes_min=0, persist_trim_every_s=3600
        ) as persist,
    ):

        async def body(c):
            for number in range(10):
                seq = await c.publish({"id": f"e{number}", "text": "x"})
            await c.recorded(seq)
            dry = await c.ask("trim", dry_run=True)
            assert (dry["keep_from"], dry["removed"], dry["dry_run"]) == (10, 9, True)
            assert (await c.js.stream_info(subjects.MEMORY)).state.messages == 10
            assert (await c.ask("trim"))["removed"] == 9
            state = (await c.js.stream_info(subjects.MEMORY)).state
            assert (state.first_seq, state.last_seq) == (10, 10)
            assert len(await c.entries()) == 10
            persist.kill()
            persist.start()

        async def after(c):
            await c.recorded(await c.publish({"text": "y"}))
            assert len(await c.entries()) == 11

        on((broker, persist), body)
        on((broker, persist), after)


def test_no_file_of_the_stream_keeps_what_was_trimmed(tmp_path):
    """A later forget could not reach it any more."""
    with (
        Broker() as broker,
        PersistProcess(
            broker, tmp_path / "data", persist_keep_hours=0, persist_trim_bytes_min=0, persist_trim_every_s=3600
        ) as persist,
    ):

        async def body(c):
            for number in range(20):
                seq = await c.publish({"id": f"e{number}", "text": f"quetzal{number:02d} is gone"})
            await c.recorded(seq)
            assert grep(b"quetzal07", Path(broker.data))
            assert (await c.ask("trim"))["removed"] == 19
            assert not grep(b"quetzal07", Path(broker.data))
            assert not grep(b"quetzal18", Path(broker.data))
            assert grep(b"quetzal19", Path(broker.data))

        on((broker, persist), body)


def test_trimming_waits_until_it_is_worth_it(tmp_path):
    with (
        Broker() as broker,
        PersistProcess(broker, tmp_path / "data", persist_keep_hours=0, persist_trim_every_s=3600) as persist,
    ):

        async def body(c):
            for _ in range(3):
                seq = await c.publish({"text": "x"})
            await c.recorded(seq)
            assert (await c.ask("trim"))["removed"] == 0

        on((broker, persist), body)


def test_trim_keeps_the_window(own):
    async def body(c):
        for _ in range(3):
            seq = await c.publish({"text": "x"})
        await c.recorded(seq)
        assert (await c.ask("trim"))["removed"] == 0

    on(own, body)


def test_memory_refuses_when_full_and_takes_again_after_trimming(tmp_path):
    with (
        Broker() as broker,
        PersistProcess(
            broker, tmp_path / "data", memory_bytes_max=1_048_576, persist_full_share=0.5, persist_trim_every_s=3600
        ) as persist,
    ):

        async def body(c):
            seq = 0
            with pytest.raises(nats.js.errors.APIError) as refused:
                for _ in range(100):
                    seq = await c.publish({"text": "x" * 50_000})
            assert "maximum bytes exceeded" in str(refused.value.description)
            await c.recorded(seq)
            trimmed = await c.ask("trim")
            assert 0 < trimmed["removed"] < seq
            await c.recorded(await c.publish({"text": "there is room"}))
            assert len(await c.entries()) == seq + 1

        on((broker, persist), body)


# the wire


@pytest.mark.parametrize("headers", [{}, {"X-Size": "y" * 200}], ids=["plain", "headers"])
def test_connections_cut_in_mid_delivery_skip_nothing_and_repeat_nothing(tmp_path, headers):
    count = 3000
    with Broker() as broker, Proxy(broker.port) as proxy:
        # filled before persist reads, so that the cuts fall into full deliveries
        with PersistProcess(broker, tmp_path / "data") as persist:
            on((broker, persist), lambda c: c.recorded(0))
            persist.stop()

        async def fill():
            nc = await nats.connect(broker.url)
            js = nc.jetstream()
            sent = [
                await js.publish_async("mem.acme.event.alice.s1", b'{"id":"e%d","text":"w"}' % n, headers=headers)
                for n in range(count)
            ]
            await asyncio.gather(*sent)
            await nc.close()

        run(fill())
        proxy.cuts += [20_000, 60_001, 100_003, 150_007, 33_333]
        with PersistProcess(broker, tmp_path / "data", url=proxy.url) as persist:

            async def body(c):
                await c.recorded(count)
                assert [e.id for e in await c.entries()] == [f"e{n}" for n in range(count)]

            on((broker, persist), body)
            assert proxy.cut_count == 5
