"""How long one answer may still take."""

from __future__ import annotations

from typing import Final

from jetmem.query.core import Standing
from jetmem.query.ports import Stages
from jetmem.runtime.clock import Clock
from jetmem_schemas.internal import CoverReply, CoverRequest

#: On top of what the asker is willing to wait: one stage that hangs and the next tier's answer fit in.
ANSWER_S: Final = 4.5
#: An ask that comes last still has this long.
_LEAST_S: Final = 0.05


class Patience:
    """One answer's deadline: `wait_ms` for others to catch up, and `ANSWER_S` for asking them.

    Attributes:
        each_s: After this a stage counts as down for this answer.
    """

    def __init__(self, clock: Clock, wait_ms: int, each_s: float) -> None:
        self.each_s = each_s
        self._clock = clock
        self._began = clock.monotonic()
        self._wait_s = wait_ms / 1000

    def took_ms(self) -> float:
        """Since the request came."""
        return (self._clock.monotonic() - self._began) * 1000

    def wait_ms(self) -> int:
        """What is left of the asker's wait."""
        return max(0, int(self._wait_s * 1000 - self.took_ms()))

    def left_s(self) -> float:
        """Until the answer must be out."""
        return self._began + self._wait_s + ANSWER_S - self._clock.monotonic()

    def timeout_s(self, *, waiting: bool = False, reserve_s: float = 0.0) -> float:
        """For the next ask.

        Args:
            waiting: The other waits for what is left of `wait_ms` before it answers.
            reserve_s: To be kept for whoever is asked when this one fails.
        """
        own = self.each_s + (self.wait_ms() / 1000 if waiting else 0.0)
        return max(_LEAST_S, min(own, self.left_s() - reserve_s))


async def cover(stages: Stages, tenant: str, standing: Standing, patience: Patience) -> CoverReply | None:
    """Wait until persist has recorded what the asker wants covered; None if it wants nothing.

    Raises:
        RequestFailed: persist does not answer.
    """
    if not standing.after:
        return None
    request = CoverRequest(standing.after, patience.wait_ms())
    reply = await stages.ask("persist", "cover", tenant, request, CoverReply, patience.timeout_s(waiting=True))
    standing.covered(reply)
    return reply
