"""What becomes of one message whose handling raised: the only place that decides it."""

from __future__ import annotations

from enum import Enum

from jetmem.runtime.errors import Broken, Poison, Retryable


class Outcome(Enum):
    """What the shell does next."""

    RETRY = "retry"
    DEAD_LETTER = "dead_letter"
    STOP = "stop"


def outcome(error: BaseException) -> Outcome:
    """Judge one error of an ordered stage.

    An unclassified error stops the stage: a fact that cannot be applied is a bug, not a message to drop.
    """
    if isinstance(error, Poison):
        return Outcome.DEAD_LETTER
    if isinstance(error, Retryable | TimeoutError | ConnectionError):
        return Outcome.RETRY
    if isinstance(error, Broken):
        return Outcome.STOP
    return Outcome.STOP
