"""Publishes what is in the outbox, and gives up what the record did not take."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import Final

from jetmem.adapters.nats_shell import Shell
from jetmem.domain import keys
from jetmem.runtime import limits, metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Retryable
from jetmem.runtime.store import Work
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.ports import Publish
from jetmem_schemas.toc import derived_subject

#: Messages published before their acknowledgements are awaited.
_AT_ONCE: Final = 32
#: With nothing to publish it looks again after so long.
_LOOK_S: Final = 0.05


class Publisher:
    """A node's row in the outbox stays until it has come back; after a start all of them are published again."""

    def __init__(self, shell: Shell, summarizer: Summarizer, in_writer: Work, publish: Publish) -> None:
        self._shell = shell
        self._summarizer = summarizer
        self._in_writer = in_writer
        self._publish = publish

    async def run(self) -> None:
        """Publish for ever; what is refused or unanswered is tried again."""
        wait_s = limits.RETRY_FIRST_S
        while True:
            done = await self.some()
            if done is False:
                metrics.retried.labels("summarize").inc()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, limits.RETRY_LAST_S)
                continue
            wait_s = limits.RETRY_FIRST_S
            if done is None:
                await self._give_up()
                await asyncio.sleep(_LOOK_S)

    async def some(self) -> bool | None:
        """Publish the first versions: None if there are none, else whether all were acknowledged."""
        rows = await self._in_writer(self._first)
        if not rows:
            return None
        results = await asyncio.gather(*(self._send(*row) for row in rows), return_exceptions=True)
        failed = [each for each in results if isinstance(each, BaseException)]
        crashpoint("summarize:after-publish")
        for error in failed:
            if not isinstance(error, Retryable):
                raise error
        if failed:
            self._shell.health.failed(failed[0])
            self._shell.log.warning("nodes not acknowledged", error=str(failed[0]), nodes=len(failed))
        return not failed

    def _first(self) -> list[tuple[bytes, int, bytes]]:
        """Key, version and body. Writer thread: what is newer than a row is not there yet."""
        waiting = self._summarizer.waiting
        metrics.toc_waiting.set(waiting.count())
        found = []
        for key, version in list(islice(waiting.unsent.items(), _AT_ONCE)):
            row = self._summarizer.rows.outbox(key)
            if row is not None and row.version == version:
                found.append((key, version, row.body))
        return found

    async def _send(self, key: bytes, version: int, body: bytes) -> None:
        seq = await self._publish(derived_subject(keys.tenant_of(key)), body)
        metrics.emitted.labels("summarize").inc()
        await self._in_writer(partial(self._summarizer.waiting.acknowledged, key, version, seq))

    async def _give_up(self) -> None:
        if not self._summarizer.waiting.sent:
            return
        lost = await self._in_writer(self._summarizer.refused)
        if lost:
            self._shell.log.warning("nodes were not recorded", nodes=lost)
