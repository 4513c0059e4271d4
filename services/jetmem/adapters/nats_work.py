"""A share of a work queue: pull, prefetch within bounds, acknowledge each message; made again when it is lost.

All replicas of a stage share one durable consumer. A memory stream is gone after a broker restart, so the consumer's
name carries the stream's creation time: a late acknowledgement of a lost message can never remove one of the new
stream that has the same sequence. Where others manage streams (`Common.streams`) the name is fixed, so that an
autoscaler can know it, and acknowledgements of what an older stream delivered are not sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from jetmem.adapters.nats_connect import ApiError, api
from jetmem.adapters.nats_streams import ensure
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects

_NS: Final = 1_000_000_000
#: One pull's bytes: any single message fits with its headers, or the pull would never be answered.
PULL_BYTES_MAX: Final = 2 * limits.BROKER_PAYLOAD_BYTES_MAX
#: Delivered and not acknowledged, over all replicas: far above what askers keep out, delayed ones included.
ACK_PENDING_MAX: Final = 10_000
#: Publishing into the queue is acknowledged in milliseconds; then the message is held to be not stored.
PUBLISH_TIMEOUT_S: Final = 5.0
_IDLE_S: Final = limits.READ_HEARTBEAT_S * 2.5


def configuration(name: str) -> dict[str, Any]:
    """The configuration that a shared consumer has."""
    return {
        "name": name,
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(limits.JOB_ACK_WAIT_S * _NS),
        "max_deliver": -1,
        "max_ack_pending": ACK_PENDING_MAX,
    }


class Work(NamedTuple):
    """One delivery. `deliveries` counts this one; `key` is the same when it is delivered again.

    `at` is when the broker stored it, epoch ms.
    """

    subject: str
    data: bytes
    deliveries: int
    pending: int
    key: str
    ack_to: str
    at: int


class WorkQueue:
    """Pulls a work-queue stream. Not thread-safe.

    `accept` gets each delivery, in order; `room` says how many more are wanted (0: none now) and is asked after each
    delivery and on `pull`.

    Attributes:
        live: The consumer exists and answers, as far as is known.
        pending: Messages that no replica has been given yet, as last heard.
        remade: How often stream and consumer were looked up again (the first time not counted).
    """

    def __init__(
        self, client: Callable[[], Client], stream: str, name: str, common: Common, *,
        accept: Callable[[Work], None], room: Callable[[], int],
    ) -> None:  # fmt: skip
        self.live = False
        self.pending = 0
        self.remade = -1
        self._client = client
        self._stream = stream
        self._name = name
        self._common = common
        self._accept = accept
        self._room = room
        self._paused = False
        self._open = 0
        self._heard = 0.0
        self._made_at = 0.0
        self._reconnects = 0
        self._consumer = ""
        self._era = ""
        self._inbox = ""
        self._sub: Subscription | None = None
        self._changed = asyncio.Event()
        self._pulls: set[asyncio.Task[None]] = set()

    @property
    def consumer(self) -> str:
        """Name of the durable consumer, "" before it was made."""
        return self._consumer

    async def run(self, on_tick: Callable[[Exception | None], None]) -> None:
        """Keep the consumer alive and pulls open for ever; tells `on_tick` each time it looked, with what is wrong."""
        wait_s = limits.RETRY_FIRST_S
        while True:
            error: Exception | None = None
            try:
                await self._look()
                wait_s = limits.RETRY_FIRST_S
            except (Retryable, nats.errors.Error, OSError) as caught:
                self.live, error = False, caught
                wait_s = min(wait_s * 2, limits.RETRY_LAST_S)
            on_tick(error)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                if error is None and (self.live or self._paused):
                    async with asyncio.timeout(limits.READ_HEARTBEAT_S):
                        await self._changed.wait()
                else:
                    await asyncio.sleep(wait_s)

    def pull(self) -> None:
        """Ask for more if there is room and no pull is open."""
        if not self.live or self._paused or self._open > 0:
            return
        wanted = self._room()
        if wanted > 0:
            self._open = wanted
            self._heard = time.monotonic()
            task = asyncio.get_running_loop().create_task(self._pull(wanted))
            self._pulls.add(task)
            task.add_done_callback(self._pulls.discard)

    async def pause(self) -> None:
        """Take nothing more; what was delivered until now has been accepted when this returns."""
        self._paused = True
        await self._forget(drain=True)

    def resume(self) -> None:
        """Pull again."""
        self._paused = False
        self._made_at = 0.0
        self._changed.set()

    async def ack(self, work: Work) -> None:
        """It is done."""
        await self._answer(work, b"+ACK")

    async def nak(self, work: Work, delay_s: float) -> None:
        """Deliver it again after a delay (a plain nak is redelivered at once, whatever the consumer's backoff)."""
        await self._answer(work, b"-NAK " + json.dumps({"delay": int(delay_s * _NS)}).encode())

    async def term(self, work: Work, reason: str) -> None:
        """Never deliver it again."""
        await self._answer(work, b"+TERM " + reason.encode())

    async def working(self, work: Work) -> None:
        """It is in work: the acknowledgement's deadline begins anew."""
        await self._answer(work, b"+WPI")

    async def publish(self, subject: str, data: bytes) -> None:
        """Put a message into the queue.

        Raises:
            Retryable: It is not known to be stored.
        """
        try:
            await self._client().jetstream().publish(subject, data, timeout=PUBLISH_TIMEOUT_S, stream=self._stream)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Retryable(f"{self._stream} did not take a message: {error}") from error

    async def waiting(self) -> dict[str, int]:
        """Messages not delivered, and delivered but not acknowledged, over all replicas; empty if nobody answers."""
        subject = subjects.raw_stream_api("CONSUMER.INFO", f"{self._stream}.{self._consumer}")
        try:
            info = await api(self._client(), subject, timeout_s=1.0)
        except (ApiError, Retryable):
            return {}
        return {"queue": int(info["num_pending"]), "ack_pending": int(info["num_ack_pending"])}

    async def _answer(self, work: Work, word: bytes) -> None:
        if not work.key.startswith(f"{self._era}."):
            return  # of a stream that is gone: its sequence may be another message's now
        # A lost answer means one more delivery, which the receiver can bear: nothing to do about it here.
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client().publish(work.ack_to, word)

    async def _look(self) -> None:
        client = self._client()
        if self._paused:
            return
        if self._open > 0 and time.monotonic() - self._heard > _IDLE_S:
            self.live = False  # not even a heartbeat: stream, consumer or connection is gone
        if not self.live or client.stats["reconnects"] != self._reconnects:
            if time.monotonic() - self._made_at < limits.RETRY_FIRST_S:
                await asyncio.sleep(limits.RETRY_FIRST_S)  # lost as soon as made: not in a hot loop
            await self._make(client)
        self.pull()

    async def _make(self, client: Client) -> None:
        await self._forget(drain=False)
        self._reconnects = client.stats["reconnects"]
        self.remade += 1
        info = await ensure(client, self._stream, self._common)
        era = re.sub("[^0-9]", "", info["created"])
        name = self._name
        if self._common.streams == "verify":
            await self._verify(client, name)
        else:
            name += f"-{era}"
            await self._create(client, name)
        self._consumer, self._era = name, era
        self._inbox = client.new_inbox()
        self._sub = await client.subscribe(self._inbox, cb=self._on_message)
        self._made_at = time.monotonic()
        self.live = True

    async def _create(self, client: Client, name: str) -> None:
        body = {"stream_name": self._stream, "config": configuration(name)}
        try:
            await api(client, subjects.raw_stream_api("CONSUMER.CREATE", f"{self._stream}.{name}"), body)
        except ApiError as error:
            raise Retryable(f"stream {self._stream} cannot be read: {error}") from error

    async def _verify(self, client: Client, name: str) -> None:
        """Check the consumer that others manage.

        Raises:
            Broken: It would give jobs up, or to too many at once.
            Retryable: It is not there yet.
        """
        try:
            info = await api(client, subjects.raw_stream_api("CONSUMER.INFO", f"{self._stream}.{name}"))
        except ApiError as error:
            raise Retryable(f"consumer {name} of {self._stream} is not there yet: {error}") from error
        found, needed = info["config"], configuration(name)
        for field in needed:
            if found.get(field) != needed[field]:
                raise Broken(
                    f"consumer {name} of {self._stream} has {field} {found.get(field)!r}, "
                    f"but {needed[field]!r} is needed; correct or remove it"
                )

    async def _forget(self, *, drain: bool) -> None:
        self.live = False
        self._open = 0
        sub, self._sub = self._sub, None
        if sub is None:
            return
        there = self._client().is_connected  # away, a drain would wait in vain for the broker's answer
        with contextlib.suppress(nats.errors.Error, OSError):
            await (sub.drain() if drain and there else sub.unsubscribe())  # type: ignore[no-untyped-call]  # nats-py's

    async def _pull(self, wanted: int) -> None:
        if self._paused:
            self._open = 0
            return
        body = {
            "batch": wanted,
            "max_bytes": PULL_BYTES_MAX,
            "expires": int(limits.READ_EXPIRES_S * _NS),
            "idle_heartbeat": int(limits.READ_HEARTBEAT_S * _NS),
        }
        subject = subjects.raw_stream_api("CONSUMER.MSG.NEXT", f"{self._stream}.{self._consumer}")
        try:
            await self._client().publish(subject, json.dumps(body).encode(), reply=self._inbox)
        except (nats.errors.Error, OSError, Broken):  # a closed or draining connection: the next look finds out
            self._lost()

    async def _on_message(self, msg: Msg) -> None:
        self._heard = time.monotonic()
        if msg.reply:
            self._deliver(msg)
        else:
            self._on_status(msg)
        self.pull()

    def _on_status(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status = headers.get("Status", "")
        text = headers.get("Description", "")
        # A batch that was delivered whole was counted already, and the next pull may be open.
        if status == "100" or "Batch Completed" in text:
            return
        self._open = 0
        if status in ("404", "408"):
            self.pending = 0  # the pull ended unfilled: nothing waits
        elif "MaxBytes" not in text:
            self._lost()

    def _deliver(self, msg: Msg) -> None:
        meta = msg.metadata
        self._open -= 1
        self.pending = meta.num_pending
        key = f"{self._era}.{meta.sequence.stream}"
        at = int(meta.timestamp.timestamp() * 1000)
        self._accept(Work(msg.subject, msg.data, meta.num_delivered, meta.num_pending, key, msg.reply, at))

    def _lost(self) -> None:
        self.live = False
        self._changed.set()
