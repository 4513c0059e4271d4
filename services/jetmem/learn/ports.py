"""What learn's writer needs of the world beside its store (`runtime.store`) and the record (`runtime.projection`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from jetmem.domain.procedures.statistics import Statistics


@dataclass(slots=True)
class News:
    """What a write changed of a tenant, by key; None: it is gone.

    Attributes:
        procedures: Name and counts.
        tasks: Vectors, float32; of new tasks that have theirs.
    """

    procedures: dict[bytes, tuple[str, Statistics] | None] = field(default_factory=dict)
    tasks: dict[bytes, bytes | None] = field(default_factory=dict)


class Hears(Protocol):
    """Holds in memory what questions are answered from (`boards.Boards`)."""

    def tell(self, tenant: str, news: News) -> None:
        """A write is done; told in the order of writes, and before anybody hears that they are applied."""

    def clear(self) -> None:
        """Everything was changed underneath."""
