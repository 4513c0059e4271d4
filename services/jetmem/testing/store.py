"""The fake of `adapters.rocks.Rocks`: sorted dictionaries that know what a power failure would leave."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any

from jetmem.runtime.store import WriteSet

_Put = tuple[str, bytes, bytes | None]


class FakeBatch:
    """Writes that happen together or not at all."""

    def __init__(self, families: Sequence[str]) -> None:
        self.raw: Any = []
        self._families = families

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Set one key."""
        self._add(family, key, value)

    def delete(self, family: str, key: bytes) -> None:
        """Remove one key, present or not."""
        self._add(family, key, None)

    def _add(self, family: str, key: bytes, value: bytes | None) -> None:
        if family not in self._families:
            raise KeyError(family)
        self.raw.append((family, key, value))

    def __len__(self) -> int:
        return len(self.raw)


class FakeStore:
    """One store in memory.

    Attributes:
        writes: Batches applied.
        syncs: Times that everything written so far was made durable.
        format: What `set_format` set; 0 before.
    """

    def __init__(self, families: Sequence[str]) -> None:
        self.writes = 0
        self.syncs = 0
        self.format = 0
        self._names = tuple(families)
        self._values: dict[str, dict[bytes, bytes]] = {name: {} for name in families}
        self._order: dict[str, list[bytes]] = {name: [] for name in families}
        self._unsynced: list[_Put] = []
        self._durable: dict[str, dict[bytes, bytes]] = {name: {} for name in families}

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of one key, or None."""
        return self._values[family].get(key)

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of many keys, None where absent, in the order asked."""
        return [self._values[family].get(key) for key in keys]

    def scan(
        self, family: str, prefix: bytes, *, start: bytes | None = None, back: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`, in order from `start` (inclusive), or backwards; as of the call."""
        order = self._order[family]
        if back:
            end = prefix + b"\xff" * 32
            keys = order[: bisect_right(order, min(end if start is None else start, end))][::-1]
        else:
            keys = order[bisect_left(order, max(start or prefix, prefix)) :]
        view = [(key, self._values[family][key]) for key in keys]
        return self._within(prefix, view)

    def scan_each(self, family: str, prefixes: Sequence[bytes], most: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """For each prefix the first `most` keys that begin with it."""
        for prefix in prefixes:
            yield list(self.scan(family, prefix))[:most]

    @staticmethod
    def _within(prefix: bytes, view: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for key, value in view:
            if not key.startswith(prefix):
                return
            yield key, value

    def batch(self) -> WriteSet:
        """A new, empty batch."""
        return FakeBatch(self._names)

    def write(self, batch: WriteSet, *, sync: bool) -> None:
        """Apply a batch."""
        for family, key, value in batch.raw:
            self._set(family, key, value)
        self._unsynced += batch.raw
        self.writes += 1
        if sync:
            self.sync()

    def _set(self, family: str, key: bytes, value: bytes | None) -> None:
        values, order = self._values[family], self._order[family]
        if value is None:
            if values.pop(key, None) is not None:
                del order[bisect_left(order, key)]
            return
        if key not in values:
            insort(order, key)
        values[key] = value

    def sync(self) -> None:
        """Make every write so far durable."""
        self.syncs += 1
        for family, key, value in self._unsynced:
            if value is None:
                self._durable[family].pop(key, None)
            else:
                self._durable[family][key] = value
        self._unsynced.clear()

    def after_power_failure(self) -> FakeStore:
        """The store as its next process would find it: what was not synced is gone."""
        found = FakeStore(self._names)
        batch = found.batch()
        for family, values in self._durable.items():
            for key, value in values.items():
                batch.put(family, key, value)
        found.write(batch, sync=True)
        found.writes = found.syncs = 0
        return found

    def compact(self) -> None:
        """Nothing erased is kept anyway."""

    def set_format(self, version: int) -> None:
        """Note which format it has."""
        self.format = version

    def disk_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(len(k) + len(v) for values in self._values.values() for k, v in values.items())

    def close(self) -> None:
        """Nothing to let go of."""
