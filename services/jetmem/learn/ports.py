"""What learn's writer needs of the world beside its store (`runtime.store`) and the record (`runtime.projection`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from jetmem.domain.procedures.run import Ran
from jetmem.learn.rows import ProcedureRow, Totals
from jetmem_schemas.waves import Topic


class Wave(NamedTuple):
    """What a run did: succeeded, failed, crystallised its procedure or dissolved it.

    `strength`: of an outcome, how far it is from what was expected, 0..1; of a crystal, its lower bound; of one that
    dissolved, the share of the last runs that failed.
    """

    topic: Topic
    run: Ran
    strength: float

    @property
    def arrived_ms(self) -> int:
        """When the broker got the run, epoch ms."""
        return self.run.arrived_ms


@dataclass(slots=True)
class News:
    """What a write changed of a tenant, by key; None: it is gone.

    Attributes:
        procedures: Their rows.
        tasks: Vectors, float32; of new tasks that have theirs.
        waves: What runs did, in the order of the log.
        erased: Whether runs or definitions were erased.
        sizes: Bytes of the procedures' rows.
        counted: What their rows add to what all procedures come to.
        totals: What those come to; None where none changed.
    """

    procedures: dict[bytes, ProcedureRow | None] = field(default_factory=dict)
    tasks: dict[bytes, bytes | None] = field(default_factory=dict)
    waves: list[Wave] = field(default_factory=list)
    erased: bool = False
    sizes: dict[bytes, int] = field(default_factory=dict)
    counted: Totals = field(default_factory=Totals)
    totals: Totals | None = None


class Hears(Protocol):
    """Holds in memory what questions are answered from (`boards.Boards`)."""

    def tell(self, tenant: str, news: News) -> None:
        """A write is done; told in the order of writes, and before anybody hears that they are applied."""

    def clear(self) -> None:
        """Everything was changed underneath."""
