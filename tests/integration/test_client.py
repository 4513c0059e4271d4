"""The SDK against a real broker."""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import msgspec
import nats
import pytest

from harness.broker import Broker
from harness.waiting import DEADLINE_S, until_async
from jetmem.adapters import nats_streams
from jetmem.client import (
    Busy,
    ClientError,
    NotStored,
    Outgoing,
    PermissionDenied,
    Refused,
    RequestRefused,
    TimedOut,
    Unavailable,
    Unreachable,
    connect,
)
from jetmem.client.batching import BATCH_EVENTS_MAX
from jetmem.client.flushing import flushed
from jetmem.client.questions import FORGET_ANSWER_S
from jetmem.loading import Loader, Source, wait_fresh
from jetmem.query.settings import QuerySettings
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects
from jetmem_schemas.failures import ERROR_CODE_HEADER, Failure


@pytest.fixture
def broker():
    with Broker() as running:
        yield running


@asynccontextmanager
async def _raw(broker):
    nc = await nats.connect(broker.url, allow_reconnect=False)
    try:
        yield nc
    finally:
        await nc.close()


async def _create(nc, **changes):
    config = nats_streams.configuration(subjects.MEMORY, Common()) | changes
    reply = await nc.request("$JS.API.STREAM.CREATE.MEMORY", json.dumps(config).encode(), timeout=DEADLINE_S)
    assert "error" not in json.loads(reply.data), reply.data


async def _ensure(broker, **common):
    async with _raw(broker) as nc:
        await nats_streams.ensure(nc, subjects.MEMORY, Common(**common))


async def _stored(broker):
    """Subject and payload of all that MEMORY holds, in order."""
    async with _raw(broker) as nc:
        js = nc.jetstream()
        total = (await js.stream_info(subjects.MEMORY)).state.messages
        sub = await js.subscribe("", stream=subjects.MEMORY, ordered_consumer=True) if total else None
        return [
            (subjects.published(m.subject), json.loads(m.data))
            for m in [await sub.next_msg(timeout=DEADLINE_S) for _ in range(total)]
        ]


def _events(count, sessions=3, prefix="e"):
    return [
        Outgoing(event={"text": f"text {i}", "n": i}, session=f"s{i % sessions}", id=f"{prefix}{i}")
        for i in range(count)
    ]


def _by_session(stored):
    found = {}
    for subject, body in stored:
        found.setdefault(subject, {}).setdefault(body["id"], body["n"])
    return {subject: list(numbers.values()) for subject, numbers in found.items()}


def test_one_event_is_published_with_an_id_and_no_header(broker):
    async def run():
        await _ensure(broker)
        async with connect(broker.url, tenant="acme", agent="alice") as client:
            receipt = await client.publish("hello", session="s1", author="bob")
            assert client.last_seq == receipt.seq == 1
        return receipt, await _stored(broker)

    receipt, stored = asyncio.run(run())
    assert stored == [("mem.acme.event.alice.s1", {"id": receipt.id, "text": "hello", "author": "bob"})]


def test_what_would_never_be_stored_is_refused_and_not_sent(broker):
    async def run():
        await _ensure(broker)
        async with connect(broker.url, tenant="acme") as client:
            for text, session in (("x", "no good"), ("", "s"), ("x" * 1024 * 1024, "s")):
                with pytest.raises(Refused):
                    await client.publish(text, session=session)
            await client.publish("good", session="s")
        return await _stored(broker)

    assert [body["text"] for _, body in asyncio.run(run())] == ["good"]


@pytest.mark.parametrize("count", [0, 1, 2, BATCH_EVENTS_MAX, BATCH_EVENTS_MAX + 1, 3_500])
def test_many_are_stored_in_order_once(broker, count):
    async def run():
        await _ensure(broker)
        ids = []
        async with connect(broker.url, tenant="acme") as client:
            receipts = await client.publish_many(_events(count), progress=lambda p: ids.extend(p.ids))
        return receipts, ids, await _stored(broker)

    receipts, ids, stored = asyncio.run(run())
    assert (receipts.count, receipts.last_seq, receipts.repeated) == (count, count, 0)
    assert ids == [body["id"] for _, body in stored] == [f"e{i}" for i in range(count)]


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_broker_that_is_restarted_in_the_middle_loses_nothing(broker, end):
    async def run():
        await _ensure(broker)
        acknowledged = []
        restarts = []

        def progress(done):
            acknowledged.extend(done.ids)
            if len(restarts) < 3 and done.count >= 4_000 * (len(restarts) + 1):
                getattr(broker, end)()
                broker.start()
                restarts.append(done.count)

        async with connect(broker.url, tenant="acme") as client:
            receipts = await client.publish_many(_events(15_000), progress=progress)
        return receipts, acknowledged, restarts, await _stored(broker)

    receipts, acknowledged, restarts, stored = asyncio.run(run())
    assert len(restarts) == 3
    assert receipts.count == 15_000
    assert acknowledged == [f"e{i}" for i in range(15_000)]
    assert {body["id"] for _, body in stored} == set(acknowledged)
    assert all(numbers == sorted(numbers) for numbers in _by_session(stored).values())


def test_single_publishes_survive_a_broker_that_is_away(broker):
    async def run():
        await _ensure(broker)
        async with connect(broker.url, tenant="acme") as client:
            await client.publish("before", session="s")
            broker.stop()
            waiting = [asyncio.ensure_future(client.publish(f"away {i}", session="s")) for i in range(20)]
            done, _ = await asyncio.wait(waiting, timeout=0.2)
            assert not done
            await asyncio.to_thread(broker.start)
            receipts = await asyncio.gather(*waiting)
        return receipts, await _stored(broker)

    receipts, stored = asyncio.run(run())
    assert {r.id for r in receipts} <= {body["id"] for _, body in stored}
    assert len({r.id for r in receipts}) == 20


def test_without_acknowledgement_the_event_is_handed_back(broker):
    async def run():
        async with connect(broker.url, tenant="acme") as client:
            with pytest.raises(NotStored) as one:
                await client.publish("no stream yet", session="s", timeout_s=0.3)
            with pytest.raises(NotStored) as many:
                await client.publish_many(_events(2_500), timeout_s=3)
            assert len(many.value.pending) >= BATCH_EVENTS_MAX
            await _ensure(broker)
            await client.publish_event(one.value.pending[0])
            await client.publish_many(many.value.pending)
        return one.value, many.value, await _stored(broker)

    one, many, stored = asyncio.run(run())
    assert [body["id"] for _, body in stored] == [m.id for m in one.pending + many.pending]


def test_a_full_memory_is_waited_for(broker):
    async def run():
        await _ensure(broker, memory_bytes_max=200_000)
        acknowledged = []
        async with connect(broker.url, tenant="acme") as client, _raw(broker) as nc:
            many = asyncio.ensure_future(
                client.publish_many(_events(3_000, sessions=1), progress=lambda p: acknowledged.extend(p.ids))
            )
            seen = []

            async def drained():
                if not many.done():
                    js = nc.jetstream()
                    state = (await js.stream_info(subjects.MEMORY)).state
                    if state.messages:
                        seen.append(state.messages)
                        await js.purge_stream(subjects.MEMORY, seq=state.last_seq + 1)
                return many.done()

            await until_async(drained, "all are stored although MEMORY is small")
            return acknowledged, len(seen), await many

    acknowledged, drains, receipts = asyncio.run(run())
    assert acknowledged == [f"e{i}" for i in range(3_000)]
    assert drains > 1
    assert receipts.count == 3_000


def test_a_full_memory_hands_the_event_back_when_the_time_is_up(broker):
    async def run():
        await _ensure(broker, memory_bytes_max=300)
        async with connect(broker.url, tenant="acme") as client:
            with pytest.raises(NotStored, match="maximum bytes"):
                await client.publish("x" * 400, session="s", timeout_s=3)

    asyncio.run(run())


def test_a_stream_without_atomic_batches_is_filled_one_by_one(broker):
    async def run():
        async with _raw(broker) as nc:
            await _create(nc, allow_atomic=False)
        async with connect(broker.url, tenant="acme") as client:
            receipts = await client.publish_many(_events(700, sessions=50))
        return receipts, await _stored(broker)

    receipts, stored = asyncio.run(run())
    assert receipts.count == 700
    assert all(numbers == sorted(numbers) for numbers in _by_session(stored).values())
    assert {body["id"] for _, body in stored} == {f"e{i}" for i in range(700)}


def test_what_the_broker_alone_finds_too_large_is_refused_and_the_rest_stored(broker):
    async def run():
        async with _raw(broker) as nc:
            await _create(nc, max_msg_size=500)
        refused = []
        events = [*_events(10), Outgoing(event={"text": "x" * 600}, session="s0", id="big"), *_events(10, prefix="f")]
        async with connect(broker.url, tenant="acme") as client:
            receipts = await client.publish_many(
                events, on_refused=lambda out, error: refused.append((out.id, error.code))
            )
            with pytest.raises(Refused):
                await client.publish("x" * 600, session="s")
        return receipts, refused, await _stored(broker)

    receipts, refused, stored = asyncio.run(run())
    assert refused == [("big", "too_large")]
    assert (receipts.count, receipts.refused) == (20, 1)
    assert len({body["id"] for _, body in stored}) == 20


ACCOUNTS = """
accounts { A { jetstream: enabled, users: [
  {user: root, password: root}
  {user: alice, password: pw, permissions: {
    publish: ["mem.acme.event.alice.*", "mem.acme.query.*"], subscribe: ["_I.alice.>"]}}
] } }
"""


def test_a_violation_is_an_error_at_once_and_not_a_time_out():
    async def run(broker):
        nc = await nats.connect(broker.url, user="root", password="root", allow_reconnect=False)
        await nats_streams.ensure(nc, subjects.MEMORY, Common())
        await nc.close()
        user = {"user": "alice", "password": "pw", "tenant": "acme"}
        with pytest.raises(PermissionDenied, match="inbox_prefix"):
            await connect(broker.url, agent="alice", **user)
        with pytest.raises(PermissionDenied, match="credentials"):
            await connect(broker.url, tenant="acme", user="alice", password="wrong")
        async with connect(broker.url, agent="alice", inbox_prefix="_I.alice", **user) as client:
            await client.publish("mine", session="s1")
            with pytest.raises(PermissionDenied):
                await client.publish("not mine", session="s1", agent="Bob")
            refused = []
            events = [Outgoing(event={"text": "x"}, session="s", agent=a) for a in ("alice", "bob", "alice")]
            receipts = await client.publish_many(events, on_refused=lambda out, error: refused.append(out.agent))
            assert (receipts.count, refused) == (2, ["bob"])

    with Broker(accounts=ACCOUNTS) as broker:
        asyncio.run(run(broker))


def test_a_broker_that_is_not_there_is_said_to_be():
    async def run():
        with pytest.raises(Unavailable):
            await connect("nats://127.0.0.1:1", tenant="acme", connect_timeout_s=0.3)
        with pytest.raises(Refused):
            await connect("nats://127.0.0.1:1", tenant="acme", creds="/no/such/file")

    asyncio.run(run())


@asynccontextmanager
async def _answering(broker, reply, headers=None):
    """A query service that gives the same reply to everything; yields what it was asked."""
    asked = []
    nc = await nats.connect(broker.url)

    async def answer(msg):
        asked.append((msg.subject, json.loads(msg.data)))
        given = reply(asked[-1]) if callable(reply) else reply
        await nc.publish(msg.reply, msgspec.json.encode(given), headers=headers)

    await nc.subscribe(subjects.QUERY_ALL, cb=answer)
    await flushed(nc)
    try:
        yield asked
    finally:
        await nc.close()


def _events_reply(ids, cursor=None):
    item = {"agent": "a", "session": "s", "ts": "t", "at": "t", "seq": 1, "kind": "message"}
    fields = {"cursor": cursor} if cursor else {}
    return {
        "events": [{"id": i, **item} for i in ids],
        "fresh": {},
        "degraded": [],
        "stale": False,
        "took_ms": 1.0,
        **fields,
    }


def test_pages_are_followed(broker):
    pages = {None: (["a", "b"], "c1"), "c1": (["c"], "c2"), "c2": (["d"], None)}

    async def run():
        async with (
            _answering(broker, lambda asked: _events_reply(*pages[asked[1].get("cursor")])) as asked,
            connect(broker.url, tenant="acme") as client,
        ):
            found = [item.id async for item in client.timeline_all(limit=2, agent="a")]
            assert all(request["limit"] == 2 for _, request in asked)
            return found

    assert asyncio.run(run()) == ["a", "b", "c", "d"]


def test_my_own_writes_are_waited_for(broker):
    async def run():
        await _ensure(broker)
        async with (
            _answering(broker, _events_reply(["a"])) as asked,
            connect(broker.url, tenant="acme") as client,
            connect(broker.url, tenant="acme", read_your_writes=True) as mine,
        ):
            for each in (client, mine):
                await each.publish("x", session="s")
            await client.timeline()
            await client.timeline(after="mine", wait_ms=7)
            await mine.timeline()
            return [(request.get("after"), request.get("wait_ms")) for _, request in asked]

    assert asyncio.run(run()) == [(None, None), (1, 7), (2, 5_000)]


def test_errors_of_questions_are_typed(broker):
    failure = Failure("bad_cursor", "the cursor is not one of ours", "cursor")

    async def run():
        async with connect(broker.url, tenant="acme") as client:
            with pytest.raises(Unavailable):
                await client.search("x")
            with pytest.raises(RequestRefused) as local:
                await client.search("x", limit=0)
            with pytest.raises(RequestRefused) as misspelt:
                await client.timeline(sesion="x")
            async with _answering(broker, failure, {ERROR_CODE_HEADER: "bad_cursor"}):
                with pytest.raises(RequestRefused) as remote:
                    await client.timeline(cursor="zzz")
            async with _raw(broker) as nc, connect(broker.url, tenant="acme", answer_s=0.1) as hasty:
                await nc.subscribe(subjects.QUERY_ALL)
                await flushed(nc)
                with pytest.raises(TimedOut):
                    await hasty.status()
            return [(e.value.code, e.value.field) for e in (local, misspelt, remote)]

    assert asyncio.run(run()) == [("bad_field", "limit"), ("bad_field", "sesion"), ("bad_cursor", "cursor")]


def _load(broker, name):
    bad = []

    async def run():
        async with connect(broker.url, tenant="none") as client:
            with Source(str(name)) as source:
                loader = Loader(client, on_bad=lambda *each: bad.append(each[:2]), on_stored=lambda report: None)
                return await loader.run(source)

    return asyncio.run(run()), bad


def test_a_file_is_loaded_twice_under_the_same_ids(broker, tmp_path):
    asyncio.run(_ensure(broker))
    good = [
        json.dumps({"tenant": f"t{i % 3}", "agent": "a", "session": "s", "event": {"text": f"{i}", "n": i}})
        for i in range(3_000)
    ]
    rows = [*good[:10], "nope", '{"tenant":"a b","agent":"a","session":"s","event":{"text":"x"}}', "", *good[10:]]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(rows))
    report, bad = _load(broker, file)
    assert (report.stored, report.bad, report.last_seq) == (3_000, 2, 3_000)
    assert bad == [(11, "bad_json"), (12, "bad_subject")]
    assert set(report.last_seqs) == {"t0", "t1", "t2"}
    _load(broker, file)
    stored = asyncio.run(_stored(broker))
    assert len(stored) == 6_000
    assert stored[:3_000] == stored[3_000:]


def test_a_pipe_is_loaded(broker, monkeypatch):
    asyncio.run(_ensure(broker))
    reading, writing = os.pipe()
    line = b'{"tenant":"t","agent":"a","session":"s","event":{"text":"x"}}\n'
    os.write(writing, line * 5)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": pipe}))
        report, _ = _load(broker, "-")
    assert report.stored == 5


def test_waiting_for_an_arm_ends_when_it_is_fresh(broker):
    answers = iter([True, True, False])
    common = {"fresh": {}, "took_ms": 1.0}
    status = dict.fromkeys(("events", "sessions", "agents", "dead_letters", "purging"), 0) | {
        "pending_vectors": 3,
        "stages": [],
    }

    def reply(asked):
        if asked[0].endswith("status"):
            return status | common | {"degraded": [], "stale": False}
        late = next(answers)
        return {"mode": "vector", "hits": [], "degraded": ["vector"] if late else [], "stale": late} | common

    async def run():
        waited = []
        async with _answering(broker, reply) as asked, connect(broker.url, tenant="none") as client:
            await wait_fresh(client, "acme", 42, "vector", lambda *each: waited.append(each))
        return waited, [request["after"] for subject, request in asked if subject == "mem.acme.query.search"]

    assert asyncio.run(run()) == ([("acme", 3, "")] * 2, [42] * 3)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("unavailable", Unavailable), ("busy", Busy), ("timeout", TimedOut), ("internal", RequestRefused)],
)
def test_one_condition_has_one_type_whoever_noticed_it(broker, code, kind):
    failure = Failure(code, "stage persist is not running")

    async def run():
        async with (
            _answering(broker, failure, {ERROR_CODE_HEADER: code}),
            connect(broker.url, tenant="acme") as client,
        ):
            with pytest.raises(ClientError) as error:
                await client.search("x")
            return error.value

    error = asyncio.run(run())
    assert type(error) is kind
    assert (error.code, str(error)) == (code, f"{code}: stage persist is not running")


def test_waiting_for_an_arm_goes_on_while_persist_is_restarted(broker):
    """query answers `unavailable`, `timeout`, `busy` then; the wait is over when the arm is fresh, not before."""
    found = {"mode": "vector", "hits": [], "degraded": [], "stale": False, "fresh": {}, "took_ms": 1.0}
    codes = iter(["unavailable", "timeout", "busy", ""])

    async def run():
        waited = []
        nc = await nats.connect(broker.url)

        async def answer(msg):
            code = next(codes)
            body = Failure(code, f"it is {code}") if code else found
            headers = {ERROR_CODE_HEADER: code} if code else None
            await nc.publish(msg.reply, msgspec.json.encode(body), headers=headers)

        await nc.subscribe(subjects.QUERY_ALL, cb=answer)
        await flushed(nc)
        async with connect(broker.url, tenant="none") as client:
            await wait_fresh(client, "acme", 42, "vector", lambda *each: waited.append(each))
        await nc.close()
        return waited

    assert asyncio.run(run()) == [("acme", 0, f"it is {code}") for code in ("unavailable", "timeout", "busy")]


def test_what_is_asked_wrongly_in_python_is_said_before_anyone_is_asked(broker):
    async def run():
        said = []
        async with connect(broker.url, tenant="acme") as client:
            for wrong in (client.search("x", after="foo"), client.get(["x", "y"]), client.search("x", mode="foo")):
                with pytest.raises(RequestRefused) as refused:
                    await wrong
                said.append((refused.value.field, refused.value.message))
        return said

    assert asyncio.run(run()) == [
        ("after", "after must be a sequence (the seq of a receipt) or \"mine\", not 'foo'"),
        ("ids", 'ids must be text: get("a", "b"), or get(*ids) for a list; not list'),
        ("mode", "mode must be hybrid, text or vector, not foo"),
    ]


def test_a_forget_is_waited_for_longer_than_the_service_takes(broker):
    """Other questions give up at `answer_s`; a forget that was not answered may have been recorded, and says so."""
    done = {"state": "applied", "seq": 1, "erased": 1, "waiting": []}
    common = {"fresh": {}, "degraded": [], "stale": False, "took_ms": 1.0}
    assert QuerySettings().forget_wait_s + 2 * QuerySettings().service_timeout_s < FORGET_ANSWER_S

    async def run():
        late = asyncio.Event()
        nc = await nats.connect(broker.url, allow_reconnect=False)

        async def answer(msg):
            await late.wait()
            await nc.publish(msg.reply, msgspec.json.encode(done | common))

        await nc.subscribe(subjects.query("acme", "forget"), cb=answer)
        await nc.subscribe(subjects.query("acme", "status"))
        await flushed(nc)
        async with connect(broker.url, tenant="acme", answer_s=0.1) as client:
            forgetting = asyncio.ensure_future(client.forget(ids=["a"]))
            with pytest.raises(TimedOut):
                await client.status()
            assert not forgetting.done()
            late.set()
            assert (await forgetting).state == "applied"
            late.clear()
            with pytest.raises(TimedOut) as unknown:
                await client.forget(ids=["a"], timeout_s=0.1)
            with pytest.raises(TimedOut) as asked:
                await client.forget(seq=1)
        await nc.close()
        return unknown.value.message, asked.value.message

    unknown, asked = asyncio.run(run())
    assert "whether the forget was recorded is not known: it is safe to run it again" in unknown
    assert "recorded" not in asked


@pytest.mark.parametrize("server", ["http://127.0.0.1:4222", "foo", "", "nats://", "nats://127.0.0.1:4222,ftp://x"])
def test_an_address_that_no_broker_can_have_is_refused_at_once(server):
    async def run():
        async with connect(server, tenant="acme", connect_timeout_s=None):
            pass

    with pytest.raises(Refused) as refused:
        asyncio.run(run())
    assert (refused.value.code, refused.value.field) == ("bad_server", "server")
    assert "nats://, tls://, ws://, wss://" in refused.value.message


def test_a_broker_that_is_not_there_is_a_kind_of_unavailable():
    async def run():
        async with connect("127.0.0.1:1", tenant="acme", connect_timeout_s=0.2):
            pass

    with pytest.raises(Unavailable) as caught:
        asyncio.run(run())
    assert type(caught.value) is Unreachable
