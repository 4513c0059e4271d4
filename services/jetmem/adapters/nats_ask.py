"""Asking a stage, as stages ask each other and operators' commands ask them."""

from __future__ import annotations

from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from jetmem.runtime import tracing
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.failures import ERROR_CODE_HEADER, Failure

_encode = msgspec.msgpack.Encoder().encode


async def ask(nc: Client, subject: str, request: Any, reply: Any, timeout_s: float) -> Any:
    """The reply of one stage, as a value of the type `reply`.

    Raises:
        RequestFailed: `unavailable` when nobody listens, `timeout`, or the code that the stage gave.
    """
    stage = subject.split(".")[1]
    try:
        msg = await nc.request(subject, _encode(request), timeout=timeout_s, headers=tracing.headers())
    except nats.errors.NoRespondersError as error:
        raise RequestFailed("unavailable", f"stage {stage} is not running") from error
    except (TimeoutError, nats.errors.TimeoutError) as error:
        raise RequestFailed("timeout", f"stage {stage} did not answer within {timeout_s:g} s") from error
    except (nats.errors.Error, OSError) as error:
        raise RequestFailed("unavailable", f"stage {stage} cannot be asked: {error}") from error
    if msg.headers and ERROR_CODE_HEADER in msg.headers:
        failure = msgspec.json.decode(msg.data, type=Failure)
        raise RequestFailed(failure.code, failure.message, failure.field)
    try:
        return msgspec.msgpack.decode(msg.data, type=reply)
    except msgspec.DecodeError as error:  # while versions are changed one after the other
        raise RequestFailed("unavailable", f"stage {stage} answers in another version's words") from error
