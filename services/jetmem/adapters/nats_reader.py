"""The ordered reader: a stream in order from a position of ours, every gap noticed, nothing acknowledged.

An ephemeral pull consumer is made at `position + 1`; its deliveries must be numbered without a gap. On a gap,
a reconnect, silence or an error it is thrown away and made anew there (a durable would redeliver lost messages
behind later ones). 51 k messages/s with fetches of 1,000.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from jetmem.adapters.nats_connect import ApiError, api, parse_headers, taps
from jetmem.runtime import limits
from jetmem.runtime.errors import Retryable
from jetmem_schemas import subjects

_NS = 1_000_000_000
#: Statuses that end a pull but not the consumer.
_PULL_ENDS = ("404", "408")


class Delivered(NamedTuple):
    """One message of a stream; `at` is the broker's time in epoch ms, `pending` how many wait behind it."""

    subject: str
    data: bytes
    header_bytes: bytes
    seq: int
    at: int
    pending: int

    @property
    def headers(self) -> dict[str, str]:
        """Parsed when asked for, which for most messages is never."""
        return parse_headers(self.header_bytes)


class OrderedReader:
    """Reads one stream in order. Not thread-safe; one `fetch` at a time.

    `verify` runs before each consumer is made: it raises if the stream is not the one `position` belongs to, and
    may return the position to read on after.
    `from_now` begins at the next message each time a consumer is made: what is missed is the caller's to notice.

    Attributes:
        position: Sequence of the last message handed out.
        remade: How often the consumer was made anew (the first time not counted).
        alive: Whether the consumer was heard of in the last `fetch`.
    """

    def __init__(
        self,
        nc: Client,
        stream: str,
        position: int,
        *,
        subject: str = "",
        from_now: bool = False,
        verify: Callable[[], Awaitable[int | None]] | None = None,
    ) -> None:
        self.position = position
        self.remade = -1
        self.alive = False
        self._nc = nc
        self._stream = stream
        self._subject = subject
        self._from_now = from_now
        self._verify = verify
        self._buffer: deque[Delivered] = deque()
        self._arrived = asyncio.Event()
        self._sub: Subscription | None = None
        self._inbox = ""
        self._consumer = ""
        self._expected = 1
        self._open = 0
        self._valid = False
        self._reconnects = 0

    async def fetch(self, *, wait: bool = True) -> list[Delivered]:
        """The next messages in order: what is here, or after a heartbeat's wait an empty list.

        Without `wait` it returns at once.

        Raises:
            Retryable: The stream or the broker is not there; call again.
        """
        if not self._valid or self._nc.stats["reconnects"] != self._reconnects:
            await self._make()
        self._pull_more()
        if not self._buffer and wait:
            self._arrived.clear()
            try:
                async with asyncio.timeout(limits.READ_HEARTBEAT_S * 2.5):
                    await self._arrived.wait()
            except TimeoutError:
                self._valid = False  # not even a heartbeat: connection or consumer is gone
        self.alive = self._valid
        taken: list[Delivered] = []
        while self._buffer and len(taken) < limits.READ_BATCH:
            taken.append(self._buffer.popleft())
        if taken:
            self.position = taken[-1].seq
        self._pull_more()
        return taken

    def rewind(self, position: int) -> None:
        """Read again from behind `position`: what was handed out since was not used."""
        self.position = position
        self._valid = False

    async def close(self) -> None:
        """Forget the consumer."""
        self._valid = False
        sub, self._sub = self._sub, None
        if sub is None:
            return
        taps(self._nc).pop(sub._id, None)
        try:
            await sub.unsubscribe()
        except (nats.errors.Error, OSError):  # the connection is closed or closing, and the subscription with it
            return

    async def _make(self) -> None:
        await self.close()
        self._buffer.clear()
        self._open = 0
        self._expected = 1
        self._reconnects = self._nc.stats["reconnects"]
        self.remade += 1
        if self._verify is not None:
            start = await self._verify()
            self.position = self.position if start is None else start
        config: dict[str, Any] = {
            "deliver_policy": "new" if self._from_now else "by_start_sequence",
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(limits.READER_INACTIVE_S * _NS),
        }
        if config["deliver_policy"] == "by_start_sequence":
            config["opt_start_seq"] = self.position + 1
        if self._subject:
            config["filter_subject"] = self._subject
        self._inbox = self._nc.new_inbox()
        try:
            self._sub = await self._nc.subscribe(self._inbox, cb=_tapped)
        except (nats.errors.Error, OSError) as error:  # closed, draining, or its buffer is full
            raise Retryable(f"stream {self._stream} cannot be listened to: {error}") from error
        taps(self._nc)[self._sub._id] = self._on_message
        body = {"stream_name": self._stream, "config": config}
        try:
            made = await api(self._nc, subjects.raw_stream_api("CONSUMER.CREATE", self._stream), body)
        except ApiError as error:
            raise Retryable(f"stream {self._stream} cannot be read: {error}") from error
        self._consumer = made["name"]
        self._valid = True

    def _pull_more(self) -> None:
        if self._valid and self._open <= 0 and len(self._buffer) < limits.READ_BATCH:
            self._open = limits.READ_BATCH
            asyncio.get_running_loop().create_task(self._pull())

    async def _pull(self) -> None:
        body = {
            "batch": limits.READ_BATCH,
            "max_bytes": limits.READ_BATCH_BYTES,
            "expires": int(limits.READ_EXPIRES_S * _NS),
            "idle_heartbeat": int(limits.READ_HEARTBEAT_S * _NS),
        }
        subject = subjects.raw_stream_api("CONSUMER.MSG.NEXT", f"{self._stream}.{self._consumer}")
        try:
            await self._nc.publish(subject, json.dumps(body).encode(), reply=self._inbox)
        except Exception:  # a closed or draining connection: the next fetch finds out
            self._valid = False

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if not reply:
            self._on_status(headers)
        elif self._valid:
            self._accept(subject, reply, data, headers)
        self._arrived.set()

    def _on_status(self, headers: bytes) -> None:
        """A line of the server's: `NATS/1.0 408 Request Timeout`."""
        _, _, line = headers.partition(b"\r\n")[0].decode("ascii", "replace").partition(" ")
        status, _, text = line.strip().partition(" ")
        if status == "100":
            return
        if status in _PULL_ENDS or "MaxBytes" in text or "Batch Completed" in text:
            self._open = 0
            return
        self._valid = False

    def _accept(self, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        parts = reply.decode().split(".")
        first = 2 if len(parts) == 9 else 4
        if parts[first + 1] != self._consumer:
            return
        if int(parts[first + 4]) != self._expected:
            self._valid = False
            return
        self._expected += 1
        self._open -= 1
        self._buffer.append(
            Delivered(
                subject.decode("utf-8", "backslashreplace"),  # the broker takes any bytes; persist refuses them
                bytes(data),
                bytes(headers or b""),
                int(parts[first + 3]),
                int(parts[first + 5]) // 1_000_000,
                int(parts[first + 6]),
            )
        )


async def _tapped(msg: Any) -> None:
    """Never called: the messages of this subscription are taken by its tap."""
