"""What summarize needs of the world beside its store (`runtime.store`) and the record (`runtime.projection.Wire`)."""

from __future__ import annotations

from typing import Protocol


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
