"""Vectors of tasks: which task lacks its own, and what is done with those that come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from jetmem.domain import keys
from jetmem.learn.ports import News
from jetmem.learn.rows import Rows, decode_task, prefix
from jetmem.runtime import metrics, stored_vectors
from jetmem.runtime.store import WriteSet
from jetmem.runtime.stored_vectors import VECTOR_MARK, dimensions_of
from jetmem_schemas.internal import Vector

_CHUNK: Final = 5_000


class TaskVectors:
    """Keeps the set of tasks without a vector. Changes on the writer thread only; what is in memory is for any."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._pending: dict[str, int] = {}
        self._first: dict[str, bytes] = {}
        self._changes: Counter[str] = Counter()
        self._dimensions = 0
        self.recount()

    @property
    def pending(self) -> Mapping[str, int]:
        """Per tenant, tasks that lack their vector; tenants without any are absent."""
        return self._pending

    def recount(self) -> None:
        """Count from the store."""
        pending: dict[str, int] = {}
        first: dict[str, bytes] = {}
        for key, _ in self._rows.store.scan("pending", b""):
            tenant = keys.tenant_of(key)
            pending[tenant] = pending.get(tenant, 0) + 1
            first.setdefault(tenant, key.removeprefix(prefix(tenant)))
        self._pending, self._first = pending, first
        self._dimensions = self._rows.dimensions()

    def first_pending(self, tenant: str) -> int | None:
        """The first entry whose task lacks its vector; None if all have theirs. From memory, any thread."""
        place = self._first.get(tenant)
        return keys.from_u64(place) if place is not None else None

    def lacking(self, tenant: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(place, task) of what lacks its vector, in order; what was answered before the first is not read again."""
        return self._rows.pending(tenant, max(after, self._first.get(tenant, b"")))

    def text_of(self, tenant: str, key: bytes) -> str | None:
        """A task's text; None if it is gone."""
        (row,) = self._rows.tasks(tenant, [key])
        return row.text if row is not None else None

    def expect(self, batch: WriteSet, tenant: str, rseq: int, task: bytes) -> None:
        """A task is new."""
        batch.put("pending", prefix(tenant) + keys.u64(rseq), task)
        self._changes[tenant] += 1

    def drop(self, batch: WriteSet, tenant: str, rseq: int, task: bytes) -> None:
        """A task is gone, with its vector or before it came."""
        key = prefix(tenant) + keys.u64(rseq)
        if self._rows.store.get("pending", key) is not None:
            batch.delete("pending", key)
            self._changes[tenant] -= 1

    def arrived(self, batch: WriteSet, tenant: str, vectors: list[Vector], news: News) -> int:
        """Store vectors of tasks that lack them; how many did."""
        start = prefix(tenant)
        wanted = {vector.key: vector for vector in vectors}
        rows = zip(wanted, self._rows.tasks(tenant, list(wanted)), strict=True)
        held = zip(rows, self._rows.vectors(tenant, list(wanted)), strict=True)
        stored = 0
        for (task, row), there in held:
            if row is None or there is not None:
                continue
            raw = self._checked(batch, wanted[task])
            batch.put("vectors", start + task, raw)
            batch.delete("pending", start + keys.u64(row.place))
            self._changes[tenant] -= 1
            stored += 1
            if raw.startswith(VECTOR_MARK):
                news.tasks[task] = raw[1:]
        return stored

    def _checked(self, batch: WriteSet, vector: Vector) -> bytes:
        """A vector as it is stored; the first one of a model says how long all are."""
        raw = stored_vectors.stored(vector, self._dimensions)
        if not self._dimensions and (length := dimensions_of(raw)):
            self._dimensions = length
            self._rows.set_dimensions(batch, length)
        return raw

    def written(self) -> None:
        """The batch is written."""
        for tenant, change in self._changes.items():
            left = self._pending.get(tenant, 0) + change
            if left <= 0:
                self._pending.pop(tenant, None)
                self._first.pop(tenant, None)
                continue
            self._pending[tenant] = left
            # a task's place is that of its entry: none comes before the first, but for what a new model asks for
            for place, _ in self._rows.pending(tenant, self._first.get(tenant, b"")):
                self._first[tenant] = place
                break
        self._changes.clear()
        metrics.pending_vectors.set(sum(self._pending.values()))

    def expect_all(self) -> None:
        """Every task needs a vector: another model."""
        batch = self._rows.store.batch()
        for key, raw in self._rows.store.scan("tasks", b""):
            start = prefix(keys.tenant_of(key))
            batch.put("pending", start + keys.u64(decode_task(raw).place), key.removeprefix(start))
            if len(batch) >= _CHUNK:
                self._rows.store.write(batch, sync=False)
                batch = self._rows.store.batch()
        self._rows.store.write(batch, sync=False)
