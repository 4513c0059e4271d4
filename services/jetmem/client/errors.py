"""What can go wrong for a caller of the SDK. Everything derives from `ClientError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
        super().__init__(f"{code}: {message}" + (f" (field {field})" if field else ""))
        self.code = code
        self.message = message
        self.field = field


class Refused(ClientError):
    """It will never be stored as it is, whatever is retried: correct it."""


class PermissionDenied(Refused):
    """The broker does not let this user publish, ask or listen there."""

    def __init__(self, message: str, subject: str) -> None:
        super().__init__("denied", message, "subject")
        self.subject = subject


class RequestRefused(ClientError):
    """A question was answered with an error reply; `code` is one of `jetmem_schemas.errors.REQUEST_CODES`."""


class Unavailable(ClientError):
    """The broker cannot be reached, or nobody answers there now."""

    def __init__(self, message: str) -> None:
        super().__init__("unavailable", message)


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
