"""The four ways in which work fails; what happens then is decided in `outcomes`."""

from __future__ import annotations


class Retryable(Exception):
    """May work later: a broker away, a disk busy, a stage not there."""


class Poison(Exception):
    """Will never work, whatever is retried.

    Attributes:
        code: One word of `jetmem_schemas.errors.DEAD_CODES`.
        message: Clear sentence, lower-case, without a full stop.
        field: The offending field, or "".
    """

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class Broken(Exception):
    """Our invariant or our store is wrong: the process stops, health says why."""


class WrongFormat(Broken):
    """A store is of a format that this version does not read: nothing is wrong with it, and no restart helps."""


class RequestFailed(Exception):
    """A question that is answered with an error reply.

    Attributes:
        code: One word of `jetmem_schemas.errors.REQUEST_CODES`.
        message: Clear sentence, lower-case, without a full stop.
        field: The offending field, or "".
    """

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


def invariant(condition: object, must_hold: str) -> None:
    """Like `assert`, but survives `-O`.

    Raises:
        Broken: `condition` is false.
    """
    if not condition:
        raise Broken(f"invariant violated: {must_hold}")
