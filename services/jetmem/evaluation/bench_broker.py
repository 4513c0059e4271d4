"""The broker alone: how fast one Python publisher gets batches onto disk, and one ordered reader gets them back."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import nats
from nats.aio.client import Client as Nats

from jetmem.adapters import nats_server, nats_streams, processes
from jetmem.adapters.nats_reader import OrderedReader
from jetmem.client.batching import BATCH_COMMIT, BATCH_EVENTS_MAX, BATCH_ID, BATCH_SEQUENCE
from jetmem.evaluation.bench_data import AGENT, TENANT, Data
from jetmem.runtime.errors import invariant
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects

_START_S: Final = 15.0
_POLL_S: Final = 0.02
_COMMIT_S: Final = 30.0
_READ_S: Final = 120.0
_PENDING_BYTES: Final = 32 * 1024 * 1024


class Bare(msgspec.Struct, frozen=True):
    """Events a second."""

    events: int
    published: float
    read: float


async def measure(data: Data, folder: Path) -> Bare:
    """Publish to a broker of its own with nothing behind it, then read it all."""
    messages = [
        (subjects.memory(TENANT, "event", AGENT, line.session), msgspec.json.encode(line.event)) for line in data.lines
    ]
    async with _broker(folder) as url:
        nc = await nats.connect(url, allow_reconnect=False, pending_size=_PENDING_BYTES)
        try:
            await nats_streams.ensure(nc, subjects.MEMORY, Common())
            began = time.perf_counter()
            for start in range(0, len(messages), BATCH_EVENTS_MAX):
                await _batch(nc, f"bare-{start}", messages[start : start + BATCH_EVENTS_MAX])
            published = len(messages) / (time.perf_counter() - began)
            began = time.perf_counter()
            await _read(nc, len(messages))
            return Bare(len(messages), published, len(messages) / (time.perf_counter() - began))
        finally:
            await nc.close()


async def _batch(nc: Nats, batch_id: str, messages: list[tuple[str, bytes]]) -> None:
    last = len(messages)
    for number, (subject, payload) in enumerate(messages, 1):
        headers = {BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}
        if number < last:
            await nc.publish(subject, payload, headers=headers)
            continue
        reply = await nc.request(subject, payload, timeout=_COMMIT_S, headers={**headers, BATCH_COMMIT: "1"})
        answer = msgspec.json.decode(reply.data)
        invariant("error" not in answer, f"the broker takes a batch, but said {answer}")


async def _read(nc: Nats, count: int) -> None:
    reader = OrderedReader(nc, subjects.MEMORY, 0)
    got = 0
    async with asyncio.timeout(_READ_S):
        while got < count:
            got += len(await reader.fetch())
    await reader.close()


@asynccontextmanager
async def _broker(folder: Path) -> AsyncIterator[str]:
    port = processes.free_ports(1)[0]
    config = nats_server.ServerConfig(
        store=folder / "nats",
        port=port,
        file_store_bytes_max=nats_server.file_store_bytes(nats_server.NatsSettings(), Common().memory_bytes_max),
    )
    nats_server.write_config(folder / "nats.conf", config)
    command = nats_server.command(nats_server.find_binary(), folder / "nats.conf")
    process = processes.spawn(command, {}, folder / "nats-server.log")
    try:
        deadline = time.monotonic() + _START_S
        while not nats_server.answers(port):
            invariant(process.poll() is None and time.monotonic() < deadline, "the bare nats-server starts")
            await asyncio.sleep(_POLL_S)
        yield f"nats://{nats_server.LOOPBACK}:{port}"
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
