"""What index lacks vectors for, as who asks embed wants it (`adapters.embed_asker.Lacks`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jetmem.index.handler import Indexer
from jetmem.index.rows import text_hash
from jetmem_schemas.internal import VectorsReady


class Lacking:
    """Passages without a vector: a place is a passage's, a key the hash of its text."""

    def __init__(self, indexer: Indexer) -> None:
        self._indexer = indexer

    @property
    def pending(self) -> Mapping[str, int]:
        """Per tenant, passages that lack their vector."""
        return self._indexer.pieces.pending

    def lacking(self, tenant: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Their places and texts' hashes, in the order they were said."""
        start = max(after, self._indexer.pieces.start(tenant))
        for place, _, digest in self._indexer.rows.pending(tenant, start):
            yield place, digest

    def text_at(self, tenant: str, place: bytes, key: bytes) -> str | None:
        """The text of a passage; None if its document was erased just now, or is split otherwise than it was."""
        doc = self._indexer.rows.doc(tenant, int.from_bytes(place[:8]))
        texts = self._indexer.pieces.texts(doc) if doc is not None else []
        text = texts[place[8]] if place[8] < len(texts) else None
        return text if text is not None and text_hash(text) == key else None

    def store(self, ready: VectorsReady) -> int | None:
        """Store what came; None if it is another model's while ours is in use."""
        return self._indexer.store_vectors(ready)
