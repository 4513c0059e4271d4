"""The SDK: publish memories and ask for them; needs nats-py and msgspec only.

    async with jetmem.client.connect(tenant="acme", agent="alice") as memory:
        await memory.publish("the build is green again", session="s1", role="assistant")
        reply = await memory.search("is the build broken?", after="mine")

No acknowledgement means that the client keeps the event and sends it again under the same id; what was stored
already is a no-op, so an event is recorded once.
"""

from jetmem.client.batching import Progress, Receipts
from jetmem.client.errors import (
    Busy,
    ClientError,
    NotStored,
    PermissionDenied,
    Refused,
    RequestRefused,
    TimedOut,
    Unavailable,
    Unreachable,
)
from jetmem.client.outgoing import Outgoing
from jetmem.client.plain import PlainRun, run
from jetmem.client.publishing import Receipt
from jetmem.client.runs import AsyncRun
from jetmem.client.sdk import PUBLISH_TIMEOUT_S, Client, connect

__all__ = [
    "PUBLISH_TIMEOUT_S",
    "AsyncRun",
    "Busy",
    "Client",
    "ClientError",
    "NotStored",
    "Outgoing",
    "PermissionDenied",
    "PlainRun",
    "Progress",
    "Receipt",
    "Receipts",
    "Refused",
    "RequestRefused",
    "TimedOut",
    "Unavailable",
    "Unreachable",
    "connect",
    "run",
]
