"""Rewrite the word index, so that no erased word stays in its files: slice by slice, beside the one in use.

tantivy-py exposes no merge. A second index is filled from the documents on the writer thread, between other work;
what changes meanwhile is noted and done again at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import islice
from typing import Final

import msgspec

from jetmem.adapters.tantivy_text import TextIndex
from jetmem.index.core import text_key
from jetmem.index.rows import Doc, Rows
from jetmem.index.words import Words
from jetmem_schemas.internal import Head

#: Documents of one slice: some 50 ms, what other work waits.
_SLICE: Final = 1_000
_doc = msgspec.msgpack.Decoder(Doc).decode


class Rewrite:
    """One rewriting. Writer thread only.

    Attributes:
        erased: What each tenant forgot last when it began; later forgets need another one.
    """

    def __init__(
        self, rows: Rows, text: TextIndex, heap_bytes: int, erased: Mapping[str, int], taken: Mapping[int, Head]
    ) -> None:
        self.erased = dict(erased)
        self._taken = taken
        self._rows = rows
        self._used = text
        self._path = text.path.with_name("text.new")
        shutil.rmtree(self._path, ignore_errors=True)
        self._fresh = TextIndex(self._path, heap_bytes)
        self._words = Words(rows, self._fresh)
        self._after = b""
        self._filled = False
        self._touched: dict[tuple[int, str, int], None] = {}

    def touch(self, part: int, tenant: str, rseq: int) -> None:
        """The index in use was given or lost this document."""
        self._touched[(part, tenant, rseq)] = None

    def step(self) -> bool:
        """One slice; True when the rest is small enough for `finish`."""
        if not self._filled:
            self._fill()
            return False
        for place in list(islice(self._touched, _SLICE)):
            self._again(*place)
        return not self._touched

    def _fill(self) -> None:
        start = self._after
        count = 0
        for key, raw in self._rows.store.scan("docs", b"", start=start):
            if key == start:
                continue
            doc = _doc(raw)
            if doc.rseq <= self._taken.get(key[0], Head()).rseq:  # else the index in use is given it later
                self._words.add(key[0], key[1:-9].decode(), doc)
            self._after = key
            count += 1
            if count == _SLICE:
                return
        self._filled = True

    def _again(self, part: int, tenant: str, rseq: int) -> None:
        del self._touched[(part, tenant, rseq)]
        self._fresh.delete(text_key(part, rseq))
        doc = self._rows.doc(tenant, rseq)
        if doc is not None:
            self._words.add(part, tenant, doc, again=True)

    def finish(self, positions: dict[int, Head]) -> None:
        """Put the rewritten index in place of the one in use, whose words are all committed.

        If we die in between, none is in place; it is then made again by `scan`.
        """
        for place in list(self._touched):
            self._again(*place)
        self._fresh.commit(positions)
        self._fresh.close()
        path = self._used.path
        old = path.with_name("text.old")
        self._used.close()
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        self._path.rename(path)
        self._used.reopen()
        shutil.rmtree(old, ignore_errors=True)

    def abandon(self) -> None:
        """The partitions changed underneath: begin again another time."""
        self._fresh.close()
        shutil.rmtree(self._path, ignore_errors=True)
