"""What index needs of the world beside its stores (`runtime.store`, `runtime.projection.Wire`)."""

from __future__ import annotations

from typing import Protocol


class Splitter(Protocol):
    """Cuts a long text into passages that fit the encoder's window."""

    def split(self, text: str) -> list[str]:
        """Literal substrings in order, at least one and at most `limits.PASSAGES_MAX`; short texts as they are."""
