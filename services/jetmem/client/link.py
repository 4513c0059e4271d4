"""The connection: made once, kept for ever, answers matched to what they answer, violations turned into errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable, Coroutine, Iterable
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from jetmem.client.errors import ClientError, PermissionDenied, Refused, TimedOut, Unavailable, Unreachable
from jetmem.client.flushing import flushed
from jetmem.client.keys import identity
from jetmem.tasks import end
from jetmem_schemas.subjects import TRACE_HEADER

T = TypeVar("T")
log = logging.getLogger("jetmem.client")
#: More than two batches and their headers: the pending buffer never has to refuse what a pipeline sends.
PENDING_BYTES_MAX: Final = 32 * 1024 * 1024
#: How NATS is spoken.
SCHEMES: Final = ("nats", "tls", "ws", "wss")
RECONNECT_EVERY_S: Final = 0.25
#: A payload near the broker's `max_payload` plus headers would close the connection.
HEADER_BYTES_MAX: Final = 512
_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription) to "?([^\s"]+)', re.IGNORECASE)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the broker."""

    server: str
    name: str
    creds: str | None = None
    user: str | None = None
    password: str | None = None
    inbox_prefix: str = ""
    tls_ca: str | None = None
    inject: Callable[[dict[str, str]], object] | None = None
    connect_timeout_s: float | None = 10.0


class Lost(Exception):
    """The connection went before an answer came; what was sent may or may not have arrived."""


class Slot:
    """A place for one answer."""

    __slots__ = ("future", "reply", "subjects")

    def __init__(self, reply: str, subjects: Iterable[str]) -> None:
        self.reply = reply
        # nats-py lowers the case of every error text: violations can only be compared without it.
        self.subjects = frozenset([subject.lower() for subject in subjects])
        self.future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()


def _urls(server: str) -> list[str]:
    return [url.strip() for url in server.split(",")]


def check_server(server: str) -> None:
    """Refuse an address that no broker can have; nats-py would try it for ever.

    Raises:
        Refused: It is no URL of a scheme that NATS has, and no `host:port` either.
    """
    for url in _urls(server):
        scheme, found, host = url.rpartition("://")
        plain = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d+", url)
        if plain or (found and scheme.lower() in SCHEMES and host.strip("/")):
            continue
        schemes = ", ".join(f"{each}://" for each in SCHEMES)
        text = f"server must be the URL of a NATS server ({schemes}), not {url or 'empty'}"
        raise Refused("bad_server", text, "server")
    if any(url.lower().startswith(("ws:", "wss:")) for url in _urls(server)) and find_spec("aiohttp") is None:
        raise Refused("bad_server", "a server reached over a WebSocket needs aiohttp: pip install aiohttp", "server")


def _trusted(tls_ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=tls_ca)
    except (OSError, ValueError) as error:
        raise Refused("bad_tls_ca", f"{tls_ca} holds no certificates: {error}", "tls_ca") from error


class Link:
    """One NATS connection of the SDK."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._nc = Nats()
        self._slots: dict[str, Slot] = {}
        self._count = 0
        self._inbox = ""
        self._up = asyncio.Event()
        self._fatal: ClientError | None = None
        self._refused: asyncio.Future[None] | None = None
        self._watched: asyncio.Future[None] | None = None
        self._last_error = ""

    async def open(self) -> None:
        """Connect.

        Raises:
            Unavailable: No broker answered within `connect_timeout_s`.
            PermissionDenied: It refused the credentials or the inbox.
            Refused: The address or the credentials file is no good.
        """
        options = self._options
        check_server(options.server)
        arguments = self._arguments()  # nats-py would take a file that is missing for a broker that is away
        self._refused = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(self._nc.connect(**arguments))
        try:
            await asyncio.wait(
                {connecting, self._refused}, timeout=options.connect_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            await self._opened(connecting)
        except BaseException:
            await end(connecting)
            with contextlib.suppress(Exception):
                await self._nc.close()
            raise
        finally:
            self._refused.cancel()

    async def close(self) -> None:
        """Close; whoever still waits gets `Unavailable`."""
        self._fail_all(Unavailable("the client was closed"))
        if not self._nc.is_closed:
            await self._nc.close()

    @property
    def nc(self) -> Nats:
        """The connection below, for what this SDK does not cover."""
        return self._nc

    async def ready(self, timeout_s: float | None) -> None:
        """Wait until connected.

        Raises:
            Unavailable: Not within `timeout_s`, or closed for good.
            PermissionDenied: The broker refused us meanwhile.
        """
        if self._fatal is not None:
            raise self._fatal
        if self._up.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            detail = f": {self._last_error}" if self._last_error else ""
            raise Unavailable(f"not connected to {self._options.server}{detail}") from None
        if self._fatal is not None:
            raise self._fatal

    def slot(self, subjects: Iterable[str]) -> Slot:
        """Make a place for an answer to something that is sent to `subjects`; end it with `wait`."""
        self._count += 1
        key = str(self._count)
        slot = Slot(f"{self._inbox}.{key}", subjects)
        self._slots[key] = slot
        return slot

    async def wait(self, slot: Slot, timeout_s: float) -> Msg:
        """The answer.

        Raises:
            TimedOut: None came in time.
            Lost: The connection went.
            ClientError: The broker refuses us there, or the client was closed.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await slot.future
        except TimeoutError:
            raise TimedOut(f"no answer within {timeout_s:g} s") from None
        finally:
            self.drop(slot)

    def drop(self, slot: Slot) -> None:
        """Forget a place; a late answer is ignored."""
        self._slots.pop(slot.reply.rpartition(".")[2], None)
        if not slot.future.done():
            slot.future.cancel()
        elif not slot.future.cancelled():
            slot.future.exception()

    async def send(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send one message.

        Raises:
            Lost: Not connected, or the buffer is full.
            Refused: It does not fit the broker's `max_payload`.
        """
        if len(payload) + HEADER_BYTES_MAX > self._nc.max_payload:
            raise Refused("too_large", f"{len(payload)} bytes; the broker takes {self._nc.max_payload} with headers")
        try:
            await self._nc.publish(subject, payload, reply=reply, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise Lost(str(error) or type(error).__name__) from error

    async def ask(self, subject: str, payload: bytes, timeout_s: float) -> Msg:
        """One request; same errors as `wait` and `send`."""
        slot = self.slot((subject,))
        try:
            await self.send(subject, payload, slot.reply, self._trace())
        except BaseException:
            self.drop(slot)
            raise
        return await self.wait(slot, timeout_s)

    def _trace(self) -> dict[str, str] | None:
        """The trace of who asks or publishes; of what it injects the rest may not fit."""
        carrier: dict[str, str] = {}
        if self._options.inject is not None:
            self._options.inject(carrier)
        return {TRACE_HEADER: carrier[TRACE_HEADER]} if TRACE_HEADER in carrier else None

    async def _opened(self, connecting: asyncio.Future[None]) -> None:
        if self._fatal is not None:
            raise self._fatal
        if not connecting.done():
            detail = f": {self._last_error}" if self._last_error else ""
            raise Unreachable(f"cannot reach {self._options.server}{detail}")
        try:
            connecting.result()
            self._inbox = self._nc.new_inbox()
            await self._nc.subscribe(self._inbox + ".*", cb=self._on_answer)
            await flushed(self._nc)
        except (nats.errors.Error, OSError) as error:
            raise Unreachable(f"cannot reach {self._options.server}: {error}") from error
        except ValueError as error:
            raise Refused("bad_server", f"{self._options.server}: {error}", "server") from error
        if self._fatal is not None:
            raise self._fatal
        self._up.set()

    def _arguments(self) -> dict[str, Any]:
        options = self._options
        arguments: dict[str, Any] = {
            "servers": _urls(options.server),
            "name": options.name,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_EVERY_S,
            "connect_timeout": 2,
            "ping_interval": 10,
            "pending_size": PENDING_BYTES_MAX,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }
        if options.creds:
            arguments |= identity(options.creds).options()
        if options.tls_ca:
            arguments["tls"] = _trusted(options.tls_ca)
        given = {"user": options.user, "password": options.password, "inbox_prefix": options.inbox_prefix}
        return arguments | {key: value for key, value in given.items() if value}

    async def _on_answer(self, msg: Msg) -> None:
        slot = self._slots.get(msg.subject.rpartition(".")[2])
        if slot is not None and not slot.future.done():
            slot.future.set_result(msg)

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        log.debug("nats: %s", self._last_error)
        if self._nc._transport is not None and not self._nc.is_connected:
            # nats-py leaves the socket of each attempt open that the broker refused
            self._nc._transport.close()  # type: ignore[no-untyped-call]  # nats-py's
        if not self._inbox and "authorization violation" in self._last_error.lower():
            # Later, on a reconnect, it may be a rotation of credentials: then it is tried for ever.
            self._end(PermissionDenied("the broker refuses these credentials", ""))
            return
        found = _VIOLATION.search(self._last_error)
        if found is None:
            return
        self._denied(found[1].lower(), found[2])

    def _denied(self, what: str, subject: str) -> None:
        """The broker refused one subject: who waits for an answer to it hears so, else who watches all."""
        if what == "subscription" and (not self._inbox or subject.startswith(self._inbox.lower())):
            text = f"this user may not listen on {subject}; give inbox_prefix the prefix it may use"
            self._end(PermissionDenied(text, subject))
            return
        verb = "listen on" if what == "subscription" else "publish to"
        denied = PermissionDenied(f"this user may not {verb} {subject}", subject)
        waiting = [slot for slot in self._slots.values() if subject in slot.subjects and not slot.future.done()]
        for slot in waiting:
            slot.future.set_exception(denied)
        if not waiting:
            log.warning("%s", denied.message)
            if self._watched is not None and not self._watched.done():
                self._watched.set_exception(denied)

    async def undenied(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the connection itself; a refusal, which nats-py tells nobody who asks, ends it.

        Raises:
            PermissionDenied: The broker refused a subject meanwhile that no question or event of ours was sent to.
        """
        self._watched = asyncio.get_running_loop().create_future()
        working = asyncio.ensure_future(work)
        both: set[asyncio.Future[Any]] = {working, self._watched}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await self._watched
            return working.result()
        finally:
            await end(working)
            self._watched.cancel()
            if not self._watched.cancelled():
                self._watched.exception()
            self._watched = None

    async def _on_disconnected(self) -> None:
        self._up.clear()
        self._fail_all(Lost("the connection to the broker was lost"))

    async def _on_reconnected(self) -> None:
        self._up.set()

    async def _on_closed(self) -> None:
        self._end(Unavailable("the connection was closed"))

    def _end(self, error: ClientError) -> None:
        if self._fatal is None:
            self._fatal = error
        if self._refused is not None and not self._refused.done():
            self._refused.set_result(None)
        self._up.set()
        self._fail_all(self._fatal)

    def _fail_all(self, error: Exception) -> None:
        for slot in list(self._slots.values()):
            if not slot.future.done():
                slot.future.set_exception(error)
