"""How long what agents say takes from the broker to each arm that can find it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem_schemas.internal import Entry, Head

#: Bounds of memory and time: in a crowd those that come first stand for the others.
_ENTRIES_MAX: Final = 10_000
_TENANTS_MAX: Final = 64
#: What is older than the process by more was covered before: it is read again, after a rebuild.
_BEFORE_START_MS: Final = 3_600_000
#: Facts that agents told; what follows from them is not waited for.
_SAID: Final = frozenset({"event", "run", "procedure"})


def observe(arm: str, published: Iterable[int], now_ms: int) -> None:
    """An arm covers messages that the broker stored then (epoch ms)."""
    ages = [max(0, now_ms - at) / 1000 for at in published]
    if not ages:
        return
    seen = metrics.freshness.labels(arm)
    # As `observe` of each, which would cost persist a twentieth of its time; a test compares the two.
    for bucket, count in Counter(bisect_left(seen._upper_bounds, age) for age in ages).items():
        seen._buckets[bucket].inc(count)
    seen._sum.inc(sum(ages))


class Freshness:
    """Follows entries until every arm of a projection covers them. Event loop only."""

    def __init__(self, clock: Clock, heads: Callable[[int, str], Mapping[str, Head]]) -> None:
        """Begin with nothing.

        Args:
            clock: Wall time, of a machine whose clock agrees with the broker's.
            heads: Up to where each arm answers for a tenant of a partition.
        """
        self._clock = clock
        self._heads = heads
        self._since_ms = clock.now_ms() - _BEFORE_START_MS
        #: Per partition and tenant, for each arm: number in the log and broker time of what it does not cover.
        self._waiting: dict[tuple[int, str], dict[str, deque[tuple[int, int]]]] = {}
        self._held = 0

    def note(self, part: int, entries: Sequence[Entry]) -> None:
        """Entries are about to be applied."""
        for entry in entries:
            if entry.kind not in _SAID or entry.at < self._since_ms or self._held >= _ENTRIES_MAX:
                continue
            arms = self._waiting.get((part, entry.tenant))
            if arms is None:
                if len(self._waiting) >= _TENANTS_MAX:
                    continue
                arms = self._waiting[part, entry.tenant] = {arm: deque() for arm in self._heads(part, entry.tenant)}
            for waiting in arms.values():
                waiting.append((entry.rseq, entry.at))
                self._held += 1

    def look(self) -> None:
        """Observe what is covered by now."""
        covered: dict[str, list[int]] = defaultdict(list)
        for (part, tenant), arms in tuple(self._waiting.items()):
            heads = self._heads(part, tenant)
            for arm, waiting in arms.items():
                upto = heads[arm].rseq
                while waiting and waiting[0][0] <= upto:
                    covered[arm].append(waiting.popleft()[1])
            if not any(arms.values()):
                del self._waiting[part, tenant]
        now_ms = self._clock.now_ms()
        for arm, published in covered.items():
            observe(arm, published, now_ms)
            self._held -= len(published)

    def reset(self, part: int) -> None:
        """The log is another one: nothing of it is waited for."""
        for key in [key for key in self._waiting if key[0] == part]:
            self._held -= sum(map(len, self._waiting.pop(key).values()))
