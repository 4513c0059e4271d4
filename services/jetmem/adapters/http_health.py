"""Asking a process of ours on this machine how it is."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

#: Some hundred kilobytes of metrics, and much room.
_REPLY_BYTES_MAX: Final = 8 * 1024 * 1024


async def healthz(port: int, timeout_s: float = 1.0, host: str = "127.0.0.1") -> tuple[bool, str]:
    """Whether `/healthz` says 200, and what it says; never raises for a process that is away."""
    try:
        async with asyncio.timeout(timeout_s):
            head, body = await _get(host, port, "/healthz")
    except TimeoutError:
        return False, "does not answer /healthz"
    except OSError:
        return False, "starting"
    good = head.split(b" ", 2)[1:2] == [b"200"]
    try:
        said = json.loads(body)
        return good, str(said.get("detail") or said.get("error") or said.get("status") or "")
    except (ValueError, AttributeError):
        return good, "" if good else "unhealthy"


async def told(port: int, timeout_s: float = 2.0, host: str = "127.0.0.1") -> tuple[dict[str, Any], str]:
    """What `/healthz` and `/metrics` say; ({}, "") of a process that does not answer both, which never raises."""
    try:
        async with asyncio.timeout(timeout_s):
            _, health = await _get(host, port, "/healthz")
            head, metrics = await _get(host, port, "/metrics")
            said = json.loads(health)
            return (said, metrics.decode()) if b" 200 " in head.splitlines()[0] else ({}, "")
    except (OSError, ValueError, IndexError):  # TimeoutError is one of the first
        return {}, ""


async def _get(host: str, port: int, path: str) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        reply = b""
        while chunk := await reader.read(_REPLY_BYTES_MAX - len(reply)):
            reply += chunk
    finally:
        writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body
