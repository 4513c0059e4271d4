"""Compare-and-set in a key-value bucket, which is a stream of the last messages of each subject."""

from __future__ import annotations

from typing import Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from jetmem.runtime.errors import RequestFailed

#: JetStream: wrong last sequence; somebody else was faster.
_OVERTAKEN: Final = 10071
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_ACK_S: Final = 5.0


async def put_if(nc: Client, stream: str, subject: str, value: bytes, revision: int) -> int | None:
    """Set a value if its revision is still this one (0: it has none); the new revision, None if it was overtaken.

    Raises:
        RequestFailed: `unavailable`; it may be set nevertheless.
    """
    try:
        ack = await nc.jetstream().publish(
            subject, value, timeout=_ACK_S, headers={_EXPECTED: str(revision)}, stream=stream
        )
    except nats.js.errors.APIError as error:
        if error.err_code == _OVERTAKEN:
            return None
        raise RequestFailed("unavailable", str(error)) from error
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError) as error:
        raise RequestFailed("unavailable", str(error) or type(error).__name__) from error
    return int(ack.seq)
