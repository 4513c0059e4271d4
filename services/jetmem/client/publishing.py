"""Publishing one by one: each message is sent again, under its id, until the broker has it on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from jetmem.client.acks import Answer, Outcome, judge
from jetmem.client.errors import ClientError, NotStored, Refused, TimedOut, Unavailable
from jetmem.client.link import Link, Lost
from jetmem.client.outgoing import Prepared

#: How long an attempt waits: far above one fsync, short enough that a lost answer is not waited for long. Doubles.
ACK_FIRST_S: Final = 5.0
ACK_LAST_S: Final = 30.0
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 5.0
#: Messages of different sessions under way at once where the server has no atomic batches.
WAVE_MAX: Final = 256


class Receipt(msgspec.Struct, frozen=True):
    """One event is on disk: its id, its sequence on MEMORY, and how often it was sent until that was known.

    With more than one attempt MEMORY may hold it more than once; it is recorded once.
    """

    id: str
    seq: int
    attempts: int = 1


class Patience:
    """Growing delays until `timeout_s` passes without success; `None` is for ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.reason = "no answer"
        self.attempts = 0
        self.reset()

    def reset(self) -> None:
        """Something succeeded: start anew."""
        self._until = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        self._delay = RETRY_FIRST_S
        self._ack = ACK_FIRST_S
        self.attempts = 0

    def left(self) -> float | None:
        """Seconds left, or None for ever."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def over(self) -> bool:
        """Whether the time is up."""
        return self.left() == 0.0

    def ack_s(self) -> float:
        """How long to wait for this attempt's answer."""
        self.attempts += 1
        wait, self._ack = self._ack, min(self._ack * 2, ACK_LAST_S)
        left = self.left()
        return wait if left is None else max(0.001, min(wait, left))

    async def pause(self, reason: str) -> None:
        """Wait before the next attempt; does nothing when the time is up."""
        self.reason = reason
        left = self.left()
        delay, self._delay = self._delay, min(self._delay * 2, RETRY_LAST_S)
        await asyncio.sleep(delay if left is None else min(delay, left))


async def attempt(link: Link, message: Prepared, patience: Patience) -> Answer:
    """Send one message once.

    Raises:
        Refused: Never to be stored (also `PermissionDenied`).
        Unavailable: The client was closed, or the time is up without a connection.
    """
    await link.ready(patience.left())
    try:
        msg = await link.ask(message.subject, message.payload, patience.ack_s())
    except (Lost, TimedOut) as error:
        return Answer(Outcome.AGAIN, reason=str(error))
    answer = judge(msg)
    if answer.outcome is Outcome.NEVER:
        raise Refused("too_large", answer.reason)
    return answer


async def publish_one(link: Link, message: Prepared, timeout_s: float | None) -> Receipt:
    """Publish one message and wait until it is on disk.

    Raises:
        NotStored: Not acknowledged within `timeout_s`; it carries the event.
        Refused: It will never be stored.
    """
    patience = Patience(timeout_s)
    try:
        while True:
            answer = await attempt(link, message, patience)
            if answer.outcome is Outcome.STORED:
                return Receipt(message.id, answer.seq, patience.attempts)
            await patience.pause(answer.reason)
            if patience.over():
                raise NotStored(patience.reason, [message.again()])
    except Unavailable as error:
        raise NotStored(error.message, [message.again()]) from error


async def publish_wave(
    link: Link, messages: Sequence[Prepared], timeout_s: float | None
) -> list[Receipt | ClientError]:
    """Publish messages of different sessions at once; each gets its receipt or its error, in the same order."""
    results = await asyncio.gather(*(publish_one(link, m, timeout_s) for m in messages), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ClientError):
            raise result
    return [r for r in results if isinstance(r, Receipt | ClientError)]


def waves(messages: Sequence[Prepared]) -> list[list[Prepared]]:
    """Cut into runs in which no subject comes twice, so that each session keeps its order whatever is tried again."""
    cut: list[list[Prepared]] = []
    seen: set[str] = set()
    for message in messages:
        if not cut or message.subject in seen or len(cut[-1]) >= WAVE_MAX:
            cut.append([])
            seen = set()
        cut[-1].append(message)
        seen.add(message.subject)
    return cut
