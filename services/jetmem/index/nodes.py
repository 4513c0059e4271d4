"""Nodes of the table of contents in the rows: the newest version of each, in a space of its own beside the events."""

from __future__ import annotations

from collections.abc import Sequence

from jetmem.index.arrivals import Arrivals
from jetmem.index.core import Told, told_of
from jetmem.index.names import Names
from jetmem.index.pieces import Pieces
from jetmem.index.redo import Redo
from jetmem.index.retention import Limits
from jetmem.index.rows import Doc, OfNode, Rows, nodes_of
from jetmem.index.tenants import Tenant, Tenants
from jetmem.runtime.store import WriteSet
from jetmem_schemas.events import epoch_ms
from jetmem_schemas.internal import Entry, Filters


class Nodes:
    """Takes versions of nodes in the order of the log, in which the later of an id is the newer. Writer thread only."""

    def __init__(
        self, rows: Rows, redo: Redo, tenants: Tenants, names: Names, pieces: Pieces, arrivals: Arrivals, limits: Limits
    ) -> None:
        self._rows = rows
        self._redo = redo
        self._tenants = tenants
        self._names = names
        self._pieces = pieces
        self._arrivals = arrivals
        self._limits = limits

    def take(self, batch: WriteSet, part: int, entries: Sequence[Entry]) -> list[Doc]:
        """Put each node in place of its older version, whose words go with the next commit; what was put.

        Once a batch: of several versions in it the last counts.
        """
        fresh: list[tuple[Tenant, Doc]] = []
        replaced: list[tuple[Tenant, Doc]] = []
        for entry in {(e.tenant, e.id): e for e in entries if e.kind == "derived"}.values():
            tenant = self._tenants.get(nodes_of(entry.tenant))
            old = self._rows.node(tenant.name, entry.id)
            if old is not None:
                replaced.append((tenant, old))
                self._redo.note(batch, tenant.name, old.rseq)
                self._rows.drop_node(batch, tenant.name, old.id)
            told = told_of(entry)
            if told is not None:
                doc = _doc_of(entry, told, self._arrivals.of(part, told.newest(entry.rseq)))
                doc = doc.turned() if self._limits.out(tenant.name, doc) else doc
                self._rows.put_node(batch, tenant.name, doc)
                tenant.row.count_node(out=doc.out, by=1)
                self._names.touch(tenant)
                fresh.append((tenant, doc))
        self._pieces.expect(batch, fresh)  # before the older ones go: what both say keeps its vector
        for tenant, old in replaced:
            self._drop(batch, tenant, old)
        return [doc for _, doc in fresh]

    def erase(self, batch: WriteSet, name: str, gone: Sequence[int]) -> bool:
        """Erase what of these entries is a node of this tenant; whether any is."""
        docs = [doc for doc in self._rows.docs(nodes_of(name), gone) if doc is not None]
        for doc in docs:
            tenant = self._tenants.get(nodes_of(name))
            self._rows.drop_node(batch, tenant.name, doc.id)
            self._drop(batch, tenant, doc)
        return bool(docs)

    def _drop(self, batch: WriteSet, tenant: Tenant, doc: Doc) -> None:
        self._rows.drop_doc(batch, tenant.name, doc)
        self._pieces.drop(batch, tenant, doc)
        tenant.row.count_node(out=doc.out, by=-1)
        self._names.touch(tenant)


def _doc_of(entry: Entry, told: Told, arrived: int) -> Doc:
    start = 0 if told.start is None else epoch_ms(told.start)
    end = start if told.end is None else epoch_ms(told.end)
    session = told.session if told.level == "segment" else ""
    return Doc(
        entry.id, entry.rseq, entry.seq, end, "", session, entry.rseq, 0, "", 0, told.kind, "",
        [*(_agent(name) for name in told.agents), *([_session(session)] if session else [])],
        told.text, node=OfNode(start, told.open, arrived, told.pinned),
    )  # fmt: skip


def narrowed(filters: Filters) -> Filters:
    """A question's filters as a node's document is compared with them, but for `until`: see `begins_before`.

    A node has no author, role or tags; its time is a span, of which `ts` is the end.
    """
    tags = [
        *([_agent(filters.agent)] if filters.agent else []),
        *([_session(filters.session)] if filters.session else []),
    ]
    return Filters(kinds=filters.kinds, tags=tags, since=filters.since)


def begins_before(doc: Doc, until: int | None) -> bool:
    """Whether a node begins before a time."""
    return until is None or doc.node is None or doc.node.start < until


def _agent(name: str) -> str:
    return f"agent:{name}"


def _session(name: str) -> str:
    return f"session:{name}"
