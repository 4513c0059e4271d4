"""Which event corrects which: two small rows for each event with `supersedes`, whether it has words or not.

`corrects`: what an event corrects, by its number in the log, to undo it when it is forgotten. `corrected`: by a
hash of the corrected id (no key holds an id: RocksDB's manifest keeps keys), the event that corrects it and was
recorded last. Neither says that the corrected event is there: it may come later, be forgotten, or never have been.
Keys begin with partition and tenant, so a rebuild drops and writes them with everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from jetmem.domain import keys
from jetmem.index.rows import Rows, prefix, text_hash
from jetmem.runtime.store import WriteSet
from jetmem_schemas.internal import Entry


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


def corrected_id(entry: Entry) -> str:
    """The id of the event that this one corrects; "" if it corrects none, or itself."""
    if entry.kind != "event" or not (b"supersedes" in entry.body or b"\\u" in entry.body):  # spares decoding most
        return ""
    named = _supersedes(entry.body).supersedes or ""
    return "" if named == entry.id else named


class Corrections:
    """Reads from any thread; `take` and `drop` write into the writer's batch."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def take(self, batch: WriteSet, entry: Entry) -> None:
        """Note what an entry corrects. In the order of the log, so that the last one stays."""
        named = corrected_id(entry)
        if named:
            start, corrected = prefix(entry.tenant), text_hash(named)
            raw = _encode(_By(entry.rseq, entry.id, corrected))
            batch.put("corrects", start + keys.u64(entry.rseq), raw)
            batch.put("corrected", start + corrected, raw)

    def drop(self, batch: WriteSet, tenant: str, gone: Sequence[int]) -> bool:
        """Forget what erased entries corrected; who corrected the same before them does again. Whether any did."""
        start = prefix(tenant)
        found = self._rows.store.get_many("corrects", [start + keys.u64(rseq) for rseq in gone])
        dropped = [_by(raw) for raw in found if raw]
        if not dropped:
            return False
        left = self._left(tenant, {each.corrected for each in dropped}, frozenset(gone))
        for each in dropped:
            batch.delete("corrects", start + keys.u64(each.rseq))
            if each.corrected in left:
                batch.put("corrected", start + each.corrected, _encode(left[each.corrected]))
            else:
                batch.delete("corrected", start + each.corrected)
        return True

    def _left(self, tenant: str, corrected: set[bytes], gone: frozenset[int]) -> dict[bytes, _By]:
        """The last correction of each that is not going. Reads all of a tenant's: forgetting a correction is rare."""
        rows = (_by(raw) for _, raw in self._rows.store.scan("corrects", prefix(tenant)))
        return {row.corrected: row for row in rows if row.corrected in corrected and row.rseq not in gone}

    def of(self, tenant: str, ids: Iterable[str]) -> list[str]:
        """The event that corrects each, "" where none does."""
        wanted = list(ids)
        start = prefix(tenant)
        if next(self._rows.store.scan("corrected", start), None) is None:  # as of most tenants: spares hashing
            return [""] * len(wanted)
        found = self._rows.store.get_many("corrected", [start + text_hash(each) for each in wanted])
        return [_by(raw).id if raw else "" for raw in found]
