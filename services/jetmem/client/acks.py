"""What the broker's answer to a publish means."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
from nats.aio.msg import Msg

#: JetStream: message size exceeds maximum allowed.
_TOO_LARGE: Final = 10054
#: JetStream: atomic publish is disabled.
_NOT_ATOMIC: Final = 10174
#: JetStream: atomic publish batch is incomplete: a message was lost, or refused (only its own reply would say why).
_INCOMPLETE: Final = 10176
#: JetStream: atomic publish batch is too large (a server set to fewer than 1,000).
_BATCH_TOO_LARGE: Final = 10199


class Outcome(Enum):
    """What to do next."""

    STORED = "stored"
    OPENED = "opened"
    AGAIN = "again"
    INCOMPLETE = "incomplete"
    NEVER = "never"
    NOT_ATOMIC = "not_atomic"
    TOO_MANY = "too_many"


class Answer(msgspec.Struct, frozen=True):
    """One judged answer; `batch` says whether the server understood the batch."""

    outcome: Outcome
    seq: int = 0
    batch: bool = False
    reason: str = ""


class _Fault(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    batch: str | None = None
    error: _Fault | None = None


_decode: Final = msgspec.json.Decoder(_PubAck).decode


def judge(msg: Msg) -> Answer:
    """Judge the answer to one message, a batch's first (empty: it is open) or its commit.

    A refusal counts as healing unless it is known never to: trying again under the same id does no harm.
    """
    if msg.headers and msg.headers.get("Status") == "503":
        return Answer(Outcome.AGAIN, reason="no stream takes this subject (is the server jetmem's, and started?)")
    if not msg.data:
        return Answer(Outcome.OPENED, batch=True)
    try:
        ack = _decode(msg.data)
    except msgspec.DecodeError:
        return Answer(Outcome.AGAIN, reason="the broker's answer is no acknowledgement")
    if ack.error is None:
        return Answer(Outcome.STORED, seq=ack.seq, batch=ack.batch is not None)
    reason = f"{ack.error.description} ({ack.error.err_code})"
    special = {
        _TOO_LARGE: Outcome.NEVER,
        _NOT_ATOMIC: Outcome.NOT_ATOMIC,
        _BATCH_TOO_LARGE: Outcome.TOO_MANY,
        _INCOMPLETE: Outcome.INCOMPLETE,
    }
    return Answer(special.get(ack.error.err_code, Outcome.AGAIN), reason=reason)
