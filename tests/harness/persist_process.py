"""persist as a real process, and what one asks it."""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors

from harness.broker import Broker
from harness.waiting import DEADLINE_S, until, until_async
from jetmem_schemas import subjects
from jetmem_schemas.internal import (
    ActivityReply,
    CoverReply,
    Entry,
    FetchReply,
    ScanReply,
    StageStatus,
    TimelineReply,
    decode_entry,
)

#: An answer that a busy machine takes its time for. Who is away is known at once, whose answer died with it is not.
ANSWER_S = 20.0
REPLIES = {
    "scan": ScanReply,
    "cover": CoverReply,
    "fetch": FetchReply,
    "timeline": TimelineReply,
    "sessions": ActivityReply,
    "agents": ActivityReply,
    "status": StageStatus,
}


class PersistProcess:
    """`python -m jetmem run persist` on a data folder, or another stage."""

    def __init__(self, broker: Broker, data: Path, *, url: str = "", stage: str = "persist", **settings: Any) -> None:
        self.data = data
        self.settings = settings
        self.url = url or broker.url
        self.process: subprocess.Popen[bytes] | None = None
        self.stage = stage
        self.log = data / f"{stage}.log"

    def start(self, **settings: Any) -> "PersistProcess":
        self.data.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "JETMEM_SERVER": self.url, "JETMEM_DATA": str(self.data), "PYTHONUNBUFFERED": "1"}
        environ |= {f"JETMEM_{k.upper()}": str(v) for k, v in (self.settings | settings).items()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jetmem", "run", self.stage], env=environ, stdout=log, stderr=log
            )
        return self

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.ended()

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.ended()

    def ended(self) -> int:
        assert self.process
        return self.process.wait(DEADLINE_S)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> "PersistProcess":
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.kill()

    def said(self) -> str:
        return self.log.read_text()

    def wait_said(self, text: str) -> None:
        until(lambda: text in self.said(), f"persist says {text!r}; it said {self.said()[-2000:]}")


class Client:
    """Publishes and asks like a plain NATS client."""

    def __init__(self, nc: Any) -> None:
        self.nc = nc
        self.js = nc.jetstream()

    async def ask(self, verb: str, of: str = "", /, **request: Any) -> Any:
        tenant = of or request.get("tenant", "acme")
        subject = subjects.service("persist", subjects.partition_of(tenant), verb)
        reply = await self.nc.request(subject, msgspec.msgpack.encode(request), timeout=ANSWER_S)
        if reply.headers and "Nats-Service-Error-Code" in reply.headers:
            raise AssertionError(reply.data.decode())
        return msgspec.msgpack.decode(reply.data, type=REPLIES.get(verb, Any))

    async def recorded(self, seq: int) -> None:
        """Wait until persist is at `seq`."""

        async def reached() -> bool:
            try:
                return (await self.ask("cover", after=seq, wait_ms=1000)).covered
            except nats.errors.Error:
                return False

        await until_async(reached, f"persist has recorded {seq}")

    async def publish(self, body: Any, subject: str = "mem.acme.event.alice.s1", **headers: str) -> int:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return (await self.js.publish(subject, data, timeout=ANSWER_S, headers=headers or None)).seq

    async def entries(self, tenant: str = "acme") -> list[Entry]:
        """What the log has of a tenant; its partition's numbers are checked for gaps."""
        found: list[Entry] = []
        while True:
            last = found[-1] if found else None
            request = {"after": last.rseq, "after_seq": last.seq} if last else {"after": 0, "after_seq": 0}
            reply = await self.ask("scan", tenant, **request)
            assert not reply.mismatch
            if not reply.entries:
                assert [e.rseq for e in found] == list(range(1, reply.head.rseq + 1))
                return [e for e in found if e.tenant == tenant]
            found += map(decode_entry, reply.entries)

    async def forget(self, tenant: str = "acme", **body: Any) -> int:
        seq = await self.publish(body, f"mem.{tenant}.forget._._")
        await self.recorded(seq)
        return seq

    async def purged(self, seq: int, tenant: str = "acme") -> None:
        async def done() -> bool:
            return bool((await self.ask("forgotten", tenant, tenant=tenant, seq=seq))["purged"])

        await until_async(done, f"forget {seq} is purged")

    async def dead(self) -> list[Any]:
        """Every dead letter, as stored."""
        state = (await self.js.stream_info(subjects.DEAD)).state
        found = []
        for seq in range(max(1, state.first_seq), state.last_seq + 1):
            try:
                found.append(await self.js.get_msg(subjects.DEAD, seq))
            except nats.js.errors.NotFoundError:
                continue
        return found

    async def dead_count(self, count: int) -> list[Any]:
        async def there() -> Any:
            found = await self.dead()
            return found if len(found) >= count else None

        found = await until_async(there, f"{count} dead letters")
        assert len(found) == count
        return found


@asynccontextmanager
async def client(broker: Broker):
    nc = await nats.connect(broker.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet)
    made = Client(nc)

    async def up() -> bool:
        try:
            return bool(await made.ask("status"))
        except nats.errors.Error:
            return False

    try:
        await until_async(up, "persist answers")
        yield made
    finally:
        await nc.close()


async def _quiet(_: Exception) -> None:
    """Cuts are meant."""


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)
