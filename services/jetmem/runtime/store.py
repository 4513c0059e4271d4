"""The port of an ordered key-value store, which every stateful stage has one of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

#: Does some work with a store on a thread that may, its writer's or a reader's, and gives back what it returns.
Work: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]


class WriteSet(Protocol):
    """Writes that happen together, or not at all."""

    raw: Any

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Set one key."""

    def delete(self, family: str, key: bytes) -> None:
        """Remove one key."""

    def __len__(self) -> int: ...


class Store(Protocol):
    """An ordered key-value store with column families; one writer thread, readers anywhere (`adapters.rocks.Rocks`)."""

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of one key, or None."""

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of many keys."""

    def scan(
        self, family: str, prefix: bytes, *, start: bytes | None = None, back: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with a prefix, in order from `start`, or backwards; a `start` outside them is their end."""

    def scan_each(self, family: str, prefixes: Sequence[bytes], most: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """For each prefix the first so many keys that begin with it."""

    def batch(self) -> WriteSet:
        """A new batch."""

    def write(self, batch: WriteSet, *, sync: bool) -> None:
        """Apply a batch."""

    def sync(self) -> None:
        """Make every write so far durable."""

    def compact(self) -> None:
        """Rewrite every file without what was erased."""

    def set_format(self, version: int) -> None:
        """From now on only versions of ours that know this format open it; on disk when this returns. Writer thread."""

    def disk_bytes(self) -> int:
        """Size on disk."""

    def close(self) -> None:
        """Let go."""
