"""Rewrite a partition's word index, so that no erased word stays in its files: slice by slice, beside the one in use.

tantivy-py exposes no merge. A second index is filled from the documents on the writer thread, between other work;
what changes meanwhile is noted and done again at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final

import msgspec

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.domain import keys
from jetmem.index.rows import Doc, Rows
from jetmem.index.words import Words
from jetmem_schemas.internal import Head

#: Documents of one slice: some 50 ms, what other work waits.
_SLICE: Final = 1_000
_doc = msgspec.msgpack.Decoder(Doc).decode


class Rewrite:
    """One rewriting of one partition. Writer thread only.

    Attributes:
        part: The partition.
        erased: What each of its tenants forgot last when it began; later forgets need another one.
    """

    def __init__(
        self, rows: Rows, text: TextIndexes, part: int, erased: Mapping[str, int], taken: Mapping[int, Head]
    ) -> None:
        self.part = part
        self.erased = dict(erased)
        self._taken = taken
        self._rows = rows
        self._text = text
        self._fresh = text.fresh(part)
        self._words = Words(rows, lambda _, doc: self._fresh.add(doc))
        self._after = keys.partition(part)
        self._filled = False
        self._touched: dict[tuple[str, int], None] = {}

    def touch(self, tenant: str, rseq: int) -> None:
        """The index in use was given or lost this document."""
        self._touched[(tenant, rseq)] = None

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
        for key, raw in self._rows.store.scan("docs", keys.partition(self.part), start=start):
            if key == start:
                continue
            doc = _doc(raw)
            if doc.rseq <= self._taken[self.part].rseq:  # else the index in use is given it later
                self._words.add(self.part, key[1:-9].decode(), doc)
            self._after = key
            count += 1
            if count == _SLICE:
                return
        self._filled = True

    def _again(self, tenant: str, rseq: int) -> None:
        del self._touched[(tenant, rseq)]
        self._fresh.delete(rseq)
        doc = self._rows.doc(tenant, rseq)
        if doc is not None:
            self._words.add(self.part, tenant, doc, again=True)

    def finish(self, at: Head) -> None:
        """Put the rewritten index in place of the one in use, whose words are all committed up to here."""
        for place in list(self._touched):
            self._again(*place)
        self._text.replace(self.part, self._fresh, at)

    def abandon(self) -> None:
        """The partition changed underneath: begin again another time."""
        self._fresh.rest()
