"""Words of documents and of the windows behind them, as the word index takes them."""

from __future__ import annotations

from typing import Final

from jetmem.adapters.tantivy_text import TextDoc, TextIndex, date_of, window
from jetmem.index.core import text_key
from jetmem.index.rows import Doc, Rows
from jetmem.index.tenants import Tenant

#: Documents before one that its largest window holds.
_BEHIND: Final = 4
#: Words of one event that its neighbours' windows take; a long tool result is found by its own field.
_WINDOW_WORDS_MAX: Final = 512
#: Sessions whose last words are kept in memory.
_TAILS_MAX: Final = 1_024


class Words:
    """Adds documents with their trailing windows; no document is rewritten when the next one comes."""

    def __init__(self, rows: Rows, text: TextIndex) -> None:
        self._rows = rows
        self._text = text

    def add(self, part: int, tenant: Tenant, doc: Doc, *, again: bool = False) -> None:
        """Add one document.

        Args:
            part: Its partition.
            tenant: Its tenant.
            doc: Its rows are written.
            again: Not the newest of its session: its windows are read from the store.
        """
        own = self._text.analyze(doc.text)
        behind = self._behind(tenant, doc, use_tail=not again)
        if not again:
            self._remember(tenant, doc, [*behind, (doc.position, own[:_WINDOW_WORDS_MAX])])
        date = self._text.analyze(date_of(doc.ts))
        three = [t for at, tokens in behind if at >= doc.position - 2 for t in tokens]
        five = [t for _, tokens in behind for t in tokens]
        cut = own[:_WINDOW_WORDS_MAX]
        name = tenant.name
        self._text.add(
            TextDoc(
                text_key(part, doc.rseq), doc.sid, doc.position, doc.who, doc.ts,
                window(name, [*self._text.analyze(doc.author), *own, *date]),
                window(name, [*three, *cut, *date]),
                window(name, [*five, *cut, *date]),
                {
                    "agent": (doc.agent,), "session": (doc.session,), "author": (doc.author,) if doc.author else (),
                    "kind": (doc.kind,), "role": (doc.role,), "tag": doc.tags,
                },
            )
        )  # fmt: skip

    def _behind(self, tenant: Tenant, doc: Doc, *, use_tail: bool) -> list[tuple[int, list[str]]]:
        """(position, words) of the documents before one in its session that still exist, in order."""
        tail = tenant.tails.get(doc.sid) if use_tail else None
        if tail is not None and (not tail or tail[-1][0] == doc.position - 1):
            return [t for t in tail if t[0] >= doc.position - _BEHIND]
        first = max(0, doc.position - _BEHIND)
        wanted = [(doc.sid, position) for position in range(first, doc.position)]
        numbers = [rseq for rseq in self._rows.places(tenant.name, wanted) if rseq]
        found = self._rows.docs(tenant.name, numbers)
        return [(d.position, self._text.analyze(d.text)[:_WINDOW_WORDS_MAX]) for d in found if d is not None]

    def _remember(self, tenant: Tenant, doc: Doc, tail: list[tuple[int, list[str]]]) -> None:
        tenant.tails[doc.sid] = tail[-_BEHIND:]
        tenant.tails.move_to_end(doc.sid)
        while len(tenant.tails) > _TAILS_MAX:
            tenant.tails.popitem(last=False)
