"""The word indexes of a shard, one for each partition that holds anything.

Apart, because BM25 takes its statistics over a whole index, and because a partition is rewritten, dropped or moved
alone. Each that was written since the start keeps a writer with seven threads; a commit is some 9 ms, half of them
spent on waiting for the disk, so those that changed are committed side by side, and what comes for one meanwhile waits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from jetmem.adapters.tantivy_text import TextDoc, TextHit, TextIndex
from jetmem_schemas.internal import Filters, Head

#: Commits side by side: they wait for the disk more than they compute.
_COMMITS_AT_ONCE: Final = 8


class TextIndexes:
    """One `TextIndex` a partition. Everything but `search` and `head` from one thread."""

    def __init__(self, folder: Path, parts: Iterable[int], heap_bytes: int) -> None:
        """Open what there is of these partitions.

        Raises:
            Broken: One is damaged.
        """
        self._folder = folder
        self._heap_bytes = heap_bytes
        self._pool = ThreadPoolExecutor(_COMMITS_AT_ONCE, "text commit")
        self._held: dict[int, TextIndex] = {}
        self._committing: dict[int, Future[None]] = {}
        self._waiting: dict[int, list[Callable[[TextIndex], None]]] = {}
        for part in parts:
            for left in (self._beside(part, "new"), self._beside(part, "old")):
                shutil.rmtree(left, ignore_errors=True)
            if self._path(part).exists():
                self._held[part] = TextIndex(self._path(part), heap_bytes)

    def _path(self, part: int) -> Path:
        return self._folder / f"{part:02}"

    def _beside(self, part: int, what: str) -> Path:
        return self._folder / f"{part:02}.{what}"

    def _change(self, part: int, change: Callable[[TextIndex], None]) -> None:
        """Now, or once the commit that is under way has ended: it must hold what its checkpoint says, no more."""
        if part in self._committing:
            self._waiting.setdefault(part, []).append(change)
        else:
            change(self._at(part))

    def _at(self, part: int) -> TextIndex:
        held = self._held.get(part)
        if held is None:
            held = self._held[part] = TextIndex(self._path(part), self._heap_bytes)
        return held

    def head(self, part: int) -> Head:
        """The checkpoint of a partition's last commit."""
        held = self._held.get(part)
        return held.head() if held else Head()

    def add(self, part: int, doc: TextDoc) -> None:
        """Add one document; searchable after `commit`."""
        self._change(part, lambda index: index.add(doc))

    def delete(self, part: int, key: int) -> None:
        """Remove one document, present or not; its words stay in the files until they are rewritten."""
        self._change(part, lambda index: index.delete(key))

    def cut(self, part: int, at: Head) -> None:
        """Remove what lies behind a position, and make that the checkpoint."""
        self._change(part, lambda index: index.delete_after(at.rseq))
        self.commit({part: at})

    def commit(self, heads: Mapping[int, Head]) -> None:
        """Make the changes of these partitions durable and searchable, each with its checkpoint."""
        for part, head in heads.items():
            self.begin(part, head)
        for part in heads:
            self.end(part)

    def begin(self, part: int, head: Head) -> Future[None]:
        """Have a partition committed by another thread, up to here; then comes `end`. None may be under way."""
        commit = self._pool.submit(partial(self._at(part).commit, head))
        self._committing[part] = commit
        return commit

    def end(self, part: int) -> None:
        """Wait until a commit has ended; what came meanwhile is in the index then, and not committed."""
        self._committing.pop(part).result()
        for change in self._waiting.pop(part, []):
            change(self._at(part))

    def search(
        self,
        part: int,
        tenant: str,
        tokens: Sequence[str],
        field: str,
        limit: int,
        *,
        tenant_docs: int,
        filters: Filters,
        nodes: bool = False,
    ) -> list[TextHit]:
        """As `TextIndex.search`."""
        held = self._held.get(part)
        if held is None:
            return []
        return held.search(tenant, tokens, field, limit, tenant_docs=tenant_docs, filters=filters, nodes=nodes)

    def words_held(self, part: int, tenant: str, token: str) -> int:
        """Documents in the files with a word of a tenant, deleted ones included."""
        held = self._held.get(part)
        return held.words_held(tenant, token) if held else 0

    def fresh(self, part: int) -> TextIndex:
        """An empty index beside a partition's own, to be filled and given to `replace`."""
        path = self._beside(part, "new")
        shutil.rmtree(path, ignore_errors=True)
        return TextIndex(path, self._heap_bytes)

    def replace(self, part: int, fresh: TextIndex, at: Head) -> None:
        """Put an index from `fresh` in place of the one in use, whose changes are all committed.

        If we die between the two renames none is in place; it is then filled by `scan`.
        """
        fresh.commit(at)
        fresh.rest()
        self._put_away(part)
        fresh.path.rename(self._path(part))
        self._held[part] = TextIndex(self._path(part), self._heap_bytes)
        shutil.rmtree(self._beside(part, "old"), ignore_errors=True)

    def drop(self, part: int) -> None:
        """Remove all of a partition, committed or not; also what a process left that died while it rewrote it."""
        self._put_away(part)
        for left in (self._beside(part, "new"), self._beside(part, "old")):
            shutil.rmtree(left, ignore_errors=True)

    def _put_away(self, part: int) -> None:
        if part in self._committing:
            self._committing.pop(part).result()
        self._waiting.pop(part, None)
        held = self._held.pop(part, None)
        if held is not None:
            held.rest()
        old = self._beside(part, "old")
        shutil.rmtree(old, ignore_errors=True)
        if self._path(part).exists():
            self._path(part).rename(old)  # all at once: a half removed index is damaged

    def close(self) -> None:
        """Let merges end and the locks go."""
        self._pool.shutdown()
        for held in self._held.values():
            held.rest()
