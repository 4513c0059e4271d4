"""A stage that does nothing but be healthy and, as `query`, answer `status`: `python stand_in.py <stage>`.

While `$JETMEM_DATA/sick-<stage>` exists it says that it is unhealthy. `STAND_IN_FAILS=<stage>` makes that stage end at
once; `STAND_IN_STUBBORN=<stage>` makes it ignore SIGTERM.
On a clean stop it adds its name to `$JETMEM_DATA/order`.
"""

import os
import sys

if os.environ.get("STAND_IN_FAILS") == sys.argv[1]:  # before imports take their time: it fails several times
    sys.exit(f"{sys.argv[1]}: the disk is on fire")

import asyncio
import json
import signal
from pathlib import Path

import nats

from jetmem.client.flushing import flushed

OK = b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"healthy": true, "detail": "ok"}\n'
SICK = OK.replace(b"200 OK", b"503 Service Unavailable").replace(b"ok", b"7 messages wait")


async def healthz(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    sick = (Path(os.environ["JETMEM_DATA"]) / f"sick-{sys.argv[1]}").exists()
    writer.write(SICK if sick else OK)
    await writer.drain()
    writer.close()


async def main(stage):
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    connection = await nats.connect(os.environ["JETMEM_SERVER"], max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    if stage == "query":

        async def answer(message):
            await connection.publish(message.reply, json.dumps({"stages": []}).encode())

        await connection.subscribe("mem.*.query.status", cb=answer)
        await flushed(connection)
    server = await asyncio.start_server(healthz, os.environ["JETMEM_HTTP_HOST"], int(os.environ["JETMEM_HTTP_PORT"]))
    async with server:
        await stopping.wait()
        if os.environ.get("STAND_IN_STUBBORN") == stage:
            await asyncio.Event().wait()
    with (Path(os.environ["JETMEM_DATA"]) / "order").open("a") as order:
        order.write(stage + "\n")
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
