"""Up to where every task of a tenant has its vector: what the arm `tasks` says."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

from jetmem.learn.handler import Learner
from jetmem_schemas.internal import Head

#: Ends of writes that are remembered of a partition: of what a task came with only the number in the log is kept.
_ENDS_MAX: Final = 1_000


class Fresh:
    """Notes where writes ended, on the writer thread; asked on any."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._ends: dict[int, deque[Head]] = {}

    def applied(self, part: int) -> None:
        """Entries were applied."""
        self._ends.setdefault(part, deque(maxlen=_ENDS_MAX)).append(self._learner.at[part])

    def reset(self, part: int) -> None:
        """The log is another one, or another shard's: it need not be ours."""
        self._ends.pop(part, None)

    def tasks(self, part: int, tenant: str) -> Head:
        """The entry before the first task that lacks its vector.

        Its MEMORY sequence is that of a write before it: 0 where none is remembered, as after a start.
        """
        at = self._learner.at[part]  # before the tasks are looked at: what comes meanwhile is not covered by it
        first = self._learner.vectors.first_pending(tenant)
        if first is None or first > at.rseq:
            return at
        ends = list(self._ends.get(part, ()))
        before = bisect_left(ends, first, key=lambda end: end.rseq)
        return Head(first - 1, ends[before - 1].seq if before else 0)
