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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, pairwise, repeat
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from jetmem.domain.procedures.kernels import TEXT_CHARS_MAX, Floats

#: Text to content words, stemmed.
Analyze: TypeAlias = Callable[[str], list[str]]
STEMS: Final = 0.5
WORDS: Final = 0.2
CROWD: Final = 5
CROWDING: Final = 0.5
#: Where there are no vectors, words stand in: their likeness s, 0..1, counts as a cosine of 1 - (1 - s) × this. On
#: random splits of intercode-sql-dev, other than the folds that are reported, log-loss of the simple chain with it is
#: 0.443, with 1 and 1/3 0.451, without neighbours 0.459; of intercode-bash-dev 0.554, 0.555 and 0.562, 0.559.
STRETCH: Final = 2 / 3
#: Characters that are looked at of all texts together, as many of each: words and pairs of words are held, some 100
#: bytes a character.
CHARS_MAX: Final = 2_000_000
#: Measured: 529,105 words and pairs of words in a million cells are 128 MB.
_CELL_BYTES: Final = 16
_WORD_BYTES: Final = 220
_WORD: Final = re.compile(r"\w+")


class _Cells(NamedTuple):
    """What a sparse matrix holds."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: Floats


_NO_CELLS: Final = _Cells(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))


class Wording:
    """Words of a fixed set of tasks, and how rare they are; one that they lack is the rarest."""

    def __init__(self, texts: Sequence[str], analyze: Analyze) -> None:
        """Learn words, at least those of one text."""
        self._analyze = analyze
        self._chars = min(TEXT_CHARS_MAX, CHARS_MAX // len(texts))
        said = [self._counts(text) for text in texts]
        seen = [Counter(chain.from_iterable(each)) for each in zip(*said, strict=True)]
        columns = iter(range(sum(map(len, seen))))
        self._at = [{word: next(columns) for word in sorted(each)} for each in seen]
        rarity = [_rarity(of[word], len(texts)) for of, at in zip(seen, self._at, strict=True) for word in at]
        self._rarity = np.array([*rarity, _rarity(0, len(texts))])  # of what they lack, whose column is -1, the last
        self.known: Any = self._sparse(said)

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        return int(self.known.nnz) * _CELL_BYTES + len(self._rarity) * _WORD_BYTES

    def of(self, texts: Sequence[str]) -> Any:
        """Weights of words, a sparse row for each text; the product of two rows is `STEMS` + `WORDS` at most."""
        return self._sparse([self._counts(text) for text in texts])

    def likeness(self, text: str) -> Floats:
        """Of a text to each known task, 0..1."""
        told = (self.known @ self.of([text]).T).toarray()[:, 0]
        return np.asarray(told / (STEMS + WORDS), dtype=np.float64)

    def products(self, texts: Sequence[str], known: Sequence[int]) -> Floats:
        """Products of every two rows of some texts and, after them, some known tasks: (both, both).

        For few that are not many words: they are laid out as a table, in a fifth of the time of sparse rows.
        """
        rows, columns, values = self._cells([self._counts(text) for text in texts])
        held = self.known[list(known)]
        rows = np.r_[rows, np.repeat(np.arange(len(texts), len(texts) + len(known)), np.diff(held.indptr))]
        used, places = np.unique(np.r_[columns, held.indices], return_inverse=True)
        table = np.zeros((len(texts) + len(known), len(used)))
        table[rows, places] = np.r_[values, held.data]
        return table @ table.T

    def _counts(self, text: str) -> tuple[Counter[str], Counter[str]]:
        kept = text[: self._chars]
        words = _WORD.findall(kept.lower())
        return Counter(self._analyze(kept)), Counter([*words, *map(" ".join, pairwise(words))])

    def _sparse(self, said: Sequence[tuple[Counter[str], Counter[str]]]) -> Any:
        rows, columns, values = self._cells(said)
        return csr_array((values, (rows, columns)), shape=(len(said), len(self._rarity) - 1))

    def _cells(self, said: Sequence[tuple[Counter[str], Counter[str]]]) -> _Cells:
        """Weights of the words of some texts."""
        kinds = zip(zip(*said, strict=True), self._at, (STEMS, WORDS), strict=False)  # of no texts there are none
        found = [self._weights(counted, at, worth) for counted, at, worth in kinds]
        return _Cells(*map(np.concatenate, zip(*found, strict=True))) if found else _NO_CELLS

    def _weights(self, counted: Sequence[Counter[str]], at: Mapping[str, int], worth: float) -> _Cells:
        """Of one kind of words, each text's of unit length times the root of what the kind is worth."""
        words = list(chain.from_iterable(counted))
        rows = np.repeat(np.arange(len(counted)), [len(each) for each in counted])
        columns = np.fromiter(map(at.get, words, repeat(-1)), np.intp, len(words))
        counts = np.fromiter(chain.from_iterable(each.values() for each in counted), np.float64, len(words))
        values = (1.0 + np.log(counts)) * self._rarity[columns]
        lengths = np.sqrt(np.bincount(rows, np.square(values), len(counted)))
        known = columns >= 0
        return _Cells(rows[known], columns[known], (values / lengths[rows] * math.sqrt(worth))[known])


def _rarity(seen: int, texts: int) -> float:
    """Of a word in so many of these texts, smoothed as if one more held all words."""
    return math.log((1 + texts) / (1 + seen)) + 1.0


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
