"""What every stage process does when the disk hangs, the broker is too small, closes for good, or is away."""

import asyncio
import json
import signal
import threading
import urllib.request
from types import SimpleNamespace

import nats
import pytest
from faststream.nats import NatsBroker

from harness.broker import Broker
from harness.fake_stages import FakeClock
from harness.persist_process import PersistProcess, client, run
from harness.ports import free_port
from harness.waiting import DEADLINE_S, until_async
from jetmem.adapters.http_health import healthz
from jetmem.adapters.nats_connect import check_server
from jetmem.adapters.nats_reader import OrderedReader
from jetmem.adapters.nats_streams import ensure
from jetmem.embed.app import build as build_embed
from jetmem.embed.settings import EmbedSettings
from jetmem.persist.app import build
from jetmem.persist.record import FAMILIES
from jetmem.persist.settings import PersistSettings
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.settings import Common
from jetmem.testing.encoder import FakeEncoder
from jetmem.testing.store import FakeStore
from jetmem_schemas import subjects

SMALL_BYTES = 1024 * 1024


class HungStore(FakeStore):
    """A disk that does not come back from the first write of a message."""

    def __init__(self, families):
        super().__init__(families)
        self.hung = threading.Event()
        self.go_on = threading.Event()

    def write(self, batch, *, sync):
        if any(family == "log" for family, _, _ in batch.raw):
            self.hung.set()
            self.go_on.wait(DEADLINE_S)
        super().write(batch, sync=sync)


def test_a_disk_that_hangs_in_the_first_write_is_not_healthy(tmp_path):
    async def main(broker):
        store, clock, port = HungStore(FAMILIES), FakeClock(), free_port()
        common = Common(server=broker.url, data=str(tmp_path), http_port=port)
        shell = build(common, PersistSettings(), store=store, clock=clock)
        task = asyncio.create_task(shell.run())
        try:
            await until_async(lambda: said(port, (True, "")), "persist is healthy")
            nc = await nats.connect(broker.url)
            await nc.jetstream().publish(subjects.memory("acme", "event", "alice", "s1"), b'{"text":"x"}')
            await nc.close()
            await until_async(lambda: done(store.hung.is_set()), "the write hangs")
            assert shell.health.verdict() == (True, "ok")
            clock.now += limits.PROGRESS_DEADLINE_S + 1
            assert await healthz(port) == (False, "1 messages wait and none was handled for 31 s")
            store.go_on.set()
            await until_async(lambda: done(shell.health.verdict() == (True, "ok")), "it is healthy again")
        finally:
            store.go_on.set()
            shell.app.exit()
            await task

    with Broker() as broker:
        asyncio.run(main(broker))


async def done(value):
    return value


async def said(port, wanted):
    return (await healthz(port))[0] == wanted[0]


def test_healthz_of_persist_counts_dead_letters(tmp_path):
    port = free_port()

    async def body(c):
        await c.recorded(await c.publish(b"no json"))
        await c.dead_count(1)
        await until_async(lambda: counted(1), "/healthz says 1")

    async def counted(count):
        url = f"http://127.0.0.1:{port}"
        with await asyncio.to_thread(urllib.request.urlopen, f"{url}/healthz") as reply:
            if json.load(reply)["dead_letters"] != count:
                return False
        with await asyncio.to_thread(urllib.request.urlopen, f"{url}/metrics") as reply:
            return f"jetmem_dead_letters_held {count}.0" in reply.read().decode()

    async def main(broker):
        async with client(broker) as c:
            await body(c)

    with Broker() as broker, PersistProcess(broker, tmp_path / "data", http_port=port):
        run(main(broker))


def test_a_broker_that_takes_too_little_is_refused_with_a_sentence(tmp_path):
    async def check(url):
        nc = await nats.connect(url)
        try:
            await check_server(nc)
        finally:
            await nc.close()

    with Broker(payload_bytes_max=SMALL_BYTES) as broker:
        with pytest.raises(Broken, match="max_payload of 1048576 bytes; 8388608 are needed"):
            asyncio.run(check(broker.url))
        persist = PersistProcess(broker, tmp_path / "data").start()
        assert persist.ended() == 1
        assert "max_payload of 1048576 bytes" in persist.said()
        assert "Traceback" not in persist.said()
    with Broker() as broker:
        asyncio.run(check(broker.url))


def test_a_connection_that_is_closed_for_good_ends_the_process(tmp_path):
    """A broker whose `max_payload` shrank under a running stage; the server closes the connection of who is over."""
    with Broker() as broker, PersistProcess(broker, tmp_path / "data") as persist:

        async def dead_letter_over_the_limit():
            async with client(broker) as c:
                await c.recorded(await c.publish({"text": "x"}))
                broker.stop()
                broker.payload_bytes_max = SMALL_BYTES
                broker.start()
                await c.recorded(await publish(c, b'{"text":"y"}'))
                await publish(c, b'{"text":5, "pad":"' + b"z" * 1_048_450 + b'"}')

        async def publish(c, data):
            try:
                return await c.publish(data)
            except nats.errors.Error:
                return await c.publish(data)

        run(dead_letter_over_the_limit())
        assert persist.ended() == 1
        assert "closed for good" in persist.said()
        persist.start()
        assert persist.ended() == 1
        assert "max_payload of 1048576 bytes" in persist.said()


@pytest.mark.parametrize("stage", ["persist", "index", "query"])
@pytest.mark.parametrize("away", ["killed", "never there"])
def test_sigterm_while_the_broker_is_away_is_a_clean_stop(tmp_path, stage, away):
    port = free_port()
    with Broker() as broker:
        if away == "never there":
            broker.kill()
        with PersistProcess(broker, tmp_path / "data", stage=stage, http_port=port) as process:
            asyncio.run(until_async(lambda: http_up(port, healthy=away == "killed"), f"{stage} is up"))
            broker.kill()
            assert process.running()
            process.process.send_signal(signal.SIGTERM)
            assert process.ended() == 0, process.said()
            assert "Traceback" not in process.said()


def test_embed_stops_while_the_broker_is_away():
    async def main(broker):
        shell = build_embed(Common(server=broker.url), EmbedSettings(), encoder=FakeEncoder())
        task = asyncio.create_task(shell.run())
        await until_async(lambda: done(shell.health.ready), "embed is ready")
        broker.kill()
        await until_async(lambda: done(shell.nc.is_reconnecting), "it notices")
        shell.app.exit()
        await asyncio.wait_for(task, DEADLINE_S)

    with Broker() as broker:
        asyncio.run(main(broker))


def test_a_reader_that_is_made_while_the_connection_goes_is_to_try_again():
    async def main(broker):
        nc = await nats.connect(broker.url)
        await ensure(nc, subjects.RECORD, Common())
        reader = OrderedReader(nc, subjects.RECORD, 0, from_now=True)
        assert await reader.fetch(wait=False) == []
        await nc.close()
        reader.rewind(0)
        with pytest.raises(Retryable, match="cannot be listened to: nats: connection closed"):
            await reader.fetch(wait=False)

    with Broker() as broker:
        asyncio.run(main(broker))


async def http_up(port, *, healthy):
    """Whether it listens, and is as it should be (`healthz` says starting also of a process that is not there)."""
    try:
        (await asyncio.open_connection("127.0.0.1", port))[1].close()
    except OSError:
        return False
    return (await healthz(port))[0] == healthy


@pytest.mark.parametrize("gone", [OSError("reset"), RuntimeError("the handler is closed")])  # the latter is uvloop's
def test_a_connection_that_is_gone_while_it_is_closed_is_a_clean_stop(monkeypatch, gone):
    async def not_drained(*_):
        raise nats.errors.ConnectionClosedError

    async def close():
        raise gone

    monkeypatch.setattr(NatsBroker, "stop", not_drained)
    broker = build(Common(), PersistSettings(), store=FakeStore(FAMILIES)).broker
    broker._connection = SimpleNamespace(is_closed=False, close=close)
    asyncio.run(broker.stop())
    assert broker._connection is None
