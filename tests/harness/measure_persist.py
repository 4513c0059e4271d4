"""Throughput of persist alone: MEMORY is filled first, then persist starts and catches up.

`python tests/harness/measure_persist.py EVENTS.jsonl.gz [COUNT] [--profile]`
"""

import asyncio
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import nats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness.broker import Broker
from harness.waiting import until_async

BATCH = 1000


async def fill(nc, path, count):
    """Publish in atomic batches; the stream is persist's own."""
    from jetmem.adapters.nats_streams import ensure
    from jetmem.runtime.settings import Common
    from jetmem_schemas import subjects

    await ensure(nc, subjects.MEMORY, Common())
    with gzip.open(path, "rt") as lines:
        sent = 0
        while sent < count:
            for number in range(BATCH):
                line = json.loads(next(lines))
                subject = subjects.memory(line["tenant"], "event", line["agent"], line["session"])
                headers = {"Nats-Batch-Id": f"b{sent}", "Nats-Batch-Sequence": str(number + 1)}
                body = json.dumps(line["event"]).encode()
                if number == BATCH - 1:
                    reply = await nc.request(subject, body, headers=headers | {"Nats-Batch-Commit": "1"}, timeout=30)
                    if "error" in json.loads(reply.data):
                        raise SystemExit(reply.data.decode())
                else:
                    await nc.publish(subject, body, headers=headers)
            sent += BATCH
    return sent


def size_of(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


async def main(broker, path, count, profile):
    nc = await nats.connect(broker.url)
    sent = await fill(nc, path, count)
    data = Path(tempfile.mkdtemp(prefix="jetmem-measure-"))
    command = [sys.executable, "-m", "jetmem", "run", "persist"]
    if profile:
        command = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "jetmem", "run", "persist"]
    environ = {**os.environ, "JETMEM_SERVER": broker.url, "JETMEM_DATA": str(data)}
    with subprocess.Popen(command, env=environ) as process:  # noqa: ASYNC220 - it is to run beside this
        began = 0.0

        async def checkpoint():
            nonlocal began
            try:
                reply = await nc.request("memsvc.persist.all.status", msgspec.msgpack.encode({}), timeout=1)
            except nats.errors.Error:
                return None
            now = time.perf_counter()
            at = msgspec.msgpack.decode(reply.data)["counts"]["record_seq"]
            began = began or now
            started.setdefault("at", (now, at))
            return at >= sent and (now, at)

        started = {}
        now, at = await until_async(checkpoint, "persist is at the end", 300)
        first_now, first_at = started["at"]
        print(f"{(at - first_at) / (now - first_now):,.0f} events/s over {at - first_at:,} in {now - first_now:.2f} s")
        process.terminate()
        process.wait(30)
    print(f"store {size_of(data) / 1e6:.0f} MB; load {os.getloadavg()}")
    await nc.close()


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if not a.startswith("--")]
    profile = next((a.partition("=")[2] or "/tmp/persist.prof" for a in sys.argv if a.startswith("--profile")), "")
    with Broker() as broker:
        asyncio.run(main(broker, arguments[0], int(arguments[1]) if len(arguments) > 1 else 100_000, profile))
