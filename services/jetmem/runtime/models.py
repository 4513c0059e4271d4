"""Which model's vectors are kept. Vectors of two models cannot be compared, so there is one at a time."""

from __future__ import annotations

from enum import Enum
from typing import Final

from jetmem.runtime.clock import Clock

#: While the model in use was heard of within this time, another one is passed over: during a rolling update both
#: answer jobs, and each change asks for every vector anew.
QUIET_S: Final = 60.0


class Verdict(Enum):
    """What becomes of vectors that came."""

    STORE = "store"
    CHANGE = "change"
    REFUSE = "refuse"


class Models:
    """Decides by name and by when the model in use was last heard of."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_at = clock.monotonic()

    def judge(self, used: str, came: str) -> Verdict:
        """Store, refuse, or change to the model that came."""
        now = self._clock.monotonic()
        if used and came != used and now - self._heard_at < QUIET_S:
            return Verdict.REFUSE
        self._heard_at = now
        return Verdict.STORE if came == used else Verdict.CHANGE
