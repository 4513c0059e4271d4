"""Settings of query."""

from __future__ import annotations

import msgspec


class QuerySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long query waits for others.

    Attributes:
        encode_timeout_s: After this the question is answered by words alone.
        service_timeout_s: After this a stage counts as down for this answer.
        forget_wait_s: How long `forget` waits for every stage before it lists who is late.
    """

    encode_timeout_s: float = 0.5
    service_timeout_s: float = 3.0
    forget_wait_s: float = 15.0
