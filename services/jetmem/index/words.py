"""Words of documents and of the windows behind them, as the word index takes them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from jetmem.adapters.tantivy_text import TextDoc, analyze, date_of, window
from jetmem.index.rows import Doc, Rows

#: Documents before one that its largest window holds.
REACH: Final = 4
#: Words of one event that its neighbours' windows take; a long tool result is found by its own field.
_WINDOW_WORDS_MAX: Final = 512
#: Sessions whose last words are kept in memory.
_TAILS_MAX: Final = 4_096
_DAY_MS: Final = 86_400_000
#: Dates and authors' names whose words are kept, so that they are not analysed for each event.
_KNOWN_MAX: Final = 10_000


class Words:
    """Adds documents with their trailing windows; no document is rewritten when the next one comes."""

    def __init__(self, rows: Rows, add: Callable[[int, TextDoc], None]) -> None:
        """`add` is given each document with its partition."""
        self._rows = rows
        self._add = add
        self._tails: OrderedDict[tuple[str, int], list[tuple[int, str]]] = OrderedDict()
        self._known: dict[str | int, list[str]] = {}

    def add(self, part: int, tenant: str, doc: Doc, *, again: bool = False) -> None:
        """Add one document, unless it is not to be in the index.

        Args:
            part: Its partition.
            tenant: Its tenant.
            doc: Its rows are written.
            again: Not the newest of its session: its windows are read from the store.
        """
        if doc.out:
            return
        if doc.node is not None:
            self._add(part, self._node(tenant, doc, doc.node.start))
            return
        own = analyze(doc.text)
        cut = window(tenant, own[:_WINDOW_WORDS_MAX])
        behind = self._behind(tenant, doc, use_tail=not again)
        if not again:
            self._remember(tenant, doc, [*behind, (doc.position, cut)])
        date = window(tenant, self._date(doc.ts))
        whole = cut if len(own) <= _WINDOW_WORDS_MAX else window(tenant, own)
        author = window(tenant, self._author(doc.author))
        three = [words for at, words in behind if at >= doc.position - 2]
        self._add(
            part,
            TextDoc(
                doc.rseq, doc.sid, doc.position, doc.who, doc.ts,
                f"{author} {whole} {date}",
                " ".join([*three, cut, date]),
                " ".join([*(words for _, words in behind), cut, date]),
                {
                    "agent": (doc.agent,), "session": (doc.session,), "author": (doc.author,) if doc.author else (),
                    "kind": (doc.kind,), "role": (doc.role,), "tag": doc.tags,
                },
            ),
        )  # fmt: skip

    def _node(self, space: str, doc: Doc, start: int) -> TextDoc:
        """A node is found by what it says and by when it begins; it has no neighbours."""
        words = [*analyze(doc.text), *self._date(start)]
        return TextDoc(
            doc.rseq, doc.sid, doc.position, doc.who, doc.ts, window(space, words), "", "",
            {"kind": (doc.kind,), "tag": doc.tags}, node=True,
        )  # fmt: skip

    def forget(self, tenant: str, sid: int) -> None:
        """A document of this session was erased: its words must not come back with the next one's windows."""
        self._tails.pop((tenant, sid), None)

    def clear(self) -> None:
        """The store was changed underneath."""
        self._tails.clear()

    def _behind(self, tenant: str, doc: Doc, *, use_tail: bool) -> list[tuple[int, str]]:
        """(position, words) of the documents before one in its session that still exist, in order."""
        if doc.position == 0:
            return []
        tail = self._tails.get((tenant, doc.sid)) if use_tail else None
        if tail and tail[-1][0] == doc.position - 1:
            return [t for t in tail if t[0] >= doc.position - REACH]
        first = max(0, doc.position - REACH)
        wanted = [(doc.sid, position) for position in range(first, doc.position)]
        numbers = [rseq for rseq in self._rows.places(tenant, wanted) if rseq]
        found = self._rows.docs(tenant, numbers)
        return [(d.position, window(tenant, analyze(d.text)[:_WINDOW_WORDS_MAX])) for d in found if d is not None]

    def _remember(self, tenant: str, doc: Doc, tail: list[tuple[int, str]]) -> None:
        key = (tenant, doc.sid)
        self._tails[key] = tail[-REACH:]
        self._tails.move_to_end(key)
        while len(self._tails) > _TAILS_MAX:
            self._tails.popitem(last=False)

    def _date(self, ts: int) -> list[str]:
        return self._known_words(ts // _DAY_MS, lambda: date_of(ts))

    def _author(self, name: str) -> list[str]:
        return self._known_words(name, lambda: name)

    def _known_words(self, key: str | int, text: Callable[[], str]) -> list[str]:
        words = self._known.get(key)
        if words is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            words = self._known[key] = analyze(text())
        return words
