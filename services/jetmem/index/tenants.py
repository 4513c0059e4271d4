"""What index keeps of a tenant in memory: numbers of sessions and authors, last words, its shelf of vectors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from jetmem.adapters.hnsw_graph import Graph
from jetmem.domain import fusion
from jetmem.index.rows import EMPTY_MARK, Row, Rows, SessionRow, TenantRow
from jetmem.index.settings import IndexSettings
from jetmem.index.shelf import Shelf
from jetmem_schemas.internal import Filters

#: Length of all-MiniLM-L6-v2's vectors; other models set their own with the first vector that comes.
_DIMENSIONS: Final = 384
_LOAD_CHUNK: Final = 2_000


@dataclass
class Tenant:
    """One tenant. Changed by the writer thread only; readers see whole values."""

    name: str
    row: TenantRow
    sessions: dict[tuple[str, str], SessionRow]
    authors: dict[str, int]
    newest: dict[int, int]
    shelf: Shelf
    named: dict[str, set[int]] = field(default_factory=dict)
    tails: OrderedDict[int, list[tuple[int, list[str]]]] = field(default_factory=OrderedDict)

    def sids(self, filters: Filters) -> frozenset[int] | None:
        """Numbers of the sessions that agent and session select; None for all."""
        if not filters.agent and not filters.session:
            return None
        return frozenset(
            row.sid
            for (agent, session), row in list(self.sessions.items())
            if filters.agent in ("", agent) and filters.session in ("", session)
        )

    def name_author(self, name: str, number: int) -> None:
        """Make an author findable by any word of the name."""
        self.authors[name] = number
        for word in fusion.words(name):
            self.named.setdefault(word, set()).add(number)

    def named_in(self, question: str) -> set[int]:
        """Numbers of the authors that a question names."""
        found: set[int] = set()
        for word in fusion.words(question):
            found |= self.named.get(word, set())
        return found


class Tenants:
    """Tenants in memory, the longest unasked put away first. Loading is guarded, so there is one of each."""

    def __init__(self, rows: Rows, settings: IndexSettings, graphs: Path) -> None:
        self._rows = rows
        self._settings = settings
        self._graphs = graphs
        self._held: OrderedDict[str, Tenant] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Tenant:
        """A tenant, loaded if need be (some 100,000 vectors a second)."""
        with self._lock:
            tenant = self._held.get(name)
            if tenant is None:
                tenant = self._load(name)
                self._held[name] = tenant
            self._held.move_to_end(name)
            return tenant

    def held(self) -> list[Tenant]:
        """Tenants in memory."""
        with self._lock:
            return list(self._held.values())

    def clear(self) -> None:
        """Put all away without snapshots: the store was changed underneath."""
        with self._lock:
            self._held.clear()

    def graph_folder(self, name: str) -> Path:
        """Where a tenant's graph is kept."""
        return self._graphs / name

    def snapshot(self, tenant: Tenant) -> bool:
        """Write a tenant's graph if there is one and it changed."""
        if not tenant.shelf.dirty or tenant.shelf.graph.rows == 0:
            return False
        tenant.shelf.dirty = False
        tenant.shelf.graph.save(self.graph_folder(tenant.name), self._rows.model())
        return True

    def _make_graph(self) -> Graph:
        s = self._settings
        return Graph(_DIMENSIONS, s.hnsw_m, s.hnsw_ef_construction, s.hnsw_ef_search)

    def trim(self) -> None:
        """Put away the longest unasked. Writer thread only, between writes: a tenant loaded again reads the store."""
        while len(self._held) > self._settings.shelves_max:
            with self._lock:
                _, oldest = self._held.popitem(last=False)
            self.snapshot(oldest)

    def _load(self, name: str) -> Tenant:
        sessions: dict[tuple[str, str], SessionRow] = {}
        newest: dict[int, int] = {}
        for agent, session, row in self._rows.sessions(name):
            sessions[(agent, session)] = row
            newest[row.sid] = row.newest
        shelf = Shelf(_DIMENSIONS, self._make_graph, self._settings.exact_max)
        tenant = Tenant(name, self._rows.tenant(name), sessions, {}, newest, shelf)
        for author, number in self._rows.authors(name):
            tenant.name_author(author, number)
        self._fill(tenant)
        return tenant

    def _fill(self, tenant: Tenant) -> None:
        chunk: list[tuple[int, Row]] = []
        for placed in self._rows.rows(tenant.name):
            chunk.append(placed)
            if len(chunk) == _LOAD_CHUNK:
                self._put(tenant, chunk)
                chunk.clear()
        self._put(tenant, chunk)
        if tenant.shelf.count > self._settings.exact_max:
            folder = self.graph_folder(tenant.name)
            if tenant.shelf.graph.load(folder, self._rows.model(), tenant.shelf.count):
                gone = np.flatnonzero(~tenant.shelf.alive[: tenant.shelf.graph.rows])
                for row in gone:
                    tenant.shelf.graph.remove(int(row))
        tenant.shelf.dirty = False

    def _put(self, tenant: Tenant, chunk: list[tuple[int, Row]]) -> None:
        vectors = self._rows.vectors(tenant.name, [row.hash for _, row in chunk])
        for (number, row), raw in zip(chunk, vectors, strict=True):
            if raw is not None and not raw.startswith(EMPTY_MARK):
                tenant.shelf.put(number, row, np.frombuffer(raw[1:], dtype=np.float32))
