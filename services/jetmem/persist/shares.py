"""What this store has of each partition; the table of owners (`adapters.part_owners`) says who it belongs to.

A partition that the store owns rides with the reader of MEMORY, or is parked: it is complete up to a checkpoint of its
own, and the reader passes it over. One that is being copied is not owned yet. Each state is rows in `meta`, changed in
one synced write, so a process that is killed finds it again.

| rows | the partition |
| --- | --- |
| `own` | rides |
| `own`, `parked`, `reader:part-N` | is parked: to be given away, or come from another store and not yet caught up |
| `copying` | is being copied, or is whole and waits for its owner to let go |
| none | is not here, though rows of it may be: they are dropped before it is copied |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from ulid import ULID

from jetmem.domain import keys
from jetmem.persist.copying import BEGINNING, Place, Row, drop_some, family_of
from jetmem.persist.handler import Recorder
from jetmem.persist.record import SHARED, TRIMMED, TRIMMING, WHOLE, Checkpoint, Trimming
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import RequestFailed, invariant
from jetmem.runtime.store import WriteSet
from jetmem_schemas import subjects
from jetmem_schemas.internal import Head

_STORE: Final = b"store"
_OWN: Final = b"own:"
_PARKED: Final = b"parked:"
_COPYING: Final = b"copying:"
NO_TRIM: Final = Trimming()
_encode = msgspec.msgpack.Encoder().encode


class Copying(msgspec.Struct, frozen=True, array_like=True):
    """How far a copy is: of the state `token`, parked at `parked`, behind the place (`source`, `key`)."""

    token: str
    parked: Checkpoint
    source: int = 0
    key: bytes = b""
    whole: bool = False


class Shares:
    """The states of partitions in one store. What changes them runs on the writer thread, between two batches.

    Attributes:
        store_id: The identity of this store, for ever.
        owned: How often each partition that this store owns had moved when it came here.
        parked: The token of each of them that is parked.
        copying: Those that are on their way here.
        closed: Those of which the table may name another owner already: nothing is answered of them.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._store = recorder.record.store
        self.store_id = self._identity()
        self.owned = {part: keys.from_u64(raw) for part, raw in self._rows(_OWN)}
        self.parked = {part: raw.decode() for part, raw in self._rows(_PARKED)}
        self.copying = {part: msgspec.msgpack.decode(raw, type=Copying) for part, raw in self._rows(_COPYING)}
        self.closed: set[int] = set()
        self._readers: dict[int, Recorder] = {}
        self._follow()

    def _identity(self) -> str:
        found = self._store.get("meta", _STORE)
        if found is None:
            found = str(ULID()).encode()
            batch = self._store.batch()
            batch.put("meta", _STORE, found)
            self._store.write(batch, sync=True)
        return found.decode()

    def _rows(self, before: bytes) -> Iterator[tuple[int, bytes]]:
        return ((key[-1], value) for key, value in self._store.scan("meta", before))

    def _follow(self) -> None:
        """Memory after what is on disk."""
        mine = self.recorder
        for part in self.parked.keys() - self._readers.keys():
            self._readers[part] = Recorder(mine.record, _reader(part), [part], numbers=mine.numbers)
        for part in self._readers.keys() - self.parked.keys():
            del self._readers[part]
        mine.parts = frozenset(self.owned) - frozenset(self.parked)
        if len(mine.parts) == subjects.PARTITIONS:
            self._store.set_format(WHOLE)

    @property
    def riding(self) -> frozenset[int]:
        """Partitions whose messages are recorded as they come."""
        return self.recorder.parts

    def keeps(self, tenant: str) -> bool:
        """Whether what is noted for a tenant is ours to work off; nobody's is whoever's store has it."""
        return tenant in ("", subjects.NONE) or subjects.partition_of(tenant) in self.recorder.parts

    def seq(self, part: int) -> int:
        """MEMORY sequence up to which a partition that is owned is on disk."""
        return self.recorder.synced.seq if part in self.recorder.parts else self.reader(part).synced.seq

    def reader(self, part: int) -> Recorder:
        """The recorder of a parked partition, with its own checkpoint.

        Raises:
            RequestFailed: `unavailable`: it is not here any more.
        """
        found = self._readers.get(part)
        if found is None:
            raise RequestFailed("unavailable", f"partition {part} is not at this process")
        return found

    def head(self, part: int) -> Head:
        """The last entry of a partition that is owned."""
        recorder = self.recorder if part in self.recorder.parts else self.reader(part)
        return recorder.heads.get(part, Head())

    # --- changes, on the writer thread

    def own(self, moves: Mapping[int, int]) -> None:
        """These partitions are ours: new ones that nobody had, or those that came whole."""
        if len({*self.owned, *moves}) < subjects.PARTITIONS:
            self._store.set_format(SHARED)
        batch = self._store.batch()
        for part, count in moves.items():
            batch.put("meta", _key(_OWN, part), keys.u64(count))
            come = self.copying.get(part)
            if come is not None:
                invariant(come.whole, f"partition {part} was copied whole before it was owned")
                batch.put("meta", _key(_PARKED, part), come.token.encode())
                batch.delete("meta", _key(_COPYING, part))
        self._store.write(batch, sync=True)
        for part in moves:
            come = self.copying.pop(part, None)
            if come is not None:
                self.parked[part] = come.token
        self.owned |= moves
        self._follow()

    def own_from_the_start(self, moves: Mapping[int, int]) -> None:
        """These are ours, and nothing is here: they are read from MEMORY's first message on, the others not again."""
        checkpoint = Checkpoint(self.recorder.synced.created, epoch=self.recorder.synced.epoch)
        self._store.set_format(SHARED)
        batch = self._store.batch()
        for part, count in moves.items():
            batch.put("meta", _key(_OWN, part), keys.u64(count))
            self._put_parked(batch, part, checkpoint, "")
        self._store.write(batch, sync=True)
        self.owned |= moves
        self.parked |= dict.fromkeys(moves, "")
        self._follow()

    def park(self, part: int) -> None:
        """Read no further; what the reader passes over from now on, others may erase."""
        token, synced = str(ULID()), self.recorder.synced
        self._store.set_format(SHARED)
        batch = self._store.batch()
        self._put_parked(batch, part, synced, token)
        self.recorder.write_with(batch, erased=True)
        self.parked[part] = token
        self._follow()
        crashpoint("move:after-park")

    def _put_parked(self, batch: WriteSet, part: int, checkpoint: Checkpoint, token: str) -> None:
        batch.put("meta", _key(_PARKED, part), token.encode())
        batch.put("meta", b"reader:" + _reader(part).encode(), _encode(checkpoint))

    def renew(self, part: int) -> None:
        """A parked partition is about to be read further: whoever has copied some of it has copied another state."""
        token = str(ULID())
        batch = self._store.batch()
        batch.put("meta", _key(_PARKED, part), token.encode())
        self._store.write(batch, sync=True)
        self.parked[part] = token

    def take(
        self, part: int, copying: Copying, rows: Sequence[Row], trimmed: int = 0, trimming: Trimming = NO_TRIM
    ) -> None:
        """Rows of a partition, with how far the copy is then, and what its owner knows of MEMORY's files.

        Who erases messages of the partition later must know of a trim that a killed broker left half done. What this
        store was told of one itself holds.
        """
        batch = self._store.batch()
        record = self.recorder.record
        same = copying.parked.created == self.recorder.synced.created  # of another stream it says nothing of this one
        if same and trimmed > record.trimmed():
            batch.put("meta", TRIMMED, keys.u64(trimmed))
        if same and trimming.server and not record.trimming().server:
            batch.put("meta", TRIMMING, _encode(trimming))
        for source, key, value in rows:
            batch.put(family_of(source), key, value)
        batch.put("meta", _key(_COPYING, part), _encode(copying))
        if copying.whole:
            batch.put("meta", b"reader:" + _reader(part).encode(), _encode(copying.parked))
        self._store.write(batch, sync=True)
        self.copying[part] = copying
        crashpoint("move:after-slice")

    def unpark(self, part: int) -> None:
        """The partition's own recorder is where the reader of all is: it rides from here on."""
        mine, reader = self.recorder, self.reader(part)
        invariant(reader.synced.seq >= mine.synced.seq, f"partition {part} has caught up")
        batch = self._store.batch()
        batch.delete("meta", _key(_PARKED, part))
        batch.delete("meta", b"reader:" + _reader(part).encode())
        mine.write_with(batch, epoch=max(mine.synced.epoch, reader.synced.epoch))
        mine.heads = {**mine.heads, part: reader.heads.get(part, Head())}
        self.parked.pop(part)
        self._follow()

    def forsake(self, part: int) -> None:
        """Whatever there is of a partition is not valid any more; `drop_some` deletes it then."""
        self._store.set_format(SHARED)
        batch = self._store.batch()
        for before in (_OWN, _PARKED, _COPYING):
            batch.delete("meta", _key(before, part))
        batch.delete("meta", b"reader:" + _reader(part).encode())
        self._store.write(batch, sync=True)
        for held in (self.owned, self.parked, self.copying):
            held.pop(part, None)
        self.closed.discard(part)
        self.recorder.heads = {each: head for each, head in self.recorder.heads.items() if each != part}
        self._follow()

    def drop_some(self, part: int, behind: Place = BEGINNING) -> Place | None:
        """Delete some of what was forsaken, behind a place; where it ended, None once nothing is left there."""
        invariant(part not in self.owned and part not in self.copying, f"partition {part} is dropped when forsaken")
        return drop_some(self._store, part, behind)

    def note_trimming(self, trimmed: int, trimming: Trimming) -> None:
        """What the shard that trims says of MEMORY's files."""
        record = self.recorder.record
        batch = self._store.batch()
        batch.put("meta", TRIMMED, keys.u64(max(trimmed, record.trimmed())))
        batch.put("meta", TRIMMING, _encode(trimming))
        self._store.write(batch, sync=True)


def _key(before: bytes, part: int) -> bytes:
    return before + keys.partition(part)


def _reader(part: int) -> str:
    return f"part-{part}"
