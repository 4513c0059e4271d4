"""Which segment each hit is in: summarize alone knows, and is asked beside the record; if it is late, none is said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from jetmem import flow
from jetmem.query.contents import SUMMARIZE
from jetmem.query.ports import Stages
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import Found
from jetmem_schemas.placing import SegmentsReply, SegmentsRequest

#: Ten hits take it a millisecond; an answer is not kept waiting for what it can do without.
_PATIENCE_S: Final = 0.1


async def segments_of(stages: Stages, tenant: str, found: Sequence[Found]) -> dict[str, str]:
    """Segments of events by their ids; what is not known is absent, and all of it when summarize does not answer."""
    events = [each for each in found if each.rseq and not each.node]
    if not events or all(each.name != SUMMARIZE for each in flow.STAGES):  # nothing else needs it
        return {}
    request = SegmentsRequest(tenant, [each.rseq for each in events])
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reply = await stages.ask(SUMMARIZE, "segments_of", tenant, request, SegmentsReply, _PATIENCE_S)
    except (RequestFailed, TimeoutError):
        return {}
    return {each.id: segment for each, segment in zip(events, reply.segments, strict=True) if segment}
