"""Waiting until the broker has all that a connection was given."""

from __future__ import annotations

from nats.aio.client import Client


async def flushed(nc: Client) -> None:
    """Return when the broker has read everything sent so far: it knows every subscription, it has every message.

    Twice: nats-py writes the PING past what is pending, so the first answer may come before a subscription was
    even sent, and who asks it over another connection is told that nobody listens.

    Raises:
        nats.errors.Error: The connection is closed, or there is no answer in ten seconds.
        OSError: The connection was lost.
    """
    for _ in range(2):
        await nc.flush()
