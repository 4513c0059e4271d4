"""`jetmem dead-letters` against a real broker."""

import asyncio
import json

import nats
import pytest
from typer.testing import CliRunner

from harness.broker import Broker
from jetmem.adapters import nats_streams
from jetmem.cli import app
from jetmem.persist.core import default_id
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects

AT = 1_767_225_600_000


def _letter(seq, tenant, code, payload):
    headers = {"Jetmem-Subject": f"mem.{tenant}.event.a.s", "Jetmem-Seq": str(seq), "Jetmem-Time": str(AT)}
    headers |= {"Jetmem-Code": code, "Jetmem-Reason": "because", "Jetmem-Original-X": "kept"}
    return subjects.dead(code, tenant), payload, headers | {"Jetmem-Original-Nats-Msg-Id": "not kept"}


@pytest.fixture
def broker():
    async def fill(url):
        nc = await nats.connect(url, allow_reconnect=False)
        for stream in (subjects.MEMORY, subjects.DEAD):
            await nats_streams.ensure(nc, stream, Common())
        letters = [
            _letter(7, "acme", "bad_json", b"nope"),
            _letter(8, "acme", "missing_field", b'{"author":"bob"}'),
            _letter(9, "umbrella", "conflict", b'{"id":"x","ts":5,"text":"t"}'),
        ]
        for subject, payload, headers in letters:
            await nc.jetstream().publish(subject, payload, headers=headers)
        await nc.close()

    with Broker() as running:
        asyncio.run(fill(running.url))
        yield running


def _run(broker, *arguments, code=0):
    result = CliRunner().invoke(app, ["dead-letters", *arguments, "--server", broker.url])
    assert result.exit_code == code, result.output
    return result


def _listed(broker, *arguments):
    return [json.loads(line) for line in _run(broker, "list", *arguments).stdout.splitlines()]


def _memory(broker):
    async def read():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        js = nc.jetstream()
        count = (await js.stream_info(subjects.MEMORY)).state.messages
        found = [await js.get_msg(subjects.MEMORY, seq=i + 1) for i in range(count)]
        await nc.close()
        return [(subjects.published(m.subject), m.data, m.headers) for m in found]

    return asyncio.run(read())


def test_listed_by_tenant_and_code(broker):
    assert [row["seq"] for row in _listed(broker)] == [1, 2, 3]
    assert [row["seq"] for row in _listed(broker, "--tenant", "acme")] == [1, 2]
    assert [row["seq"] for row in _listed(broker, "--code", "conflict")] == [3]
    assert [row["seq"] for row in _listed(broker, "--limit", "1")] == [1]
    assert json.loads(_run(broker, "show", "1").stdout)["payload"] == "nope"
    _run(broker, "show", "9", code=1)


def test_redriven_under_the_original_id_and_time_and_then_erased(broker):
    _run(broker, "redrive", code=2)
    assert "2 redriven" in _run(broker, "redrive", "--tenant", "acme").stdout
    plain, filled = _memory(broker)
    assert plain == ("mem.acme.event.a.s", b"nope", {"X": "kept"})
    assert json.loads(filled[1]) == {"author": "bob", "id": default_id(8, AT), "ts": AT}
    assert [row["seq"] for row in _listed(broker)] == [3]
    _run(broker, "redrive", "--all")
    assert _memory(broker)[2][1] == b'{"id":"x","ts":5,"text":"t"}'
    assert _listed(broker) == []


def test_what_is_not_acknowledged_stays(broker):
    async def remove():
        nc = await nats.connect(broker.url, allow_reconnect=False)
        await nc.jetstream().delete_stream(subjects.MEMORY)
        await nc.close()

    asyncio.run(remove())
    assert "unavailable" in _run(broker, "redrive", "--all", code=1).stderr
    assert len(_listed(broker)) == 3


def test_dropped_only_when_meant(broker):
    _run(broker, "drop", code=2)
    _run(broker, "drop", "--seq", "2", code=2)
    assert len(_listed(broker)) == 3
    _run(broker, "drop", "--seq", "2", "--yes")
    assert [row["seq"] for row in _listed(broker)] == [1, 3]
