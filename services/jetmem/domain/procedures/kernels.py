"""How alike two situations are: a task's vector, its words, its length, and the context it was run in.

The kernel is a sum, so each part explains what the others cannot (Duvenaud and others, 2011, "Additive Gaussian
processes"): nearness of meaning, shared wording *with* its function words ("how many … each" says more about how hard a
question is than its nouns do), length, and all of these once more among situations of the same context.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

Floats: TypeAlias = NDArray[np.float64]
Vectors: TypeAlias = NDArray[np.float32]
Context: TypeAlias = Mapping[str, str]

#: Cosine distance at which nearness of meaning has fallen to 1/e.
REACH: Final = 0.25
#: Weights of meaning, words and length; then of sameness, meaning and words within one context. Chosen on random
#: splits of intercode-sql-dev, other than the five folds that are reported; halving or doubling one costs < 0.002.
MEANING: Final = 1.0
WORDS: Final = 0.5
LENGTH: Final = 0.3
SAME: Final = 0.3
SAME_MEANING: Final = 1.0
SAME_WORDS: Final = 1.0
_WORD: Final = re.compile(r"\w")
#: Characters of a task that are looked at; a task is a sentence or a page, never a file.
TEXT_CHARS_MAX: Final = 4_000


@dataclass(frozen=True, slots=True)
class Situations:
    """What was to be done, and where: equal lengths; vectors are unit rows (n, d), zero where there is none yet."""

    texts: Sequence[str]
    vectors: Vectors
    contexts: Sequence[Context]

    def __len__(self) -> int:
        """How many."""
        return len(self.texts)

    def take(self, rows: NDArray[np.intp]) -> Situations:
        """Those of these rows."""
        return Situations([self.texts[i] for i in rows], self.vectors[rows], [self.contexts[i] for i in rows])


class Contexts:
    """Contexts of known situations, marked once; (name, value) pairs are what is compared."""

    def __init__(self, known: Sequence[Context]) -> None:
        self._pairs: dict[tuple[str, str], int] = {}
        for each in known:
            for pair in each.items():
                self._pairs.setdefault(pair, len(self._pairs))
        marks, self._sizes = self._marked(known)
        self._marks = marks.T.tocsr()

    def to(self, asked: Sequence[Context]) -> Floats:
        """Share of pairs in common (Jaccard), (asked, known); 0 where both are empty."""
        marks, sizes = self._marked(asked)
        both = (marks @ self._marks).toarray()
        return np.asarray(both / np.maximum(sizes[:, None] + self._sizes[None, :] - both, 1.0), dtype=np.float64)

    def _marked(self, contexts: Sequence[Context]) -> tuple[Any, Floats]:
        at = [
            (row, self._pairs[pair])
            for row, each in enumerate(contexts)
            for pair in each.items()
            if pair in self._pairs
        ]
        rows, columns = np.array(at, np.intp).reshape(-1, 2).T
        # sparse: 2,000 contexts of 64 values that are all different would fill gigabytes
        marks = csr_array((np.ones(len(at)), (rows, columns)), shape=(len(contexts), max(1, len(self._pairs))))
        return marks, np.array([float(len(each)) for each in contexts])


class Kernel:
    """Likeness to a fixed set of situations; positive semi-definite, about `MEANING + … + SAME_WORDS` at itself."""

    def __init__(self, known: Situations) -> None:
        """Learn the rarity of words, at least one situation."""
        self.known = known
        self._contexts = Contexts(known.contexts)
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        said = [each[:TEXT_CHARS_MAX] or "_" for each in known.texts]
        # where none has a word there is none to learn, which the vectorizer refuses
        worded = any(map(_WORD.search, said))
        texts: Any = self._words.fit_transform(said) if worded else self._words.fit(["_"]).transform(said)
        self._texts: Any = texts.T.tocsr()  # by word, once: to turn it takes longer than to answer
        lengths = _lengths(known.texts)
        self._middle, self._spread = float(lengths.mean()), max(float(lengths.std()), 0.1)
        self._lengths = (lengths - self._middle) / self._spread

    def to(self, asked: Situations, cosine: Floats | None = None, same: Floats | None = None) -> Floats:
        """Likeness of each asked situation to each known one, (asked, known).

        Args:
            asked: Any.
            cosine: Of their vectors to those of known ones, (asked, known); None to have it made.
            same: Share of context in common, likewise.
        """
        if cosine is None:
            cosine = (asked.vectors @ self.known.vectors.T).astype(np.float64)
        if same is None:
            same = self._contexts.to(asked.contexts)
        meaning = np.exp((np.clip(cosine, -1.0, 1.0) - 1.0) / REACH)
        texts: Any = self._words.transform([each[:TEXT_CHARS_MAX] for each in asked.texts])
        words = np.asarray((texts @ self._texts).toarray(), dtype=np.float64)
        lengths = (_lengths(asked.texts) - self._middle) / self._spread
        length = np.exp(-0.5 * np.square(lengths[:, None] - self._lengths[None, :]))
        within = SAME + SAME_MEANING * meaning + SAME_WORDS * words
        return np.asarray(MEANING * meaning + WORDS * words + LENGTH * length + same * within)


def _lengths(texts: Sequence[str]) -> Floats:
    return np.array([math.log1p(len(each.split())) for each in texts])
