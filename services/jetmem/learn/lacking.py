"""What learn lacks vectors for, as who asks embed wants it (`adapters.embed_asker.Lacks`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jetmem.learn.handler import Learner
from jetmem_schemas.internal import VectorsReady


class Lacking:
    """Tasks without a vector: a place is the entry that one came with, a key the hash of its text."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    @property
    def pending(self) -> Mapping[str, int]:
        """Per tenant, tasks that lack their vector."""
        return self._learner.vectors.pending

    def lacking(self, tenant: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Their places and keys, in the order they came."""
        return self._learner.vectors.lacking(tenant, after)

    def text_at(self, tenant: str, place: bytes, key: bytes) -> str | None:
        """A task's text; None if it was erased just now."""
        return self._learner.vectors.text_of(tenant, key)

    def store(self, ready: VectorsReady) -> int | None:
        """Store what came; None if it is another model's while ours is in use."""
        return self._learner.store_vectors(ready)
