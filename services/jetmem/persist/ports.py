"""What persist needs of the world beside a store (`runtime.store`)."""

from __future__ import annotations

from typing import Protocol


class Message(Protocol):
    """One message of MEMORY; see `adapters.nats_reader.Delivered`."""

    @property
    def subject(self) -> str:
        """As MEMORY stores it."""

    @property
    def data(self) -> bytes:
        """The payload."""

    @property
    def headers(self) -> dict[str, str]:
        """The sender's headers, as far as they can be read."""

    @property
    def seq(self) -> int:
        """Its sequence in MEMORY."""

    @property
    def at(self) -> int:
        """The broker's time, epoch ms."""
