"""Nearest neighbours in large tenants, through hnswlib. The graph is disposable: vectors live in RocksDB.

hnswlib's search beside add is not thread-safe, so a lock guards it; who cannot have the lock at once scans exactly
instead (a snapshot holds it for a second). Its file format has no checksum, so ours has a manifest.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import hnswlib
import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.runtime.crashpoints import crashpoint

#: How long a search waits for the graph before it scans instead.
_LOCK_WAIT_S = 0.01


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot file holds; it covers the rows with numbers below `rows`."""

    model: str
    dimensions: int
    rows: int
    links: int
    sha256: str


class Graph:
    """HNSW over rows of one shelf, by inner product of normalised vectors.

    Attributes:
        rows: Rows with numbers below this are covered.
        linked: Rows in the graph, those removed since included.
        deleted: Rows removed since they were linked.
    """

    def __init__(self, dimensions: int, links: int, ef_construction: int, ef_search: int) -> None:
        self.rows = 0
        self.linked = 0
        self.deleted = 0
        self._dimensions = dimensions
        self._links = links
        self._ef_construction = ef_construction
        self._ef_search = ef_search
        self._lock = threading.Lock()
        self._index: Any = None

    def extend(self, vectors: NDArray[np.float32], rows: NDArray[np.int64], upto: int) -> None:
        """Add rows (n, dimensions) under their numbers; the graph then covers numbers below `upto`."""
        with self._lock:
            if self._index is None:
                self._index = hnswlib.Index(space="ip", dim=self._dimensions)
                self._index.init_index(
                    max_elements=max(1024, len(rows) * 2),
                    M=self._links,
                    ef_construction=self._ef_construction,
                    allow_replace_deleted=False,
                )
                self._index.set_ef(self._ef_search)
            if self._index.get_current_count() + len(rows) > self._index.get_max_elements():
                self._index.resize_index((self._index.get_current_count() + len(rows)) * 2)
            if len(rows):
                self._index.add_items(vectors, rows, num_threads=1)
                self.linked += len(rows)
            self.rows = upto

    def remove(self, row: int) -> None:
        """Take one row out of every answer."""
        with self._lock:
            if self._index is None or row >= self.rows:
                return
            try:
                self._index.mark_deleted(row)
                self.deleted += 1
            except RuntimeError:  # not in the graph, or removed before
                return

    def nearest(self, vector: NDArray[np.float32], count: int) -> NDArray[np.int64] | None:
        """Rows nearest to a vector, at most `count`; None if the graph is busy or cannot answer: scan instead."""
        if not self._lock.acquire(timeout=_LOCK_WAIT_S):
            return None
        try:
            alive = self.linked - self.deleted
            if alive <= 0:
                return np.empty(0, dtype=np.int64)
            self._index.set_ef(max(self._ef_search, count))
            labels, _ = self._index.knn_query(vector, k=min(count, alive), num_threads=1)
            return np.asarray(labels[0], dtype=np.int64)
        except RuntimeError:  # fewer reachable than asked for
            return None
        finally:
            self._lock.release()

    def save(self, folder: Path, model: str) -> None:
        """Write a snapshot: temporary file, sync, manifest, rename. One at a time for a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / "graph.new"
        with self._lock:
            if self._index is None:
                return
            self._index.save_index(str(fresh))
            rows = self.rows
        manifest = Manifest(model, self._dimensions, rows, self._links, _digest(fresh))
        _sync(fresh)
        note = folder / "manifest.new"
        note.write_bytes(msgspec.json.encode(manifest))
        _sync(note)
        crashpoint("index:before-snapshot-rename")
        fresh.rename(folder / "graph.bin")
        note.rename(folder / "manifest.json")

    def load(self, folder: Path, model: str, alive: NDArray[np.int64], upto: int) -> bool:
        """Read a snapshot of this model; False if there is none to trust.

        Args:
            folder: Where `save` wrote it.
            model: Of the vectors.
            alive: Numbers of the rows that exist; others in the snapshot are taken out of every answer.
            upto: A snapshot that covers more is of a later state than the rows are.
        """
        try:
            manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError):
            return False
        same = (manifest.model, manifest.dimensions, manifest.links) == (model, self._dimensions, self._links)
        if not same or manifest.rows > upto or _digest(folder / "graph.bin") != manifest.sha256:
            return False
        index = hnswlib.Index(space="ip", dim=self._dimensions)
        index.load_index(str(folder / "graph.bin"), max_elements=max(1024, 2 * len(alive)))
        index.set_ef(self._ef_search)
        held = np.array(index.get_ids_list(), dtype=np.int64)
        gone = np.setdiff1d(held, alive)
        for row in gone:
            _take_out(index, int(row))
        self._index, self.rows, self.linked, self.deleted = index, manifest.rows, len(held), len(gone)
        return True


def _take_out(index: Any, row: int) -> None:
    try:
        index.mark_deleted(row)
    except RuntimeError:  # the snapshot has it as removed
        return


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
