"""Runs and procedures through the SDK: reported to a real broker, asked of query over fake stages."""

import asyncio
import json
from contextlib import asynccontextmanager

import nats
import pytest

from harness.broker import Broker
from harness.taught import NAMES, taught
from jetmem import client as sdk
from jetmem.adapters import nats_streams
from jetmem.client import NotStored, Refused, RequestRefused, connect
from jetmem.query.discovery import Tally
from jetmem.query.handler import Query
from jetmem.query.settings import QuerySettings
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects


@asynccontextmanager
async def _raw(broker):
    nc = await nats.connect(broker.url, allow_reconnect=False)
    try:
        yield nc
    finally:
        await nc.close()


async def _ensure(broker):
    async with _raw(broker) as nc:
        await nats_streams.ensure(nc, subjects.MEMORY, Common())


@pytest.fixture
def broker():
    with Broker() as running:
        yield running


@pytest.fixture
def memory(broker):
    asyncio.run(_ensure(broker))
    return broker


def _stored(broker):
    """Subject and payload of all that MEMORY holds, in order."""

    async def read():
        async with _raw(broker) as nc:
            js = nc.jetstream()
            total = (await js.stream_info(subjects.MEMORY)).state.messages
            sub = await js.subscribe("", stream=subjects.MEMORY, ordered_consumer=True) if total else None
            found = [await sub.next_msg(timeout=10) for _ in range(total)]
            return [(subjects.published(each.subject), json.loads(each.data)) for each in found]

    return asyncio.run(read())


def test_runs_and_definitions_are_stored_where_they_belong(memory):
    async def go():
        async with connect(memory.url, tenant="acme", agent="alice") as client:
            first = await client.report_run(
                "fix it", success=False, session="s1", procedure="guess", failure="no", steps=["look", {"tool": "edit"}]
            )
            defined = await client.define_procedure("guess", description="try", steps=["look", "edit"], version="2")
            async with client.run("fix it", session="s1", procedure="guess", id="mine") as run:
                run.step("look", ok=True)
            assert client.last_seq == run.receipt.seq == 3
            with pytest.raises(Refused, match="name must match"):
                await client.define_procedure("no name")
            with pytest.raises(Refused):
                await client.report_run("", success=True, session="s1")
            return first, defined

    first, defined = asyncio.run(go())
    stored = _stored(memory)
    duration_ms = stored[2][1].pop("duration_ms")
    steps = [{"tool": "look"}, {"tool": "edit"}]
    run = {"id": first.id, "task": "fix it", "success": False, "procedure": "guess", "failure": "no", "steps": steps}
    assert stored == [
        ("mem.acme.run.alice.s1", run),
        ("mem.acme.procedure.alice.guess", {"id": defined.id, "description": "try", "steps": steps, "version": "2"}),
        (
            "mem.acme.run.alice.s1",
            {
                "id": "mine",
                "task": "fix it",
                "procedure": "guess",
                "success": True,
                "steps": [{"tool": "look", "ok": True}],
            },
        ),
    ]
    assert duration_ms > 0


def test_an_exception_is_reported_and_goes_on(memory):
    async def go():
        async with (
            connect(memory.url, tenant="acme", agent="alice") as client,
            client.run("fix it", session="s1", procedure="guess"),
        ):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        asyncio.run(go())
    [(_, body)] = _stored(memory)
    assert (body["success"], body["failure"]) == (False, "OSError: disk full")


def test_who_runs_out_of_time_is_reported(memory):
    async def go():
        async with (
            connect(memory.url, tenant="acme", agent="alice") as client,
            asyncio.timeout(0.1),
            client.run("wait", session="s1"),
        ):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(go())
    [(_, body)] = _stored(memory)
    assert (body["success"], body["failure"]) == (False, "CancelledError")


def test_without_asyncio_a_run_is_on_disk_when_it_is_left(memory):
    where = {"tenant": "acme", "agent": "bob", "session": "s2", "server": memory.url}
    with sdk.run("fix it", procedure="guess", **where) as good:
        good.step("look")
    with pytest.raises(ZeroDivisionError), sdk.run("divide", **where) as bad:
        bad.lesson("not by zero")
        raise ZeroDivisionError("division by zero")
    assert (good.receipt.seq, bad.receipt.seq, bad.unreported) == (1, 2, None)
    (subject, first), (_, second) = _stored(memory)
    assert (subject, first["success"], first["steps"]) == ("mem.acme.run.bob.s2", True, [{"tool": "look"}])
    assert (second["failure"], second["lessons"]) == ("ZeroDivisionError: division by zero", ["not by zero"])


def test_a_run_without_an_acknowledgement_is_handed_back_and_stored_later_once(broker):
    async def go():
        async with connect(broker.url, tenant="acme", agent="alice") as client:
            with pytest.raises(NotStored) as caught:
                async with client.run("fix it", session="s1", timeout_s=0.3) as run:
                    run.step("look")
            await _ensure(broker)
            [pending] = caught.value.pending
            receipt = await client.publish_event(pending)
            assert receipt.id == run.id

    asyncio.run(go())
    [(_, body)] = _stored(broker)
    assert (body["steps"], body["success"]) == ([{"tool": "look"}], True)


def test_a_run_that_the_broker_forgets_to_acknowledge_is_sent_again_under_its_id(broker):
    """MEMORY comes while it is tried."""

    async def go():
        async with connect(broker.url, tenant="acme", agent="alice") as client:

            async def later():
                async with client.run("fix it", session="s1", timeout_s=60) as run:
                    pass
                return run

            trying = asyncio.ensure_future(later())
            await asyncio.sleep(0)
            await _ensure(broker)
            return await trying

    run = asyncio.run(go())
    assert [body["id"] for _, body in _stored(broker)] == [run.id]


@asynccontextmanager
async def _learnt(broker):
    """query over stages that know three procedures."""
    stages = taught()
    query = Query(stages, QuerySettings(), stages.clock, Tally())
    nc = await nats.connect(broker.url)

    async def answer(msg):
        _, _, body, _ = await query.answer(msg.subject, msg.data)
        await nc.publish(msg.reply, body)

    await nc.subscribe(subjects.QUERY_ALL, cb=answer)
    await nc.flush()
    try:
        yield stages
    finally:
        await nc.close()


def test_every_question_has_a_typed_method(broker):
    async def go():
        async with _learnt(broker), connect(broker.url, tenant="acme") as client:
            found = await client.recommend("fix it", context={"lang": "python"}, explore="thompson", seed="1", k=2)
            assert [(each.id, each.drawn) for each in found.procedures] == [("alpha", 0.5), ("beta", 0.5)]
            assert found.procedures[0].why.neighbours[0].similarity == 0.91
            assert (await client.predict("fix it", "alpha")).probability == 0.8
            assert (await client.procedure("alpha")).procedure.by_agent[0].of == "alice"
            assert len((await client.procedures(limit=2, sort="lift")).procedures) == 2
            assert (await client.related("alpha", hops=2)).procedures[1].path == NAMES
            assert (await client.patterns(done=["search"])).next[0].step == "test"
            assert (await client.insights()).insights[0].works[0].id == "alpha"
            assert [each.id async for each in client.procedures_all(limit=1)] == NAMES
            assert len([each async for each in client.patterns_all(limit=2)]) == 3
            with pytest.raises(RequestRefused) as caught:
                await client.procedures(sort="beauty")
            assert caught.value.field == "sort"

    asyncio.run(go())
