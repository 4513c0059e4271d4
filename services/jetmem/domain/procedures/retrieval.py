"""Find the solved task that asks the same in other words.

    score = cosine of vectors + 0.5 × cosine of stemmed content words + 0.2 × cosine of all words and pairs of words

each by tf-idf (Salton and Buckley, 1988), over the tasks nearest by vector, then less half of the found task's mean
score with its own nearest five of them: tasks that are near to everything would come up everywhere (hubs; cross-domain
similarity local scaling, Conneau and others, 2018). On intercode-sql-dev, 456 questions, hit@1 and hit@5: vectors 0.796
and 0.978, words 0.805 and 0.958, all together 0.840 and 0.991, and less the crowding 0.866 and 0.987; the same whether
32, 64 or all tasks are looked at. The context adds nothing: paraphrases' rivals share it. Weights were chosen on that
data: their neighbours give 0.85 to 0.87.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from jetmem.domain.procedures.kernels import TEXT_CHARS_MAX, Floats

#: Text to content words, stemmed.
Analyze: TypeAlias = Callable[[str], list[str]]
_Numbers: TypeAlias = Mapping[str, int]
STEMS: Final = 0.5
WORDS: Final = 0.2
CROWD: Final = 5
CROWDING: Final = 0.5
#: Where there are no vectors, words stand in: their likeness s, 0..1, counts as a cosine of 1 - (1 - s) × this. On
#: random splits of intercode-sql-dev, other than the folds that are reported, log-loss of the simple chain with it is
#: 0.443, with 1 and 1/3 0.451, without neighbours 0.459; of intercode-bash-dev 0.554, 0.555 and 0.562, 0.559.
STRETCH: Final = 2 / 3
#: Characters that are looked at of all texts together, as many of each: words and pairs of words are held, 45 to 65
#: bytes a character.
CHARS_MAX: Final = 2_000_000
#: Measured: 815,115 columns, in which 555,115 words and stems stand and pairs of words, and 820,000 cells are 90 MB.
_CELL_BYTES: Final = 16
_COLUMN_BYTES: Final = 16
_WORD_BYTES: Final = 115
#: More words than any set of texts has.
_PAIR: Final = 2**31
_WORD: Final = re.compile(r"\w+")


class _Cells(NamedTuple):
    """What a sparse matrix holds."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: Floats


class _Said(NamedTuple):
    """Words of some texts, each once for a text: by number, and how often it is said there; in order of texts."""

    rows: NDArray[np.intp]
    words: NDArray[np.int64]
    counts: NDArray[np.intp]


class Wording:
    """Words of a fixed set of tasks, and how rare they are; one that they lack is the rarest.

    Words are numbers, and pairs of words numbers made of two: to look up 700 of a question in arrays takes a fifth of
    the time that it takes in a table of 300,000 texts, which are nowhere near each other in memory.
    """

    def __init__(self, texts: Sequence[str], analyze: Analyze) -> None:
        """Learn words, at least those of one text."""
        self._analyze = analyze
        self._chars = min(TEXT_CHARS_MAX, CHARS_MAX // len(texts))
        self._numbers: tuple[_Numbers, _Numbers] = ({}, {})
        stems, words, self._numbers = self._said(texts)
        #: Known words by number, of each kind: the column of the n-th is n, that of the n-th of the second kind behind.
        self._known = (np.unique(stems.words), np.unique(words.words))
        seen = [np.searchsorted(known, said.words) for known, said in zip(self._known, (stems, words), strict=True)]
        counted = np.r_[tuple(np.bincount(at, minlength=len(of)) for at, of in zip(seen, self._known, strict=True))]
        # of what they lack, whose column is -1, the last
        self._rarity = np.log((1.0 + len(texts)) / (1.0 + np.r_[counted, 0])) + 1.0
        self.known: Any = self._sparse(self._weights((stems, words), len(texts)), len(texts))

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        named = sum(map(len, self._numbers))
        return int(self.known.nnz) * _CELL_BYTES + len(self._rarity) * _COLUMN_BYTES + named * _WORD_BYTES

    def of(self, texts: Sequence[str]) -> Any:
        """Weights of words, a sparse row for each text; the product of two rows is `STEMS` + `WORDS` at most."""
        return self._sparse(self._cells(texts), len(texts))

    def likeness(self, text: str) -> Floats:
        """Of a text to each known task, 0..1."""
        told = (self.known @ self.of([text]).T).toarray()[:, 0]
        return np.asarray(told / (STEMS + WORDS), dtype=np.float64)

    def products(self, texts: Sequence[str], known: Sequence[int]) -> Floats:
        """Products of every two rows of some texts and, after them, some known tasks: (both, both).

        For few that are not many words: they are laid out as a table, in a fifth of the time of sparse rows.
        """
        rows, columns, values = self._cells(texts)
        starts = self.known.indptr
        held = [slice(starts[row], starts[row + 1]) for row in known]
        sizes = np.array([each.stop - each.start for each in held], dtype=np.intp)
        rows = np.concatenate([rows, np.repeat(np.arange(len(texts), len(texts) + len(known)), sizes)])
        columns = np.concatenate([columns, *(self.known.indices[each] for each in held)])
        used, places = np.unique(columns, return_inverse=True)
        table = np.zeros((len(texts) + len(known), len(used)))
        table[rows, places] = np.concatenate([values, *(self.known.data[each] for each in held)])
        return table @ table.T

    def _said(self, texts: Sequence[str]) -> tuple[_Said, _Said, tuple[_Numbers, _Numbers]]:
        """Stems of texts, words and pairs of words, and the numbers of those that are not known."""
        kept = [text[: self._chars] for text in texts]
        stems, rows, new_stems = _numbered([self._analyze(text) for text in kept], self._numbers[0])
        words, told, new_words = _numbered([_WORD.findall(text.lower()) for text in kept], self._numbers[1])
        side = told[1:] == told[:-1]
        pairs = ((words[:-1] + 1) * _PAIR + words[1:])[side]
        said = _counted(np.concatenate([told, told[1:][side]]), np.concatenate([words, pairs]))
        return _counted(rows, stems), said, (new_stems, new_words)

    def _cells(self, texts: Sequence[str]) -> _Cells:
        """Weights of the known words of some texts."""
        stems, words, _ = self._said(texts)
        return self._weights((stems, words), len(texts))

    def _weights(self, said: tuple[_Said, _Said], texts: int) -> _Cells:
        """Of each kind of words, each text's of unit length times the root of what the kind is worth."""
        found = []
        for (rows, words, counts), known, first, worth in zip(
            said, self._known, (0, len(self._known[0])), (STEMS, WORDS), strict=True
        ):
            at = np.searchsorted(known, words)
            there = known[np.minimum(at, len(known) - 1)] == words if len(known) else np.zeros(len(at), dtype=bool)
            values = (1.0 + np.log(counts)) * self._rarity[np.where(there, at + first, -1)]
            lengths = np.sqrt(np.bincount(rows, np.square(values), texts))
            weights = values / lengths[rows] * math.sqrt(worth)
            found.append(_Cells(rows[there], at[there] + first, weights[there]))
        return _Cells(*map(np.concatenate, zip(*found, strict=True)))

    def _sparse(self, cells: _Cells, texts: int) -> Any:
        rows, columns, values = cells
        return csr_array((values, (rows, columns)), shape=(texts, len(self._rarity) - 1))


def _numbered(said: Sequence[Sequence[str]], known: _Numbers) -> tuple[NDArray[np.int64], NDArray[np.intp], _Numbers]:
    """Words of texts by number, in order; of which text each is; and the next numbers, of words that have none."""
    sizes = np.array([len(each) for each in said], dtype=np.intp)
    words = list(chain.from_iterable(said))
    fresh: dict[str, int] = {}
    found = [
        fresh.setdefault(word, len(known) + len(fresh)) if number is None else number
        for word, number in zip(words, map(known.get, words), strict=True)
    ]
    return np.array(found, dtype=np.int64), np.repeat(np.arange(len(said)), sizes), fresh


def _counted(rows: NDArray[np.intp], words: NDArray[np.int64]) -> _Said:
    """How often each text says each word."""
    order = np.lexsort((words, rows))
    rows, words = rows[order], words[order]
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[1:] != rows[:-1]) | (words[1:] != words[:-1])
    first = np.flatnonzero(new)
    return _Said(rows[first], words[first], np.diff(np.append(first, len(rows))))


def less_crowded(scores: Floats, among: Floats) -> Floats:
    """Scores of candidates (n,) less their crowding among each other, (n, n)."""
    others = among.copy()
    np.fill_diagonal(others, -np.inf)
    crowd = min(CROWD, len(scores) - 1)
    if crowd < 1:
        return scores
    return np.asarray(scores - CROWDING * -np.partition(-others, crowd - 1, axis=1)[:, :crowd].mean(1))


def stretched(likeness: Floats) -> Floats:
    """Likeness of words on the scale of cosines of vectors."""
    return np.asarray(1.0 - (1.0 - likeness) * STRETCH)
