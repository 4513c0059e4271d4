"""What can go wrong for a caller of the SDK. Everything derives from `ClientError`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jetmem.client.outgoing import Outgoing


class ClientError(Exception):
    """Base of every error of the SDK.

    Attributes:
        code: One word, for programs.
        message: Clear sentence, lower-case, without a full stop.
        field: The offending field, or "".
    """

    def __init__(self, code: str, message: str, field: str = "") -> None:
        self.code = code
        self.message = message
        self.field = field
        super().__init__(f"{code}: {self.sentence}")

    @property
    def sentence(self) -> str:
        """The message, and the field where it does not name it."""
        named = not self.field or re.search(rf"(?<!\w){re.escape(self.field)}(?!\w)", self.message)
        return self.message if named else f"{self.message} (field {self.field})"


class Refused(ClientError):
    """It will never be stored as it is, whatever is retried: correct it."""


class PermissionDenied(Refused):
    """The broker does not let this user publish, ask or listen there."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__("denied", message, "subject")
        self.subject = subject


class RequestRefused(ClientError):
    """A question was answered with an error reply; `code` is one of `jetmem_schemas.errors.REQUEST_CODES`.

    Asking the same again is answered the same; what may be otherwise later is `Unavailable`, `Busy` or `TimedOut`.
    """


class Unavailable(ClientError):
    """The broker cannot be reached, or nobody or not everybody who is needed answers there now."""

    def __init__(self, message: str, code: str = "unavailable") -> None:
        super().__init__(code, message)


class Unreachable(Unavailable):
    """No broker answers at the address."""


class Busy(Unavailable):
    """More is asked than can be held: wait a little and try again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "busy")


class TimedOut(ClientError):
    """No answer in time; a question may be asked again."""

    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)


class NotStored(ClientError):
    """No acknowledgement within the time given: the events may or may not be stored.

    Publishing `pending` again is safe: each carries its id, and what is stored already is a no-op.

    Attributes:
        pending: What is not acknowledged, in order, each with the id it was sent under.
        stored: How many events of the same call were acknowledged before.
    """

    def __init__(self, reason: str, pending: Sequence[Outgoing], stored: int = 0) -> None:
        super().__init__("not_stored", f"{len(pending)} not acknowledged: {reason}")
        self.pending = list(pending)
        self.stored = stored


_LATER: Final[dict[str, Callable[[str], ClientError]]] = {"unavailable": Unavailable, "busy": Busy, "timeout": TimedOut}


def of_reply(code: str, message: str, field: str = "") -> ClientError:
    """The error of an error reply: one type for one condition, whoever noticed it, this client or a stage."""
    later = _LATER.get(code)
    return later(message) if later else RequestRefused(code, message, field)
