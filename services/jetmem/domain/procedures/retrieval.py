"""Find the solved task that asks the same in other words.

    score = cosine of vectors + 0.5 × cosine of stemmed content words + 0.2 × cosine of all words and pairs of words

each by tf-idf (Salton and Buckley, 1988), then less half of the found task's mean score with its own nearest five:
tasks that are near to everything would come up everywhere (hubs; cross-domain similarity local scaling, Conneau and
others, 2018). On intercode-sql-dev, 456 questions, hit@1 and hit@5: vectors 0.796 and 0.978, BM25 0.761 and 0.950, the
three together 0.840 and 0.991, and less the crowding 0.868 and 0.989. The context adds nothing: paraphrases' rivals
share it. Weights were chosen on that data: their neighbours give 0.85 to 0.87.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from jetmem.domain.procedures.kernels import TEXT_CHARS_MAX, Floats, Situations

#: Text to content words, stemmed.
Analyze: TypeAlias = Callable[[str], list[str]]
STEMS: Final = 0.5
WORDS: Final = 0.2
CROWD: Final = 5
CROWDING: Final = 0.5


class Finder:
    """Ranks a fixed set of known tasks, at least one; crowding is known when it is made."""

    def __init__(self, known: Situations, analyze: Analyze) -> None:
        self.known = known
        texts = [_cut(each) for each in known.texts]
        self._stems = TfidfVectorizer(analyzer=lambda text: analyze(text) or ["_"], sublinear_tf=True)
        self._words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        self._by_stems: Any = self._stems.fit_transform(texts)
        self._by_words: Any = self._words.fit_transform(texts)
        self._crowding = np.zeros(len(known))
        if len(known) > 1:
            # a thousand rows at once: the whole table of 100,000 tasks would be 80 GB
            for start in range(0, len(known), 1_000):
                rows = np.arange(start, min(len(known), start + 1_000))
                scores = self.raw(self.arms(known.take(rows)))
                scores[np.arange(len(rows)), rows] = -np.inf
                crowd = min(CROWD, len(known) - 1)
                self._crowding[rows] = -np.partition(-scores, crowd - 1, axis=1)[:, :crowd].mean(1)

    def scores(self, asked: Situations) -> Floats:
        """Score of each known task for each asked one, (asked, known); comparable within a row."""
        return np.asarray(self.raw(self.arms(asked)) - CROWDING * self._crowding[None, :])

    def rank(self, asked: Situations, limit: int) -> NDArray[np.intp]:
        """Known tasks, best first, (asked, at most `limit`); ties by position."""
        return np.argsort(-self.scores(asked), axis=1, kind="stable")[:, :limit]

    def arms(self, asked: Situations) -> dict[str, Floats]:
        """Each cosine alone, by name, (asked, known)."""
        texts = [_cut(each) for each in asked.texts]
        stems: Any = self._stems.transform(texts) @ self._by_stems.T
        words: Any = self._words.transform(texts) @ self._by_words.T
        return {
            "vectors": (asked.vectors @ self.known.vectors.T).astype(np.float64),
            "stems": np.asarray(stems.toarray(), dtype=np.float64),
            "words": np.asarray(words.toarray(), dtype=np.float64),
        }

    @staticmethod
    def raw(arms: Mapping[str, Floats]) -> Floats:
        """The three together."""
        return np.asarray(arms["vectors"] + STEMS * arms["stems"] + WORDS * arms["words"])


def _cut(text: str) -> str:
    return text[:TEXT_CHARS_MAX] or "_"
