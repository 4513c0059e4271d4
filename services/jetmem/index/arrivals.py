"""When entries came: one row for each hour of a partition's log in which any did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jetmem.domain import keys
from jetmem.runtime.store import Store, WriteSet
from jetmem_schemas.internal import Entry

HOUR_MS: Final = 3_600_000


class Arrivals:
    """Knows the arrival of any entry to the hour, also of one that was erased since. Writer thread only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: By partition, where its last hour begins in the log, and which that is.
        self._last: dict[int, tuple[int, int]] = {}
        #: Those of this batch, in order: a node may be in one batch with what it was made of.
        self._fresh: list[tuple[int, int]] = []

    def note(self, batch: WriteSet, part: int, entries: Sequence[Entry]) -> None:
        """Take entries in order, each once; those of the batches before are written."""
        self._fresh = []
        last = self._last.get(part) or self._stored(part, keys.U64_MAX)
        for entry in entries:
            hour = entry.at // HOUR_MS
            if last is None or last[1] != hour:
                last = (entry.rseq, hour)
                batch.put("arrivals", keys.log(part, entry.rseq), keys.time(hour))
                self._fresh.append(last)
        if last is not None:
            self._last[part] = last

    def of(self, part: int, rseq: int) -> int:
        """By when an entry that was noted had come, epoch ms, never too early; 0 if it was not noted."""
        found = next((each for each in reversed(self._fresh) if each[0] <= rseq), None)
        if found is None:
            last = self._last.get(part)
            found = last if last is not None and last[0] <= rseq else self._stored(part, rseq)
        return (found[1] + 1) * HOUR_MS if found is not None else 0

    def clear(self, part: int) -> None:
        """The partition's rows are gone."""
        self._last.pop(part, None)
        self._fresh = []

    def _stored(self, part: int, rseq: int) -> tuple[int, int] | None:
        start = keys.log(part, rseq)
        for key, raw in self._store.scan("arrivals", keys.partition(part), start=start, back=True):
            return keys.from_u64(key[1:]), keys.from_time(raw)
        return None
