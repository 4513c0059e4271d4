"""A question's words as a vector, made by embed before its jobs; nobody waits long for it."""

from __future__ import annotations

import asyncio

from jetmem.query.ports import Stages
from jetmem.query.settings import QuerySettings
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import EncodeReply, EncodeRequest


async def encode(stages: Stages, settings: QuerySettings, tenant: str, text: str) -> EncodeReply | None:
    """One vector and its model; None if embed is down, too slow, or cannot encode this text."""
    timeout_s = settings.encode_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            reply = await stages.ask("embed", "encode", tenant, EncodeRequest([text]), EncodeReply, timeout_s)
    except (RequestFailed, TimeoutError):
        return None
    return reply if reply.vectors and reply.vectors[0] else None
