"""Traps of nats-py that we work around; an upgrade that changes one is noticed here."""

import asyncio
import json

import nats
import pytest
from nats.aio.client import Client

from harness.broker import Broker
from harness.waiting import until_async
from harness.wire import DEADLY, HEADERS, raw_publish, raw_request
from jetmem.adapters.nats_connect import parse_headers, taps
from jetmem.client.flushing import flushed


@pytest.fixture(scope="module")
def broker():
    with Broker() as made:
        yield made


async def listening(broker, errors):
    async def failed(error):
        errors.append(error)

    nc = await nats.connect(broker.url, error_cb=failed, reconnect_time_wait=0.1)
    heard = []

    async def hear(msg):
        heard.append(msg.data)

    return nc, heard, hear


@pytest.mark.parametrize("headers", DEADLY, ids=str)
def test_bare_nats_py_goes_deaf_on_hostile_headers(broker, headers):
    """The reason for `taps`. If this fails, nats-py was repaired: `taps` is then only a matter of speed."""

    async def go():
        errors = []
        nc, heard, hear = await listening(broker, errors)
        await nc.subscribe("deaf", cb=hear)
        await flushed(nc)
        reading = nc._reading_task
        await asyncio.to_thread(raw_publish, broker.port, "deaf", headers, b"x")

        async def ended():
            return reading.done()

        await until_async(ended, "the read loop ends")
        assert nc.is_connected and heard == []
        nc._transport.close()
        await nc._close(nats.aio.client.Client.CLOSED, False)

    asyncio.run(go())


@pytest.mark.parametrize("headers", HEADERS, ids=str)
@pytest.mark.parametrize("tapped", [False, True])
def test_with_taps_the_connection_lives(broker, headers, tapped):
    async def go():
        errors = []
        nc, heard, hear = await listening(broker, errors)
        table = taps(nc)
        assert taps(nc) is table
        sub = await nc.subscribe("lives", cb=hear)
        if tapped:
            table[sub._id] = lambda subject, reply, data, raw: heard.append(bytes(data)) or parse_headers(raw or b"")
        await flushed(nc)
        await asyncio.to_thread(raw_publish, broker.port, "lives", headers, b"hostile")
        await nc.publish("lives", b"after it")

        async def after():
            return b"after it" in heard

        await until_async(after, "the next message")
        assert not tapped or heard == [b"hostile", b"after it"]
        await nc.close()

    asyncio.run(go())


@pytest.mark.parametrize("subject", [b"asked.fine", b"asked.\xff", b"asked.\xc3"], ids=repr)
@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
def test_with_taps_whoever_asks_gets_an_answer(broker, subject, headers):
    async def go():
        nc, heard, _ = await listening(broker, [])
        taps(nc)

        async def answer(msg):
            heard.append(msg.subject)
            await nc.publish(msg.reply, b"answer")  # `respond` would send the asker's headers back

        await nc.subscribe("asked.*", cb=answer)
        await flushed(nc)
        assert await asyncio.to_thread(raw_request, broker.port, subject, headers, b"x") == b"answer"
        assert heard == [subject.decode("utf-8", "backslashreplace")]
        await nc.close()

    asyncio.run(go())


class Scribe:
    """A server that notes what it is told, in order, and answers each PING."""

    def __init__(self):
        self.told = []

    async def serve(self, reader, writer):
        info = {"server_id": "x", "version": "2.15.1", "proto": 1, "max_payload": 1_000_000, "headers": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            self.told.append(line.split()[0])
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()


@pytest.mark.parametrize("how", [Client.flush, flushed])
def test_bare_flush_answers_before_a_subscription_was_sent(how):
    """The reason for `flushed`. If the first fails, nats-py was repaired, and one PING is enough."""

    async def go():
        scribe = Scribe()
        server = await asyncio.start_server(scribe.serve, "127.0.0.1", 0)
        nc = await nats.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        scribe.told.clear()
        await nc.subscribe("asked")
        await how(nc)
        await nc.close()
        server.close()
        return scribe.told

    told = asyncio.run(go())
    last_ping = len(told) - 1 - told[::-1].index(b"PING")
    assert (told.index(b"SUB") < last_ping) == (how is flushed), told


def test_headers_off_the_wire():
    assert parse_headers(b"NATS/1.0\r\nA: 1\r\nB:2\r\nA:  3 \r\n\r\n") == {"A": "3", "B": "2"}
    assert parse_headers(b"NATS/1.0\r\nX-\xff: \xfe\r\nnone\r\n: y\r\n\r\n") == {"X-\ufffd": "\ufffd"}
    assert parse_headers(b"") == {} and parse_headers(b"abcd") == {}
