"""Find the solved task that asks the same in other words.

    score = cosine of vectors + 0.5 × cosine of stemmed content words + 0.2 × cosine of all words and pairs of words

each by tf-idf (Salton and Buckley, 1988), over the tasks nearest by vector, then less half of the found task's mean
score with its own nearest five of them: tasks that are near to everything would come up everywhere (hubs; cross-domain
similarity local scaling, Conneau and others, 2018). On intercode-sql-dev, 456 questions, hit@1 and hit@5: vectors 0.796
and 0.978, words 0.805 and 0.958, all together 0.840 and 0.991, and less the crowding 0.868 and 0.989; the same whether
32, 64 or all tasks are looked at. The context adds nothing: paraphrases' rivals share it. Weights were chosen on that
data: their neighbours give 0.85 to 0.87.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
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


class Wording:
    """Words of a fixed set of tasks, and how rare they are; one that they lack is the rarest."""

    def __init__(self, texts: Sequence[str], analyze: Analyze) -> None:
        """Learn words, at least those of one text."""
        self._analyze = analyze
        self._chars = min(TEXT_CHARS_MAX, CHARS_MAX // len(texts))
        said = [self._counts(text) for text in texts]
        self._idf = tuple(_idf(each, len(texts)) for each in zip(*said, strict=True))
        self._unknown = _rarity(0, len(texts))
        stems, words = self._idf
        self._at = [{word: at for at, word in enumerate(stems)}, {w: at + len(stems) for at, w in enumerate(words)}]
        self.known: Any = self._rows(said)

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        return int(self.known.nnz) * _CELL_BYTES + sum(map(len, self._idf)) * _WORD_BYTES

    def of(self, texts: Sequence[str]) -> Any:
        """Weights of words, a sparse row for each text; the product of two rows is `STEMS` + `WORDS` at most."""
        return self._rows([self._counts(text) for text in texts])

    def likeness(self, text: str) -> Floats:
        """Of a text to each known task, 0..1."""
        told = (self.known @ self.of([text]).T).toarray()[:, 0]
        return np.asarray(told / (STEMS + WORDS), dtype=np.float64)

    def _counts(self, text: str) -> tuple[Counter[str], Counter[str]]:
        kept = text[: self._chars]
        words = _WORD.findall(kept.lower())
        return Counter(self._analyze(kept)), Counter([*words, *(f"{a} {b}" for a, b in pairwise(words))])

    def _rows(self, said: Sequence[tuple[Counter[str], Counter[str]]]) -> Any:
        cells = [(row, *cell) for row, each in enumerate(said) for cell in self._weights(each)]
        rows, columns, values = (np.array(each) for each in zip(*cells, strict=True)) if cells else ((), (), ())
        shape = len(said), sum(map(len, self._idf))
        return csr_array((np.asarray(values, float), (np.asarray(rows, int), np.asarray(columns, int))), shape=shape)

    def _weights(self, said: tuple[Counter[str], Counter[str]]) -> Iterator[tuple[int, float]]:
        """Of one text's words, each kind of unit length times the root of its weight."""
        for counts, idf, at, worth in zip(said, self._idf, self._at, (STEMS, WORDS), strict=True):
            held = {word: (1.0 + math.log(n)) * idf.get(word, self._unknown) for word, n in counts.items()}
            length = math.sqrt(sum(each * each for each in held.values()))
            for word, value in held.items():
                if word in at:
                    yield at[word], value / length * math.sqrt(worth)


def _idf(said: Sequence[Counter[str]], texts: int) -> dict[str, float]:
    seen = Counter(word for each in said for word in each)
    return {word: _rarity(seen[word], texts) for word in sorted(seen)}


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
