"""Up to where runs count and forgets are done with, and every task has its vector: what the arms of learn say."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

from jetmem.learn.handler import Learner
from jetmem_schemas.internal import Head
from jetmem_schemas.subjects import partition_of

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

    def runs(self, part: int, tenant: str) -> Head:
        """The last entry applied, or the one before the first forget whose procedures are still being counted."""
        at = self._learner.at[part]  # before what waits is looked at: what comes meanwhile is not covered by it
        return self._before(part, at, self._learner.recounts.since(tenant))

    def tasks(self, part: int, tenant: str) -> Head:
        """That, or the entry before the first task that lacks its vector."""
        at = self.runs(part, tenant)
        return self._before(part, at, self._learner.vectors.first_pending(tenant))

    def passed(self, part: int) -> Head:
        """As `runs`, of all tenants of a partition."""
        at = self._learner.at[part]
        waiting = [tenant for tenant in self._learner.recounts.tenants() if partition_of(tenant) == part]
        return min([at, *(self.runs(part, tenant) for tenant in waiting)], key=lambda head: head.rseq)

    def _before(self, part: int, at: Head, first: int | None) -> Head:
        """The entry before one that is not done with, if that is not beyond `at`.

        Its MEMORY sequence is that of a write before it: 0 where none is remembered, as after a start.
        """
        if first is None or first > at.rseq:
            return at
        ends = list(self._ends.get(part, ()))
        before = bisect_left(ends, first, key=lambda end: end.rseq)
        return Head(first - 1, ends[before - 1].seq if before else 0)
