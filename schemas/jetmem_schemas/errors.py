"""The closed set of error codes, and the one exception that schemas raise."""

from __future__ import annotations

from typing import Final

#: Why a message on MEMORY could not be recorded. Each is a metric label and a token of the dead letter's subject.
DEAD_CODES: Final = {
    "bad_subject": "the subject has a wrong shape, or a token outside [A-Za-z0-9_-]{1,64}",
    "bad_utf8": "the payload is not UTF-8",
    "bad_json": "the payload is not JSON",
    "too_deep": "the payload nests deeper than the limit",
    "bad_field": "a field has a wrong type, shape or range",
    "missing_field": "a required field is missing",
    "bad_time": "the timestamp is not RFC 3339 or epoch milliseconds, or is out of range",
    "conflict": "the id was recorded before with other content",
    "empty_forget": "a forget selects nothing; it erases nothing",
    "unsupported": "this kind of message is not recorded by this version",
}

#: Why a request was refused or could not be answered.
REQUEST_CODES: Final = {
    "bad_subject": "the request's subject has a wrong shape or token",
    "unknown_verb": "no such query verb",
    "bad_utf8": "the request is not UTF-8",
    "bad_json": "the request is not JSON",
    "too_deep": "the request nests deeper than the limit",
    "bad_field": "a field has a wrong type, shape or range",
    "missing_field": "a required field is missing",
    "bad_time": "a time filter is not RFC 3339 or epoch milliseconds",
    "bad_cursor": "the cursor is not one that this verb gave out",
    "too_large": "the request is larger than the limit",
    "empty_forget": "a forget selects nothing; it erases nothing",
    "not_found": "nothing is recorded under this id",
    "unavailable": "a stage that the answer needs is down, or not ready",
    "timeout": "a stage that the answer needs did not answer in time",
    "busy": "more requests than can be held are waiting",
    "internal": "a fault of ours; it is logged",
}


class SchemaError(ValueError):
    """A payload that does not fit its schema.

    Attributes:
        code: One word of `DEAD_CODES` or `REQUEST_CODES`.
        message: A clear sentence, lower-case, without a full stop.
        field: The offending field as a dotted path, or "".
    """

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
