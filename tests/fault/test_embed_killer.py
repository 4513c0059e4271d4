"""A text that kills every process that encodes it: it alone is given up, all else is stored once."""

import asyncio
import os
import sys

import msgspec
import nats
import pytest

from harness.broker import Broker
from harness.waiting import until_async
from jetmem.adapters.nats_streams import ensure
from jetmem.runtime import limits
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects
from jetmem_schemas.internal import EmbedJob, EmbedText, Stored, VectorsReady, encode

REPLY = subjects.service("index", 0, "vectors")
KILLER = "KILL me"
#: embed with an encoder that dies of one text; the broker waits 3 s instead of 30 for a process that is gone.
CHILD = """
import asyncio, os, signal
from jetmem.runtime import limits
limits.JOB_ACK_WAIT_S = 3.0
from jetmem.embed.app import build
from jetmem.embed.settings import EmbedSettings
from jetmem.runtime.settings import Common
from jetmem.testing.encoder import FakeEncoder
class Mortal(FakeEncoder):
    def encode(self, texts, *, interactive=False):
        if any("KILL" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, interactive=interactive)
asyncio.run(build(Common(server=os.environ["URL"]), EmbedSettings(), encoder=Mortal()).run())
"""


async def keep_running(url: str, deaths: list[int]) -> None:
    """Start it again whenever it died; SIGTERM when cancelled."""
    env = {**os.environ, "URL": url, "PYTHONPATH": os.pathsep.join(sys.path)}
    while True:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, env=env)
        try:
            deaths.append(await child.wait())
        except asyncio.CancelledError:
            child.terminate()
            await child.wait()
            raise


@pytest.mark.slow
def test_only_the_text_that_kills_is_given_up() -> None:
    async def main(broker: Broker) -> None:
        nc = await nats.connect(broker.url)
        await ensure(nc, subjects.EMBED, Common())
        stored: dict[bytes, list[str]] = {}

        async def on_vectors(msg: nats.aio.msg.Msg) -> None:
            ready = msgspec.msgpack.decode(msg.data, type=VectorsReady)
            for vector in ready.vectors:
                stored.setdefault(vector.key, []).append(vector.reason)
            await nc.publish(msg.reply, encode(Stored(len(ready.vectors))))

        await nc.subscribe(REPLY, cb=on_vectors)
        jobs = [[f"{number} text {at}" for at in range(10)] for number in range(12)]
        jobs.insert(6, ["before", KILLER, "after"])
        for texts in jobs:
            job = EmbedJob("acme", REPLY, [EmbedText(text.encode(), text) for text in texts])
            await nc.jetstream().publish(subjects.embed_job("index"), encode(job))
        deaths: list[int] = []
        running = asyncio.create_task(keep_running(broker.url, deaths))

        async def complete() -> bool:
            return len(stored) == sum(map(len, jobs))

        await until_async(complete, "every text has its vector or a reason", 120)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await nc.close()
        given_up = {key: reasons for key, reasons in stored.items() if any(reasons)}
        assert given_up == {KILLER.encode(): [f"gave up after {limits.JOB_GIVE_UP_AFTER} deliveries"]}
        assert all(len(reasons) == 1 for reasons in stored.values())
        assert len(deaths) == limits.JOB_GIVE_UP_AFTER - 1  # the third delivery only splits

    with Broker() as broker:
        asyncio.run(main(broker))
