"""What persist needs of the world beside a store (`runtime.store`)."""

from __future__ import annotations

from typing import Protocol


class Message(Protocol):
    """One message of MEMORY; see `adapters.nats_reader.Delivered`."""

    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> dict[str, str] | None: ...
    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> int: ...
