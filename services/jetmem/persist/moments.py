"""When a stream's messages were stored: the broker's time in ms, and the place of a moment."""

from __future__ import annotations

from datetime import datetime

from nats.aio.client import Client

from jetmem.adapters.nats_streams import next_message


def go_epoch_ms(text: str) -> int:
    """Milliseconds of a Go timestamp, cut, not rounded; it has up to nine decimals."""
    head, _, fraction = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(head + "+00:00").timestamp())
    return seconds * 1000 + int((fraction + "000")[:3])


async def first_at(nc: Client, stream: str, at_ms: int, low: int, high: int) -> int:
    """The first sequence in [low, high] that the broker had at `at_ms` or later, by bisection; `high` if none.

    Raises:
        ApiError: The stream does not exist, among others.
        Retryable: The broker did not answer.
    """
    while low < high:
        middle = (low + high) // 2
        found = await next_message(nc, stream, middle)
        if found is None or go_epoch_ms(found.time) >= at_ms:
            high = middle
        else:
            low = max(found.seq, middle) + 1
    return low
