"""Error replies: their body, and the headers by which NATS knows them."""

from __future__ import annotations

from typing import Final

import msgspec

ERROR_HEADER: Final = "Nats-Service-Error"
ERROR_CODE_HEADER: Final = "Nats-Service-Error-Code"


class Failure(msgspec.Struct, frozen=True):
    """The body of an error reply."""

    code: str
    message: str
    field: str = ""
