"""What a projection notes of itself in `meta` of its store: how far it has come, and of which model its vectors are."""

from __future__ import annotations

from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.runtime.store import Store, WriteSet
from jetmem_schemas.internal import Head

_AT: Final = b"at:"
_MODEL: Final = b"model"
_DIMENSIONS: Final = b"dimensions"

_encode = msgspec.msgpack.Encoder().encode


class MetaRows:
    """Reads of the store, from any thread; single-row writes into a batch of the writer's."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def position(self, part: int) -> Head:
        """Checkpoint of a partition."""
        raw = self.store.get("meta", _AT + keys.partition(part))
        return msgspec.msgpack.decode(raw, type=Head) if raw else Head()

    def set_position(self, batch: WriteSet, part: int, head: Head) -> None:
        """Set the checkpoint, in the same write as what it covers."""
        batch.put("meta", _AT + keys.partition(part), _encode(head))


class ModelRows(MetaRows):
    """The same of a projection with vectors, which are all of one model (`runtime.models`)."""

    def model(self) -> str:
        """The model that the vectors are of; "" before the first."""
        return (self.store.get("meta", _MODEL) or b"").decode()

    def set_model(self, batch: WriteSet, model: str) -> None:
        """Note another model; its first vector says how long they are."""
        batch.put("meta", _MODEL, model.encode())
        batch.delete("meta", _DIMENSIONS)

    def dimensions(self) -> int:
        """Length of the model's vectors; 0 before the first."""
        return int(self.store.get("meta", _DIMENSIONS) or b"0")

    def set_dimensions(self, batch: WriteSet, dimensions: int) -> None:
        """Note how long the model's vectors are."""
        batch.put("meta", _DIMENSIONS, str(dimensions).encode())
