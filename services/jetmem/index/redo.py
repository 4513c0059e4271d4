"""Documents whose words must be indexed again: in the rows until a commit of words that holds them has ended.

Writer thread only.
"""

from __future__ import annotations

from collections.abc import Collection

from jetmem.domain import keys
from jetmem.runtime.store import Store, WriteSet
from jetmem_schemas.subjects import owner, partition_of


class Redo:
    """Of one store. What is noted anew while a commit is under way is not in that commit, and stays."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._under_way: dict[int, set[bytes]] = {}

    def note(self, batch: WriteSet, space: str, rseq: int) -> None:
        """One document, with whatever changed it."""
        part = partition_of(owner(space))
        key = keys.log(part, rseq)
        batch.put("redo", key, space.encode())
        self._under_way.get(part, set()).discard(key)

    def due(self, part: int, upto: int) -> list[tuple[int, str]]:
        """Numbers and spaces of what is noted, in order, but of what lies behind `upto`: its words are yet to come."""
        found = self._store.scan("redo", keys.partition(part))
        noted = ((keys.from_u64(key[1:]), space.decode()) for key, space in found)
        return [(rseq, space) for rseq, space in noted if rseq <= upto]

    def begin(self, part: int, rseqs: Collection[int]) -> None:
        """A commit that holds these begins."""
        self._under_way[part] = {keys.log(part, rseq) for rseq in rseqs}

    def end(self, part: int) -> None:
        """It has ended."""
        done = self._under_way.pop(part, set())
        if done:
            batch = self._store.batch()
            for key in sorted(done):
                batch.delete("redo", key)
            self._store.write(batch, sync=False)

    def drop(self, part: int) -> None:
        """What is under way does not count."""
        self._under_way.pop(part, None)
