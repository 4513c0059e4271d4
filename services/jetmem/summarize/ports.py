"""What summarize needs of the world beside its store (`runtime.store`) and the record (`runtime.projection.Wire`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jetmem.adapters.chat_endpoint import Reply
from jetmem_schemas.internal import EntryVectorsReply


class Analyzer(Protocol):
    """Text to words as the word index takes them, so that questions and nodes agree."""

    def __call__(self, text: str) -> list[str]:
        """Stems in order, without stop words."""


class EntryVectors(Protocol):
    """Asks index for the vectors of a tenant's entries (`index_vectors.IndexVectors`)."""

    async def __call__(self, tenant: str, rseqs: list[int]) -> EntryVectorsReply:
        """At most `limits.VECTORS_AT_ONCE`; none tells up to where there are any.

        Raises:
            RequestFailed: index does not answer.
        """


class Chat(Protocol):
    """A model behind an OpenAI-compatible endpoint (`adapters.chat_endpoint.ChatEndpoint`)."""

    async def ask(self, messages: Sequence[dict[str, str]], schema: dict[str, Any], tokens_max: int) -> Reply:
        """The reply to one question.

        Raises:
            EndpointBusy: Later.
            EndpointRefused: Not as it is set up.
            BadReply: What came is no reply.
        """

    async def close(self) -> None:
        """Let go."""


class Publish(Protocol):
    """Hands a message to MEMORY."""

    async def __call__(self, subject: str, body: bytes) -> int:
        """Publish; its MEMORY sequence once it is acknowledged.

        Raises:
            Retryable: It was refused, or nobody answered.
        """


class Group(Protocol):
    """Finds groups of vectors; see `adapters.density_clusters.grouped`."""

    async def __call__(self, vectors: NDArray[np.float32]) -> list[int]:
        """The number of each row's group; negative for none.

        Raises:
            Retryable: Not now.
        """
