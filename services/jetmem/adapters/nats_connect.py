"""Connections to the broker: how long to try, what to do when it refuses, and the JetStream API as plain requests."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client

from jetmem.client.errors import Refused
from jetmem.client.keys import identity
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, Retryable
from jetmem.runtime.settings import Common
from jetmem_schemas import subjects

#: JetStream API level of server 2.12.1, the first with atomic batches we trust.
API_LEVEL_MIN = 3
NOT_FOUND = 404


class ApiError(Exception):
    """JetStream refused: `code` is HTTP-like, `err_code` the server's own number."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


def connect_options(
    common: Common,
    name: str,
    on_error: Callable[[Exception], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]] | None = None,
) -> dict[str, Any]:
    """Keyword arguments for `nats.connect`: try for ever, reconnect fast, buffer nothing that we count on.

    `on_closed` is told when the connection is closed: what the broker refuses with an error is not tried again.

    Raises:
        Broken: The file of a key, a password or certificates is no good.
    """
    options: dict[str, Any] = {
        "servers": servers(common),
        "name": name,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.5,
        "connect_timeout": 2,
        "ping_interval": 10,
        "error_cb": on_error,
        "closed_cb": on_closed,
        "pending_size": 16 * 1024 * 1024,
    }
    try:
        if common.creds:
            options |= identity(common.creds).options()
        if common.user:
            options["user"] = common.user
            options["password"] = Path(common.password_file).read_text(encoding="utf-8").strip()
        if common.tls_ca:
            options["tls"] = trusted(common)
    except (Refused, OSError, ValueError) as error:
        raise Broken(f"the broker cannot be talked to as set: {error}") from error
    return options


def servers(common: Common) -> list[str]:
    """URLs of the brokers."""
    return [url.strip() for url in common.server.split(",")]


def trusted(common: Common) -> ssl.SSLContext:
    """Whose signature a broker's certificate must have: the authorities of `tls_ca`, or those of this machine.

    Raises:
        OSError: The file cannot be read, or holds no certificates.
    """
    return ssl.create_default_context(cafile=common.tls_ca or None)


async def api(nc: Client, subject: str, body: dict[str, Any] | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
    """One JetStream API call.

    Raises:
        ApiError: The server refused.
        Retryable: The server did not answer.
    """
    try:
        reply = await nc.request(subject, json.dumps(body).encode() if body is not None else b"", timeout=timeout_s)
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Retryable(f"no answer from JetStream on {subject}: {error}") from error
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        fault = answer["error"]
        raise ApiError(fault.get("code", 500), fault.get("err_code", 0), fault.get("description", ""))
    return answer


def server_id(nc: Client) -> str:
    """Which process of the broker this connection is to: another one after each of its starts.

    Raises:
        Retryable: It is to none yet.
    """
    name = nc._server_info.get("server_id", "")  # nats-py has no public name for it
    if not name:
        raise Retryable("the broker has not said who it is")
    return str(name)


#: What a tap gets: subject, reply, payload and header bytes as they came; must not block or raise.
Tap = Callable[[bytes, bytes, bytes, bytes], None]
_TAPS = "_jetmem_taps"


def taps(nc: Client) -> dict[int, Tap]:
    """Subscriptions of a connection (by id) whose messages are taken off the wire as they are.

    nats-py parses every header and passes every message through a queue and a task, which costs more than all
    persist does with it; and headers that it cannot parse end its read loop, so that one message of anyone would
    keep every reader from the stream for ever. Both ends here; `tests/contract/test_nats_py.py` watches the
    private method that this replaces.
    """
    held: dict[int, Tap] | None = getattr(nc, _TAPS, None)
    if held is not None:
        return held
    table: dict[int, Tap] = {}
    theirs = nc._process_msg

    async def process(sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        tap = table.get(sid)
        try:
            if tap is not None:
                return tap(subject, reply, data, headers)
            await theirs(sid, subject, reply, data, headers)
        except Exception as error:  # the sender's headers or subject; it cannot be read, the connection must live
            await nc._error_cb(error)
            if reply and tap is None:
                await again(sid, subject, reply, data)
        return None

    async def again(sid: int, subject: bytes, reply: bytes, data: bytes) -> None:
        """Whoever asked in such a way still gets an answer: what can be read of it is passed on."""
        try:
            await theirs(sid, subject.decode("utf-8", "backslashreplace").encode(), reply, data, b"")
        except Exception as error:  # not even the place for the answer can be read
            await nc._error_cb(error)

    setattr(nc, _TAPS, table)
    nc._process_msg = process  # type: ignore[method-assign]  # nothing public comes before parsing
    return table


def parse_headers(raw: bytes) -> dict[str, str]:
    """Headers off the wire, whatever they hold: lines that are none are left out, the last of a name stays."""
    found: dict[str, str] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name.strip():
            found[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return found


async def check_server(nc: Client) -> None:
    """Refuse a broker that cannot carry what we send.

    Raises:
        Broken: JetStream is off or older than 2.12.1, or messages may not be large enough.
        Retryable: No answer yet.
    """
    try:
        info = await api(nc, subjects.API_INFO)
    except ApiError as error:
        raise Broken(f"the broker has JetStream disabled: {error}") from error
    level = int(info.get("api", {}).get("level", 0))
    if level < API_LEVEL_MIN:
        raise Broken(f"the broker has JetStream API level {level}; nats-server 2.12.1 or newer is needed, 2.15 is best")
    wanted = limits.BROKER_PAYLOAD_BYTES_MAX
    if nc.max_payload < wanted:  # who sends more is cut off for good: a dead letter would make a stage deaf
        raise Broken(
            f"the broker has a max_payload of {nc.max_payload} bytes; {wanted} are needed, for a full payload and what "
            f"is added to it (max_payload: {wanted} in its configuration)"
        )
