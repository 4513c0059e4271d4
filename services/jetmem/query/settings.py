"""Settings of query."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class QuerySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long query waits for others.

    Attributes:
        encode_timeout_s: After this the question is answered by words alone.
        service_timeout_s: After this a stage counts as down for this answer.
        forget_wait_s: How long `forget` waits for every stage before it lists who is late.
    """

    encode_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 0.5
    service_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    forget_wait_s: Annotated[float, Meta(gt=0, le=600)] = 15.0
