"""`jetmem dead-letters` against a real broker."""

import asyncio
import json

import nats
import pytest
from typer.testing import CliRunner

from harness.broker import Broker
from harness.files import grep
from harness.persist_process import Client, PersistProcess, client
from harness.waiting import DEADLINE_S, until_async
from jetmem import flow
from jetmem.cli import app
from jetmem.console import publish_command
from jetmem.persist.core import default_id
from jetmem.query.settings import QuerySettings
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects

BAD = [
    ("mem.acme.event.a.s", b"nope", {"X": "kept", "Nats-Msg-Id": "not kept"}),
    ("mem.acme.event.a.s", b'{"author":"bob"}', {}),
    ("mem.umbrella.event.a.s", b'{"id":"x","ts":5,"text":7}', {}),
]


@pytest.fixture
def pair(tmp_path):
    """Three letters: MEMORY 1, 2, 3."""

    async def fill(broker):
        async with client(broker) as c:
            for subject, payload, headers in BAD:
                await c.publish(payload, subject, **headers)
            await c.dead_count(3)

    with Broker() as running, PersistProcess(running, tmp_path / "data", persist_purge_delay_s=0.1) as persist:
        asyncio.run(fill(running))
        yield running, persist


@pytest.fixture
def broker(pair):
    return pair[0]


def _run(broker, *arguments, code=0):
    result = CliRunner().invoke(app, ["dead-letters", *arguments, "--server", broker.url])
    assert result.exit_code == code, result.output
    return result


def _listed(broker, *arguments):
    return [json.loads(line) for line in _run(broker, "list", *arguments).stdout.splitlines()]


def _on(pair, body):
    async def go():
        async with client(pair[0]) as c:
            await body(c)

    asyncio.run(go())


def _grep(pair, word):
    return grep(word, pair[0].data / "nats", pair[1].data / "persist")


def test_listed_by_tenant_and_code(broker):
    assert [row["seq"] for row in _listed(broker)] == [1, 2, 3]
    assert [row["seq"] for row in _listed(broker, "--tenant", "acme")] == [1, 2]
    assert [row["seq"] for row in _listed(broker, "--code", "bad_field")] == [3]
    assert [row["seq"] for row in _listed(broker, "--limit", "1")] == [1]
    assert json.loads(_run(broker, "show", "1").stdout)["payload"] == "nope"
    _run(broker, "show", "9", code=1)


def test_the_list_for_people_is_never_cut(broker, monkeypatch):
    """What is in it is to be copied, however narrow the terminal."""
    monkeypatch.setattr("jetmem.console.operator_commands.for_people", lambda _: True)
    monkeypatch.setenv("COLUMNS", "100")
    shown = "".join(_run(broker, "list").stdout.split())
    assert "…" not in shown
    assert all(subject.split(".")[1] in shown for subject, _, _ in BAD)


def _publish(broker, *arguments, code=0):
    result = CliRunner().invoke(app, ["publish", "acme", "a", "s", *arguments, "--wait", "--server", broker.url])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_publish_says_what_became_of_it(pair, monkeypatch):
    """Recorded, recorded before, or a dead letter with its code: with a query that asks persist."""
    broker, persist = pair
    monkeypatch.setattr(publish_command, "_DEAD_WITHIN_S", 1.0)
    query = flow.build("query", {"": Common(server=broker.url), "query": QuerySettings()})

    def refused():
        monkeypatch.setattr(publish_command, "_DEAD_WITHIN_S", DEADLINE_S)  # its letter comes when it comes
        return _publish(broker, "two", "--id", "x1", code=1)

    async def run():
        serving = asyncio.create_task(query.run())

        async def ready():
            return query.health.ready

        await until_async(ready, "query is ready")
        try:
            return [
                await asyncio.to_thread(_publish, broker, "one", "--id", "x1"),
                await asyncio.to_thread(_publish, broker, "one", "--id", "x1"),
                await asyncio.to_thread(refused),
            ]
        finally:
            query.app.exit()
            await serving

    first, again, other = asyncio.run(run())
    assert (first["state"], first["id"]) == ("recorded", "x1")
    assert (again["state"], again["first"]) == ("repeated", first["seq"])
    assert (other["state"], other["code"], other["field"]) == ("dead", "conflict", "id")


def test_redriven_under_the_original_id_and_time_and_then_erased(pair):
    """What is refused again comes back as a new letter."""
    broker = pair[0]
    at = json.loads(_run(broker, "show", "2").stdout)["headers"]["Jetmem-Time"]
    _run(broker, "redrive", code=2)
    assert "2 redriven" in _run(broker, "redrive", "--tenant", "acme").stdout

    async def body(c):
        plain, filled = [await c.js.get_msg(subjects.MEMORY, seq) for seq in (4, 5)]
        assert (subjects.published(plain.subject), plain.data) == ("mem.acme.event.a.s", b"nope")
        assert plain.headers == {"X": "kept"}
        assert json.loads(filled.data) == {"author": "bob", "id": default_id(2, int(at)), "ts": int(at)}

        async def back():
            return [row["seq"] for row in await asyncio.to_thread(_listed, broker)] == [3, 4, 5]

        await until_async(back, "both are letters again, under new sequences")

    _on(pair, body)


def test_what_is_not_acknowledged_stays(pair):
    _on(pair, lambda c: c.js.delete_stream(subjects.MEMORY))
    assert pair[1].ended() != 0
    pair[1].start(persist_accept_gap="true")  # makes MEMORY anew
    _on(pair, lambda c: c.recorded(0))

    async def full(c):
        config = (await c.js.stream_info(subjects.MEMORY)).config
        config.max_bytes = 1
        await c.js.update_stream(config)

    _on(pair, full)
    assert "unavailable" in _run(pair[0], "redrive", "--all", code=1).stderr
    assert len(_listed(pair[0])) == 3


def test_dropped_only_when_meant(broker):
    _run(broker, "drop", code=2)
    _run(broker, "drop", "--seq", "2", code=2)
    assert len(_listed(broker)) == 3
    _run(broker, "drop", "--seq", "2", "--yes")
    assert [row["seq"] for row in _listed(broker)] == [1, 3]


@pytest.mark.parametrize("command", [("redrive", "--all"), ("drop", "--all", "--yes")])
def test_without_persist_nothing_is_done_and_the_command_says_so(pair, command):
    broker, persist = pair
    persist.stop()
    assert "persist is not running" in _run(broker, *command, code=1).stderr

    async def untouched():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        assert (await nc.jetstream().stream_info(subjects.MEMORY)).state.last_seq == 3
        await nc.close()

    asyncio.run(untouched())
    assert len(_listed(broker)) == 3


@pytest.mark.parametrize("command", [("drop", "--all", "--yes"), ("redrive", "--all")])
def test_what_was_dropped_or_redriven_can_still_be_forgotten(pair, command):
    """The refused message lies in MEMORY too, and only its letter leads to it."""
    broker, persist = pair

    async def say(c):
        await c.publish({"id": "ok", "text": "harmless"})
        await c.publish(b'{"id":"u","text":["unmentionable"]}')
        await c.dead_count(4)
        # still refused when it is published again, under the same id
        await c.recorded((await c.js.stream_info(subjects.MEMORY)).state.last_seq)

    async def forget(c):
        await c.recorded((await c.js.stream_info(subjects.MEMORY)).state.last_seq)
        await c.purged(await c.forget(all=True))

    _on(pair, say)
    assert _grep(pair, b"unmentionable")
    _run(broker, *command)
    _on(pair, forget)
    assert _grep(pair, b"unmentionable") == []
    persist.kill()
    persist.start()  # a checkpoint whose message was erased is no alarm
    _on(pair, lambda c: c.recorded(1))


def test_many_forgets_that_waited_look_through_the_letters_once(pair):
    """A forget waits as long as another store may hold words of its tenant; hundreds become due at once then."""
    broker, persist = pair
    letters, forgets = 40, 60
    asked = []

    async def count(msg):
        asked.append(msg.data)

    async def say(c):
        for number in range(letters):
            await c.publish(b"unmentionable", "mem.acme.event.b.s" if number % 2 else "mem.acme.event.a.s")
        await c.dead_count(len(BAD) + letters)

    async def forget():
        nc = await nats.connect(broker.url)
        try:
            for number in range(forgets):
                body = {"ids": [f"e{number}"]} if number else {"agent": "a"}
                last = await nc.jetstream().publish("mem.acme.forget._._", json.dumps(body).encode(), timeout=20)
            await nc.subscribe(subjects.raw_stream_api("STREAM.MSG.GET", subjects.DEAD), cb=count)
            await nc.flush()
            persist.start()
            c = Client(nc)
            await c.recorded(last.seq)
            await c.purged(last.seq)
            left = [m.subject for m in await c.dead()]
        finally:
            await nc.close()
        return left

    _on(pair, say)
    persist.kill()
    left = asyncio.run(forget())
    assert len(left) == 1 + letters // 2, "those of the other tenant and of the other agent"
    assert letters < len(asked) < letters * forgets / 4
