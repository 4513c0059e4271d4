"""What index keeps of a tenant in memory: numbers of sessions and authors, and once asked for, its vectors."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from jetmem.adapters.hnsw_graph import Graph
from jetmem.domain import fusion
from jetmem.index.rows import AuthorRow, Row, Rows, SessionRow, TenantRow
from jetmem.index.settings import IndexSettings
from jetmem.index.shelf import Floats, Shelf
from jetmem.runtime.stored_vectors import EMPTY_MARK
from jetmem_schemas.internal import Filters

_LOAD_CHUNK: Final = 2_000
#: Tenants whose sessions and authors are held in memory, some 100 bytes each of them.
_TENANTS_MAX: Final = 4_096
#: A shelf with more dead rows than live ones, and at least so many, is loaded again.
_DEAD_ROWS: Final = 10_000


@dataclass
class Tenant:
    """One tenant. Changed by the writer thread only; readers see whole values.

    Attributes:
        shelf: Its vectors, None until a search asks for them.
    """

    name: str
    row: TenantRow
    sessions: dict[tuple[str, str], SessionRow] = field(default_factory=dict)
    authors: dict[str, AuthorRow] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)
    named: dict[str, set[int]] = field(default_factory=dict)
    shelf: Shelf | None = None
    _missed: list[Callable[[Shelf], None]] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def sids(self, filters: Filters) -> frozenset[int] | None:
        """Numbers of the sessions that agent and session select; None for all."""
        if not filters.agent and not filters.session:
            return None
        if filters.agent and filters.session:
            held = self.sessions.get((filters.agent, filters.session))
            return frozenset((held.sid,) if held else ())
        return frozenset(
            row.sid
            for (agent, session), row in list(self.sessions.items())
            if filters.agent in ("", agent) and filters.session in ("", session)
        )

    def name_author(self, row: AuthorRow) -> None:
        """Make an author findable by any word of the name."""
        self.authors[row.name] = row
        for word in fusion.words(row.name):
            self.named.setdefault(word, set()).add(row.number)

    def unname_author(self, name: str) -> None:
        """Forget an author of whom nothing is left."""
        row = self.authors.pop(name)
        for word in fusion.words(name):
            self.named.get(word, set()).discard(row.number)

    def named_in(self, question: str) -> set[int]:
        """Numbers of the authors that a question names."""
        found: set[int] = set()
        for word in fusion.words(question):
            found |= self.named.get(word, set())
        return found

    def put(self, number: int, row: Row, vector: Floats) -> None:
        """Add one vector, if the vectors are in memory or on their way there."""
        self._change(lambda shelf: shelf.put(number, row, vector))

    def remove(self, number: int) -> None:
        """Erase one vector."""
        self._change(lambda shelf: shelf.remove(number))

    def _change(self, change: Callable[[Shelf], None]) -> None:
        with self._lock:
            if self._missed is not None:
                self._missed.append(change)
            elif self.shelf is not None:
                change(self.shelf)

    def opened(self, load: Callable[[str], Shelf]) -> Shelf:
        """The vectors, loaded if need be; what the writer changes meanwhile is not missed, and does not wait."""
        shelf = self.shelf
        if shelf is not None:
            return shelf
        with self._loading:
            if self.shelf is not None:
                return self.shelf
            with self._lock:
                self._missed = []
            try:
                fresh = load(self.name)
            except BaseException:
                self._missed = None
                raise
            with self._lock:
                for change in self._missed:
                    change(fresh)
                self._missed, self.shelf = None, fresh
            return fresh

    def put_away(self) -> None:
        """Drop the vectors from memory; they are loaded again when asked for."""
        with self._lock:
            self.shelf = None


class Tenants:
    """Tenants in memory, the longest unasked put away first."""

    def __init__(self, rows: Rows, settings: IndexSettings, graphs: Path) -> None:
        self._rows = rows
        self._settings = settings
        self._graphs = graphs
        self._held: OrderedDict[str, Tenant] = OrderedDict()
        self._lock = threading.Lock()
        self._files = threading.Lock()

    def get(self, name: str) -> Tenant:
        """A tenant without its vectors, loaded if need be (milliseconds: its sessions and authors)."""
        with self._lock:
            tenant = self._held.get(name)
            if tenant is None:
                tenant = self._load(name)
                self._held[name] = tenant
            self._held.move_to_end(name)
            return tenant

    def shelf(self, tenant: Tenant) -> Shelf:
        """A tenant's vectors, loaded if need be; only who asks for this tenant waits."""
        return tenant.opened(self._load_shelf)

    def shelves(self) -> list[tuple[str, Shelf]]:
        """The vectors in memory."""
        with self._lock:
            return [(t.name, t.shelf) for t in self._held.values() if t.shelf is not None]

    def clear(self) -> None:
        """Put all away: the store was changed underneath. Graphs are of what was there before."""
        with self._lock:
            self._held.clear()
        with self._files:
            shutil.rmtree(self._graphs, ignore_errors=True)

    def trim(self) -> None:
        """Put away the longest unasked. Writer thread only, between writes: what is loaded again reads the store."""
        if len(self._held) <= min(_TENANTS_MAX, self._settings.shelves_max):
            return
        with self._lock:
            while len(self._held) > _TENANTS_MAX:
                self._held.popitem(last=False)
            loaded = [t for t in self._held.values() if t.shelf is not None]
        for tenant in loaded[: max(0, len(loaded) - self._settings.shelves_max)]:
            tenant.put_away()

    def put_away_worn(self) -> None:
        """Drop shelves with more dead rows than live ones. Writer thread only."""
        with self._lock:
            held = list(self._held.values())
        for tenant in held:
            shelf = tenant.shelf
            if shelf is not None and shelf.dead >= _DEAD_ROWS and shelf.dead > shelf.count // 2:
                tenant.put_away()

    def snapshot(self, name: str, shelf: Shelf) -> bool:
        """Write a graph if there is one and it changed."""
        with self._files:
            graph = shelf.graph
            if graph is None or not shelf.dirty:
                return False
            shelf.dirty = False
            self._rows.store.sync()  # numbers that the graph knows must not be given again after a power failure
            graph.save(self._graphs / name, self._rows.model())
            return True

    def drop_graph(self, name: str) -> None:
        """Remove a tenant's graph from memory and disk: it may hold what was erased."""
        with self._lock:
            tenant = self._held.get(name)
        if tenant is not None and tenant.shelf is not None:
            tenant.shelf.drop_graph()
        with self._files:
            shutil.rmtree(self._graphs / name, ignore_errors=True)

    def _make_graph(self, dimensions: int) -> Graph:
        s = self._settings
        return Graph(dimensions, s.hnsw_m, s.hnsw_ef_construction, s.hnsw_ef_search)

    def _load(self, name: str) -> Tenant:
        tenant = Tenant(name, self._rows.tenant(name))
        for agent, session, row in self._rows.sessions(name):
            tenant.sessions[(agent, session)] = row
            tenant.newest[row.sid] = row.newest
        for author in self._rows.authors(name):
            tenant.name_author(author)
        return tenant

    def _load_shelf(self, name: str) -> Shelf:
        shelf = Shelf(self._make_graph, self._settings.exact_max)
        chunk: list[tuple[int, Row]] = []
        for placed in self._rows.rows(name):
            chunk.append(placed)
            if len(chunk) == _LOAD_CHUNK:
                self._fill(shelf, name, chunk)
                chunk.clear()
        self._fill(shelf, name, chunk)
        if shelf.count > self._settings.exact_max:
            graph = self._make_graph(shelf.dimensions)
            if graph.load(self._graphs / name, self._rows.model(), shelf.live_numbers(), shelf.numbers_end):
                shelf.graph = graph
        return shelf

    def _fill(self, shelf: Shelf, name: str, chunk: list[tuple[int, Row]]) -> None:
        found = self._rows.vectors(name, [row.hash for _, row in chunk])
        held = [(n, r, raw) for (n, r), raw in zip(chunk, found, strict=True) if raw and not raw.startswith(EMPTY_MARK)]
        if held:
            joined = b"".join([raw[1:] for _, _, raw in held])
            matrix = np.frombuffer(joined, dtype=np.float32).reshape(len(held), -1)
            shelf.fill([n for n, _, _ in held], [r for _, r, _ in held], matrix)
