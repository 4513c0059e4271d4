"""Publishing durably until persist has recorded everything, and until everything is found by words."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from jetmem.client import Client, Progress
from jetmem.evaluation.bench_data import TENANT, Data
from jetmem.evaluation.show import Told, progress
from jetmem.loading import wait_fresh
from jetmem.runtime.errors import invariant

_PUBLISH_S: Final = 120.0
_WAIT_MS: Final = 30_000


class Loaded(msgspec.Struct, frozen=True):
    """Events a second, each from the first publish; `seq` of the last event."""

    events: int
    acknowledged: float
    persisted: float
    by_words: float
    seq: int


async def measure(memory: Client, data: Data, told: Told) -> Loaded:
    """Publish everything in batches of the SDK."""
    outgoing = data.outgoing()
    with progress(told, f"publishing {len(outgoing)} events", len(outgoing)) as step:
        done = 0

        def stored(at: Progress) -> None:
            nonlocal done
            for _ in range(at.count - done):
                step()
            done = at.count

        began = time.perf_counter()
        receipts = await memory.publish_many(outgoing, progress=stored, timeout_s=_PUBLISH_S)
        acknowledged = time.perf_counter() - began
    await recorded(memory, receipts.last_seq)
    persisted = time.perf_counter() - began
    told.say("waiting until all is found by words")
    await wait_fresh(memory, TENANT, receipts.last_seq, "text", told.waiting)
    words = time.perf_counter() - began
    count = receipts.count
    return Loaded(count, count / acknowledged, count / persisted, count / words, receipts.last_seq)


async def recorded(memory: Client, seq: int) -> None:
    """Wait until persist's checkpoint covers a sequence."""
    reply = await memory.timeline(limit=1, after=seq, wait_ms=_WAIT_MS)
    invariant(not reply.stale and reply.fresh["record"] >= seq, "persist reached what was published")
