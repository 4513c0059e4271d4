"""Which segment each hit is in: summarize alone knows, and is asked beside the record; if it is late, none is said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from jetmem import flow
from jetmem.query.contents import SUMMARIZE
from jetmem.query.ports import Stages
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas import subjects
from jetmem_schemas.internal import Found
from jetmem_schemas.placing import SegmentsReply, SegmentsRequest

T = TypeVar("T")
#: Ten hits take it a millisecond; an answer is not kept waiting for what it can do without.
_PATIENCE_S: Final = 0.1
#: And hardly at all for who was late when last asked.
_PATIENCE_LATE_S: Final = 0.003


class Placing:
    """Asks summarize, and remembers of each partition whether its answer was late."""

    def __init__(self) -> None:
        self._late: set[int] = set()
        self._asking: set[asyncio.Task[dict[str, str]]] = set()

    async def beside(
        self, stages: Stages, tenant: str, found: Sequence[Found], others: Awaitable[T]
    ) -> tuple[T, dict[str, str]]:
        """What `others` give, and segments of events by their ids.

        What is not known is absent, and all of it when summarize does not answer. It is asked each time, and heard
        also after this has returned: once it answers in time again, it is waited for again.

        Raises:
            Exception: What `others` raise.
        """
        events = [each for each in found if each.rseq and not each.node]
        if not events or all(each.name != SUMMARIZE for each in flow.STAGES):  # nothing else needs it
            return await others, {}
        asking = asyncio.create_task(self._segments(stages, tenant, events))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        given = await others
        late = subjects.partition_of(tenant) in self._late
        await asyncio.wait({asking}, timeout=_PATIENCE_LATE_S if late else None)
        return given, asking.result() if asking.done() else {}

    async def _segments(self, stages: Stages, tenant: str, events: Sequence[Found]) -> dict[str, str]:
        request = SegmentsRequest(tenant, [each.rseq for each in events])
        part = subjects.partition_of(tenant)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reply = await stages.ask(SUMMARIZE, "segments_of", tenant, request, SegmentsReply, _PATIENCE_S)
        except (RequestFailed, TimeoutError) as error:
            if not isinstance(error, RequestFailed) or error.code == "timeout":  # who is away is known at once
                self._late.add(part)
            return {}
        self._late.discard(part)
        return {each.id: segment for each, segment in zip(events, reply.segments, strict=True) if segment}
