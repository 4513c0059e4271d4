"""Every alert against a real Prometheus and a real pipeline: its cause is produced, it fires; it is undone, it is over.

Durations of the rules are shortened (`harness.prometheus`), expressions are not.
"""

import asyncio
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client as Nats

from harness.broker import Broker
from harness.certificates import Certified, certified
from harness.exporter import exporter
from harness.persist_process import Client
from harness.ports import free_port
from harness.prometheus import Prometheus, prometheus
from harness.shards import Shards, moved
from harness.small_disk import SmallDisk, small_disk
from harness.stalling_store import StallingStore, stalling_store
from harness.up import Running, up
from harness.waiting import until
from jetmem import flow
from jetmem.adapters.nats_connect import api
from jetmem.adapters.nats_streams import stream_info
from jetmem.docs import alerts
from jetmem_schemas import subjects

#: Two cores shared with others: a scrape, an evaluation and a restart may each take many seconds.
DEADLINE_S = 120.0
#: Causes that are produced together, on one installation, one after the other.
BESIDE = {
    "JetmemStageDown", "JetmemDegraded", "JetmemDeadLetters", "JetmemPoisonFlood", "JetmemDiskFillsUp",
    "JetmemDiskFull", "JetmemBrokerStorage", "JetmemBrokerDropsConnections", "JetmemWritesStall",
}  # fmt: skip
HUNG = {"JetmemQueriesFail", "JetmemStageDown"}
LATE = {"JetmemFreshnessBurnsFast", "JetmemFreshnessBurnsSlowly", "JetmemLag"}
FULL = {"JetmemBrokerUnhealthy"}
SHARDED = {
    "JetmemExpires", "JetmemExpiresSoon", "JetmemStreamFull", "JetmemMoveStuck", "JetmemPartitionsUnserved",
    "JetmemNoProgress",
}  # fmt: skip


def test_every_alert_is_here() -> None:
    assert {alert.name for alert in alerts.ALERTS} == BESIDE | HUNG | LATE | FULL | SHARDED


class Place:
    """One installation, watched."""

    def __init__(self, url: str, watched: Prometheus) -> None:
        self.url = url
        self.watched = watched
        self.count = 0

    def work(self, *, texts: int = 1, poison: int = 0, questions: int = 1) -> None:
        """Publish and ask a little; what nobody answers is not waited for long."""
        asyncio.run(self._work(texts, poison, questions))

    def ask(self) -> None:
        """Ask only: what was published is worked off meanwhile."""
        self.work(texts=0)

    async def _work(self, texts: int, poison: int, questions: int) -> None:
        nc = await nats.connect(self.url, error_cb=_ignore)
        subject = subjects.memory("acme", "event", "alice", "s1")
        try:
            for number in range(texts):
                self.count += 1
                said = {"text": f"crate {self.count} of the {number}th ship is unloaded at {time.monotonic_ns()}"}
                await nc.publish(subject, json.dumps(said).encode())
            for _ in range(poison):
                await nc.publish(subject, b"nope")
            asked = json.dumps({"query": "which ship?", "limit": 1}).encode()
            asks = (nc.request(subjects.query("acme", "search"), asked, timeout=2) for _ in range(questions))
            await asyncio.gather(*asks, return_exceptions=True)
            await nc.flush(timeout=10)
        finally:
            await nc.close()

    def fire(self, wanted: set[str], step: Callable[[], object] = lambda: None) -> None:
        """Wait until all of them fire, each at some time from now on."""
        began = time.monotonic()
        left = wanted

        def all_told() -> bool:
            nonlocal left
            step()
            left = wanted - self.watched.told(time.monotonic() - began)
            return not left

        self._wait(all_told, lambda: f"these did not fire: {left}")

    def over(self, wanted: set[str], step: Callable[[], object] = lambda: None) -> None:
        """Wait until none of them fires."""

        def none_left() -> bool:
            step()
            return not wanted & self.watched.alerts()

        self._wait(none_left, lambda: f"these did not end: {wanted & self.watched.alerts()}")

    def _wait(self, condition: Callable[[], bool], why: Callable[[], str]) -> None:
        try:
            until(condition, "alerts", DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {why()}") from error


async def _ignore(_: Exception) -> None:
    """What goes wrong here is wanted."""


class Here(NamedTuple):
    """One installation, and what else is watched beside it."""

    place: Place
    running: Running
    disks: dict[str, SmallDisk]
    other: Broker
    store: StallingStore


@pytest.fixture(scope="module", autouse=True)
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Future[None]"]:
    """The story of another installation, which mostly waits: it begins with the first test."""

    def story() -> None:
        with sharded(tmp_path_factory.mktemp("sharded")) as other:
            shards_streams_and_certificates(other)

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(story)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """The pipeline with small disks for index and for the broker, and a broker of others beside it."""
    root = tmp_path_factory.mktemp("up")
    with ExitStack() as stack:
        disks = {name: stack.enter_context(small_disk(root / name, 192)) for name in ("index", "nats")}
        running = stack.enter_context(up(root))
        other = stack.enter_context(Broker(file_store_bytes_max=16 * 1024**2, accounts="max_pending: 9MB"))
        port = free_port()
        store = stack.enter_context(stalling_store(tmp_path_factory.mktemp("store"), port))
        ports = {name: each["http_port"] for name, each in running.processes().items()}
        brokers = (f"http://127.0.0.1:{ports['nats-server']}", other.monitoring)
        jobs = {
            "jetmem": [ports[name] for name in flow.NAMES],
            "nats": [stack.enter_context(exporter(base)) for base in brokers],
            "store": [port],
        }
        watched = stack.enter_context(prometheus(tmp_path_factory.mktemp("watch") / "prometheus", jobs))
        until(lambda: len(watched.query('up{job="jetmem"} == 1')) == len(flow.NAMES), "all are scraped", DEADLINE_S)
        yield Here(Place(running.url, watched), running, disks, other, store)


async def fill(url: str, share_of: int) -> None:
    """A stream of somebody else that takes nearly all that a broker may store."""
    nc = await nats.connect(url)
    try:
        js = nc.jetstream()
        await js.add_stream(name="OTHERS", subjects=["others"])
        for _ in range(share_of):
            await js.publish("others", bytes(1024**2), timeout=20)
    finally:
        await nc.close()


async def empty(url: str) -> None:
    nc = await nats.connect(url)
    try:
        await nc.jetstream().delete_stream("OTHERS")
    finally:
        await nc.close()


async def flood(url: str) -> None:
    """Somebody subscribes and never reads."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"CONNECT {}\r\nSUB flood 1\r\nPING\r\n")
        nc = await nats.connect(url)
        try:
            for _ in range(40):
                await nc.publish("flood", bytes(1024**2))
                await nc.flush(timeout=20)
        finally:
            await nc.close()


def test_causes_beside_each_other(here: Here) -> None:
    place, disk = here.place, here.disks["index"]
    place.over(BESIDE | LATE, place.ask)
    with ExitStack() as asker:
        with here.running.hung("embed"), here.store.stalled():
            place.work(texts=600, questions=0)
            asyncio.run(fill(here.other.url, 15))
            asyncio.run(flood(here.other.url))

            def step() -> None:
                place.work(poison=2)
                if disk.free_share() > 0.08:
                    disk.take(min(0.2, disk.free_share() - 0.05))

            place.fire(BESIDE, step)
            asker.enter_context(here.running.hung("index"))  # nobody takes what embed is about to make
        disk.clear()
        asyncio.run(empty(here.other.url))
        place.fire({"JetmemLag"})
    place.over(BESIDE, place.ask)


def test_the_record_that_comes_late(here: Here) -> None:
    place = here.place
    place.over(HUNG | LATE, place.ask)
    with here.running.hung("persist"):
        place.fire(HUNG, place.work)
    place.fire(LATE - {"JetmemLag"})
    place.over(HUNG | LATE, place.ask)


def test_a_full_disk_of_the_broker(here: Here) -> None:
    """Publishes hang then, and its readiness stays green."""
    place, disk = here.place, here.disks["nats"]
    place.over(FULL)
    disk.take(1.0)
    place.fire(FULL, lambda: place.work(texts=200, questions=0))
    disk.clear()
    os.kill(here.running.pid("nats-server"), signal.SIGKILL)
    place.over(FULL | BESIDE | HUNG)


class Other(NamedTuple):
    """Shards of persist on a broker with TLS."""

    place: Place
    broker: Broker
    shards: Shards
    ports: list[int]
    certificates: Certified

    async def connect(self) -> Nats:
        tls = ssl.create_default_context(cafile=str(self.certificates.authority))
        return await nats.connect(self.broker.url, tls=tls, error_cb=_ignore)

    def start(self, ordinal: int, shards: int) -> None:
        self.shards.start(ordinal, shards=shards, http_port=self.ports[ordinal])


@contextmanager
def sharded(tmp_path: Path) -> Iterator[Other]:
    """One shard of persist, and a certificate of one day; a second shard is watched."""
    made = certified(tmp_path, days=1)
    settings = {"tls_ca": made.authority, "memory_bytes_max": 1024**2, "persist_full_share": 1.0}
    ports = [free_port(), free_port()]
    with (
        Broker(accounts=made.tls) as broker,
        Shards(broker, tmp_path / "data", **settings) as shards,
        exporter(broker.monitoring) as nats_port,
        prometheus(tmp_path / "prometheus", {"jetmem": ports, "nats": [nats_port]}) as watched,
    ):
        yield Other(Place(broker.url, watched), broker, shards, ports, made)


async def crowd(other: Other) -> None:
    """Publish until MEMORY takes no more."""
    nc = await other.connect()
    try:
        with pytest.raises(nats.js.errors.APIError, match="maximum bytes exceeded"):
            while True:
                said = json.dumps({"text": "x" * 10_000}).encode()
                await nc.jetstream().publish(subjects.memory("acme", "event", "alice", "s1"), said, timeout=20)
    finally:
        await nc.close()


async def mend(other: Other) -> None:
    """Give MEMORY more room, and wait until every partition is where it should be."""
    nc = await other.connect()
    try:
        config = (await stream_info(nc, subjects.MEMORY))["config"]
        wider = config | {"max_bytes": 64 * 1024**2}
        await api(nc, subjects.raw_stream_api("STREAM.UPDATE", subjects.MEMORY), wider)
        await moved(Client(nc), 2)
    finally:
        await nc.close()


def shards_streams_and_certificates(sharded: Other) -> None:
    """What needs half a minute of silence runs beside the tests above."""
    place = sharded.place
    sharded.start(0, 1)
    until(lambda: place.watched.query('jetmem_partitions{state="served"} == 64'), "all are served", DEADLINE_S)
    place.over(SHARDED - {"JetmemExpires", "JetmemExpiresSoon"})
    sharded.start(1, 2)
    asyncio.run(crowd(sharded))
    place.fire({"JetmemExpires", "JetmemExpiresSoon", "JetmemStreamFull", "JetmemMoveStuck"})
    made = certified(sharded.certificates.certificate.parent, days=400)
    sharded.broker.reload(made.tls)
    sharded.shards.stop(0)
    sharded.start(0, 2)
    asyncio.run(mend(sharded))
    place.over(SHARDED)
    sharded.shards.stop(1)
    place.fire({"JetmemPartitionsUnserved"})
    sharded.start(1, 2)
    place.over(SHARDED)
    with sharded.broker.hung():
        place.fire({"JetmemNoProgress", "JetmemBrokerUnhealthy"})
    place.over(SHARDED)


def test_shards_streams_and_certificates(beside: "Future[None]") -> None:
    beside.result()
