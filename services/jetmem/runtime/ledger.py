"""What every projection's store notes in its family `meta` beside its rows, on the writer thread.

Whose erased words its files may still hold, and which partitions are being dropped. Either is finished by
the next process, should this one die.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from jetmem.domain import keys
from jetmem.runtime.store import Store, WriteSet

_META: Final = "meta"
_ERASED: Final = b"erased:"
_RESETTING: Final = b"resetting:"
#: Rows that go in one write.
_CHUNK: Final = 5_000


class Ledger:
    """Of one store.

    Attributes:
        erased: By tenant, the last forget of which files may still hold words; 0 if a partition was dropped.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        found = store.scan(_META, _ERASED)
        self.erased = {key.removeprefix(_ERASED).decode(): keys.from_u64(value) for key, value in found}

    def erase(self, batch: WriteSet, tenant: str, rseq: int) -> None:
        """Words of a tenant go with this batch, from the rows; from the files when they are rewritten."""
        batch.put(_META, _ERASED + tenant.encode(), keys.u64(rseq))
        self.erased[tenant] = rseq

    def purged(self, tenants: Mapping[str, int]) -> None:
        """The files were rewritten after `erased` told of these; a forget that came meanwhile stays."""
        batch = self._store.batch()
        for tenant, rseq in tenants.items():
            if self.erased.get(tenant) == rseq:
                batch.delete(_META, _ERASED + tenant.encode())
                del self.erased[tenant]
        self._store.write(batch, sync=True)

    def unfinished(self) -> list[int]:
        """Partitions that were being dropped when the process before us died."""
        return [key[-1] for key, _ in self._store.scan(_META, _RESETTING)]

    def drop(self, part: int, tenants: Iterable[str], families: Iterable[str]) -> None:
        """Delete all rows of a partition but those of `meta`; their words stay in the files until those are rewritten.

        Args:
            part: Which.
            tenants: Of whom it holds anything; taken before any row goes.
            families: Of the store.
        """
        held = list(tenants)
        batch = self._store.batch()
        batch.put(_META, _RESETTING + keys.partition(part), b"")
        for tenant in held:
            self.erase(batch, tenant, 0)
        self._store.write(batch, sync=True)
        for family in families:
            if family != _META:
                self.wipe(family, keys.partition(part))

    def dropped(self, batch: WriteSet, part: int) -> None:
        """In the write with which a partition begins from nothing."""
        batch.delete(_META, _RESETTING + keys.partition(part))

    def note(self, key: bytes, value: bytes = b"") -> None:
        """Write one row of `meta` at once."""
        batch = self._store.batch()
        batch.put(_META, key, value)
        self._store.write(batch, sync=True)

    def wipe(self, family: str, start: bytes) -> None:
        """Delete all rows of a family whose keys begin so; not synced."""
        batch = self._store.batch()
        for key, _ in self._store.scan(family, start):
            batch.delete(family, key)
            if len(batch) >= _CHUNK:
                self._store.write(batch, sync=False)
                batch = self._store.batch()
        self._store.write(batch, sync=False)
