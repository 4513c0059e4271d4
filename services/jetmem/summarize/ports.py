"""What summarize needs of the world beside its store (`runtime.store`) and the record (`runtime.projection.Wire`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jetmem_schemas.internal import EntryVectorsReply


class Analyzer(Protocol):
    """Text to words as the word index takes them, so that questions and nodes agree."""

    def __call__(self, text: str) -> list[str]:
        """Stems in order, without stop words."""


class Publish(Protocol):
    """Hands a message to MEMORY."""

    async def __call__(self, subject: str, body: bytes) -> int:
        """Publish; its MEMORY sequence once it is acknowledged.

        Raises:
            Retryable: It was refused, or nobody answered.
        """


class EntryVectors(Protocol):
    """Vectors of what was said; see `index_vectors.IndexVectors`."""

    async def of(self, tenant: str, rseqs: Sequence[int]) -> EntryVectorsReply:
        """Vectors of at most `limits.VECTORS_AT_ONCE` entries.

        Raises:
            RequestFailed: Index does not answer.
        """


class Group(Protocol):
    """Finds groups of vectors; see `adapters.density_clusters.grouped`."""

    async def __call__(self, vectors: NDArray[np.float32]) -> list[int]:
        """The number of each row's group; negative for none.

        Raises:
            Retryable: Not now.
        """
