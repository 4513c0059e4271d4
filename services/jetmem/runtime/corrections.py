"""Which event corrects which, as index and summarize keep it: small rows for each event with `supersedes`.

`corrects`: what an event corrects, by its number in the log, to undo it when it is forgotten. `corrected`: by a
hash of the corrected id (no key holds an id: RocksDB's manifest keeps keys), the event that corrects it and was
recorded last; and by the hash and their numbers, all that correct it, so that the one before is found. Neither says
that the corrected event is there: it may come later, be forgotten, or never have been. Whoever said either, and in
which session, makes no difference within a tenant.
Keys begin with partition and tenant, so a rebuild drops and writes them with everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.runtime.store import Store, WriteSet
from jetmem_schemas.internal import Entry
from jetmem_schemas.subjects import partition_of

_HASH_BYTES: Final = 16


class _Correcting(msgspec.Struct, frozen=True):
    supersedes: str | None = None


class _By(msgspec.Struct, frozen=True, array_like=True):
    """A row of either family: the correcting event, and the hash of what it corrects."""

    rseq: int
    id: str
    corrected: bytes


_supersedes = msgspec.json.Decoder(_Correcting).decode
_encode = msgspec.msgpack.Encoder().encode
_by = msgspec.msgpack.Decoder(_By).decode


def id_hash(id_: str) -> bytes:
    """What stands in a key for an event's id."""
    return blake2b(id_.encode(), digest_size=_HASH_BYTES).digest()


def _prefix(tenant: str) -> bytes:
    return keys.tenant(partition_of(tenant), tenant)


def corrected_id(entry: Entry) -> str:
    """The id of the event that this one corrects; "" if it corrects none, or itself."""
    if entry.kind != "event" or not (b"supersedes" in entry.body or b"\\u" in entry.body):  # spares decoding most
        return ""
    named = _supersedes(entry.body).supersedes or ""
    return "" if named == entry.id else named


class Corrections:
    """Reads from any thread; `take` and `drop` write into the writer's batch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, batch: WriteSet, entry: Entry) -> str:
        """Note what an entry corrects; the id, "" for none. In the order of the log, so that the last one stays."""
        named = corrected_id(entry)
        if named:
            start, corrected = _prefix(entry.tenant), id_hash(named)
            raw = _encode(_By(entry.rseq, entry.id, corrected))
            batch.put("corrects", start + keys.u64(entry.rseq), raw)
            batch.put("corrected", start + corrected, raw)
            batch.put("corrected", start + corrected + keys.u64(entry.rseq), raw)
        return named

    def drop(self, batch: WriteSet, tenant: str, gone: Sequence[int]) -> bool:
        """Forget what erased entries corrected; who corrected the same before them does again. Whether any did."""
        start = _prefix(tenant)
        found = self._store.get_many("corrects", [start + keys.u64(rseq) for rseq in gone])
        dropped = [_by(raw) for raw in found if raw]
        if not dropped:
            return False
        for each in dropped:
            batch.delete("corrects", start + keys.u64(each.rseq))
            batch.delete("corrected", start + each.corrected + keys.u64(each.rseq))
        going = frozenset(gone)
        corrected = sorted({each.corrected for each in dropped})
        for name, raw in zip(corrected, self._stored(tenant, corrected), strict=True):
            if raw is not None and _by(raw).rseq in going:
                left = self._left(start + name, going)
                if left is None:
                    batch.delete("corrected", start + name)
                else:
                    batch.put("corrected", start + name, left)
        return True

    def _left(self, name: bytes, going: frozenset[int]) -> bytes | None:
        """The last correction of one that is not going, as stored; None if all are."""
        for key, raw in self._store.scan("corrected", name, back=True):
            if key != name and _by(raw).rseq not in going:
                return raw
        return None

    def of(self, tenant: str, ids: Iterable[str]) -> list[str]:
        """The event that corrects each, "" where none does."""
        return [by.id if by else "" for by in self._last(tenant, ids)]

    def numbers(self, tenant: str, ids: Iterable[str]) -> dict[str, int]:
        """Those of these events that are corrected, with the correcting event's number in the log."""
        wanted = list(ids)
        return {each: by.rseq for each, by in zip(wanted, self._last(tenant, wanted), strict=True) if by}

    def _last(self, tenant: str, ids: Iterable[str]) -> list[_By | None]:
        wanted = list(ids)
        if next(self._store.scan("corrected", _prefix(tenant)), None) is None:  # as of most tenants: spares hashing
            return [None] * len(wanted)
        return [_by(raw) if raw else None for raw in self._stored(tenant, [id_hash(each) for each in wanted])]

    def _stored(self, tenant: str, corrected: Sequence[bytes]) -> list[bytes | None]:
        """The last correction of each, by the hash of its id."""
        start = _prefix(tenant)
        return self._store.get_many("corrected", [start + each for each in corrected])
