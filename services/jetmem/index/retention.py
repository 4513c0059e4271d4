"""Nodes leave words and vectors when their time is over, and come back when it is not: by settings, clock and rows.

A node that is out keeps its row, so that a forget reaches it, and another setting brings it back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Final

from jetmem.index.core import leaves_at
from jetmem.index.names import Names
from jetmem.index.pieces import Pieces
from jetmem.index.redo import Redo
from jetmem.index.rows import Doc, Rows, nodes_of
from jetmem.index.tenants import Tenant, Tenants
from jetmem.runtime.clock import Clock
from jetmem_schemas import toc
from jetmem_schemas.retention import LevelRetention
from jetmem_schemas.subjects import owner, partition_of
from jetmem_schemas.tenants import Retention

#: Nodes of one turn: some 15 ms of the writer if all of them leave or come back, and 25 to 60 ms of the commit that
#: does their words; 1 ms if none does.
TURN: Final = 256
#: … of a dry run, on the read pool.
PAGE: Final = 1_000
_NOTHING: Final = Retention()


class Limits:
    """What tenants set, and what time it is. Changed on the writer thread, read from any."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, Retention] = {}

    def put(self, news: Mapping[str, Retention]) -> bool:
        """Note what holds now; whether anything else did before."""
        fresh = {tenant: retention for tenant, retention in news.items() if self.of(tenant) != retention}
        self._held.update(fresh)
        return bool(fresh)

    def of(self, tenant: str) -> Retention:
        """What holds for a tenant."""
        return self._held.get(tenant, _NOTHING)

    def limited(self) -> list[str]:
        """Tenants with a retention."""
        return [tenant for tenant, retention in list(self._held.items()) if retention != _NOTHING]

    def out(self, space: str, doc: Doc) -> bool:
        """Whether a node of a tenant's space is not to be in the index now."""
        return is_over(self.of(owner(space)), doc, self._clock.now_ms())


class Sweep:
    """Goes through the nodes of tenants and takes each out, or back. Writer thread only; ending anywhere is safe."""

    def __init__(self, rows: Rows, redo: Redo, tenants: Tenants, names: Names, pieces: Pieces, limits: Limits) -> None:
        self._rows = rows
        self._redo = redo
        self._tenants = tenants
        self._names = names
        self._pieces = pieces
        self._limits = limits
        #: By tenant, the key to go on from; b"" for the beginning.
        self._left: dict[str, bytes] = {}

    def due(self, parts: Collection[int]) -> list[str]:
        """Whoever set a retention, of these partitions, or has nodes out by an earlier one. Any thread."""
        found = dict.fromkeys(name for name in self._limits.limited() if partition_of(name) in parts)
        found |= dict.fromkeys(owner(space) for space, row in self._rows.tenants() if row.out)
        return list(found)

    def begin(self, tenants: Iterable[str]) -> None:
        """Go through the nodes of these from the beginning, and of nobody else."""
        self._left = dict.fromkeys(tenants, b"")

    def step(self) -> int | None:
        """One turn; how many nodes left or came back, None at the end."""
        name = next(iter(self._left), None)
        if name is None:
            return None
        tenant = self._tenants.get(nodes_of(name))
        page = list(islice(self._rows.docs_from(tenant.name, self._left[name]), TURN))
        if len(page) < TURN:
            del self._left[name]
        else:
            self._left[name] = page[-1][0] + b"\0"
        wrong = [doc for _, doc in page if doc.out != self._limits.out(tenant.name, doc)]
        if wrong:
            self._turn(tenant, wrong)
        return len(wrong)

    def _turn(self, tenant: Tenant, docs: list[Doc]) -> None:
        """Each is in if it was out, and out if it was in; words follow with the next commit."""
        batch = self._rows.store.batch()
        turned = [doc.turned() for doc in docs]
        back = [doc for doc in turned if not doc.out]
        self._pieces.expect(batch, [(tenant, doc) for doc in back])  # first: what both say keeps its vector
        for doc in docs:
            if not doc.out:
                self._pieces.drop(batch, tenant, doc)
        for doc in turned:
            self._rows.put_doc(batch, tenant.name, doc)
            self._redo.note(batch, tenant.name, doc.rseq)
            tenant.row.count_node(out=not doc.out, by=-1)
            tenant.row.count_node(out=doc.out, by=1)
        self._names.touch(tenant)
        self._names.flush(batch)
        self._rows.store.write(batch, sync=False)
        self._pieces.written()
        self._tenants.put_away_worn()


class Rehearsal:
    """What a retention would do to a tenant's nodes. Read pool.

    Attributes:
        levels: So far, from the root down.
    """

    def __init__(self, rows: Rows, tenant: str, retention: Retention, now_ms: int) -> None:
        self.levels: dict[str, LevelRetention] = {level: LevelRetention(retention.days(level)) for level in toc.LEVELS}
        self._rows = rows
        self._space = nodes_of(tenant)
        self._next = b""
        self._retention = retention
        self._now_ms = now_ms

    def some(self) -> bool:
        """Count some more; False at the end."""
        page = list(islice(self._rows.docs_from(self._space, self._next), PAGE))
        for key, doc in page:
            self._count(doc)
            self._next = key + b"\0"
        return len(page) == PAGE

    def _count(self, doc: Doc) -> None:
        level = toc.level_of(doc.id)
        if level is None:
            return
        counts = self.levels[level]
        over = is_over(self._retention, doc, self._now_ms)
        counts.out += doc.out
        counts.indexed += not doc.out
        counts.leaving += over and not doc.out
        counts.returning += doc.out and not over
        leaves = _leaves_at(self._retention, doc)
        if leaves is not None and not over:
            counts.next_ms = min(leaves, counts.next_ms or leaves)


def is_over(retention: Retention, doc: Doc, now_ms: int) -> bool:
    """Whether a node's time in the index is over."""
    leaves = _leaves_at(retention, doc)
    return leaves is not None and leaves <= now_ms


def _leaves_at(retention: Retention, doc: Doc) -> int | None:
    if doc.node is None or doc.node.pinned:
        return None
    return leaves_at(retention.days(toc.level_of(doc.id) or ""), doc.node.arrived)
