"""Which event corrects which: small rows for each event with `supersedes`, whether it has words or not.

`corrects`: what an event corrects, by its number in the log, to undo it when it is forgotten. `corrected`: by a
hash of the corrected id (no key holds an id: RocksDB's manifest keeps keys), the event that corrects it and was
recorded last; and by the hash and their numbers, all that correct it, so that the one before is found. Neither says
that the corrected event is there: it may come later, be forgotten, or never have been. Keys begin with partition and
tenant, so a rebuild drops and writes them with everything else.
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
            batch.put("corrected", start + corrected + keys.u64(entry.rseq), raw)

    def drop(self, batch: WriteSet, tenant: str, gone: Sequence[int]) -> bool:
        """Forget what erased entries corrected; who corrected the same before them does again. Whether any did."""
        start = prefix(tenant)
        found = self._rows.store.get_many("corrects", [start + keys.u64(rseq) for rseq in gone])
        dropped = [_by(raw) for raw in found if raw]
        if not dropped:
            return False
        for each in dropped:
            batch.delete("corrects", start + keys.u64(each.rseq))
            batch.delete("corrected", start + each.corrected + keys.u64(each.rseq))
        going = frozenset(gone)
        corrected = sorted({each.corrected for each in dropped})
        for name, raw in zip(corrected, self._last(tenant, corrected), strict=True):
            if raw is not None and _by(raw).rseq in going:
                left = self._left(start + name, going)
                if left is None:
                    batch.delete("corrected", start + name)
                else:
                    batch.put("corrected", start + name, left)
        return True

    def _last(self, tenant: str, corrected: Sequence[bytes]) -> list[bytes | None]:
        """The last correction of each, as stored."""
        start = prefix(tenant)
        return self._rows.store.get_many("corrected", [start + each for each in corrected])

    def _left(self, name: bytes, going: frozenset[int]) -> bytes | None:
        """The last correction of one that is not going, as stored; None if all are."""
        for key, raw in self._rows.store.scan("corrected", name, back=True):
            if key != name and _by(raw).rseq not in going:
                return raw
        return None

    def of(self, tenant: str, ids: Iterable[str]) -> list[str]:
        """The event that corrects each, "" where none does."""
        wanted = list(ids)
        start = prefix(tenant)
        if next(self._rows.store.scan("corrected", start), None) is None:  # as of most tenants: spares hashing
            return [""] * len(wanted)
        found = self._last(tenant, [text_hash(each) for each in wanted])
        return [_by(raw).id if raw else "" for raw in found]
