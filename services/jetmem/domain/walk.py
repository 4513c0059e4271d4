"""Walk down the table of contents for a question, seeing only what nodes hold.

A node's sketch is its words with how often each occurs. Of a segment these are its events' words; of a day, week,
month or year, each word's greatest count in a child, and its length is taken to be half a segment's: so a node's score
is seldom below its best segment's, and opening always the best node in sight opens segments nearly in the order of
their own scores, though only about half of the nodes are seen. The score is BM25 (k1 1.2, b 0.75: Robertson and
Zaragoza, 2009, "The Probabilistic Relevance Framework") with rarity among the tenant's own segments, as a share of what
the question could reach, plus the best cosine of the question with the event of a bullet.

A sketch above segments that is full has lost words: one that it does not hold may still occur below, so it counts as
occurring once.

Measured on LoCoMo dev (997 questions, each conversation alone, 83 nodes of which 26 are segments; share of the
evidence in the first 1, 3 and 5 opened): 0.682, 0.841, 0.896 by words, 42 nodes seen; 0.697, 0.855, 0.900 with vectors,
51 seen. Without `lexical.date_words` in the sketches 0.643, 0.815, 0.879; by the words of the bullets alone 0.54 at 3.
Conversation 0 with 100,000 IRC messages in the same months of its tenant (609 nodes, 443 segments): 0.668, 0.820, 0.892
by words, 100 nodes seen; 0.670, 0.845, 0.896 if all segments are.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Sketch: TypeAlias = dict[str, int]

_K1: Final = 1.2
_B: Final = 0.75
#: Of a node above segments, in mean lengths. With 0 a tenth more nodes are seen, for 0.002 more.
_LENGTH_ABOVE: Final = 0.5
#: Words of a segment's sketch. One of LoCoMo's sessions (900 tokens) has 161 in the middle and 292 at most, one of IRC
#: (4,000 tokens) 716. Four sessions together have 424: coverage at 3, conversations 0 to 2, with 100 of them 0.67,
#: 200 0.82, 300 0.88, 400 0.905, all 0.915. So nine tenths are enough.
SEGMENT_WORDS_MAX: Final = 640
#: … of a node above. One of LoCoMo's years has about 1,500, with 100,000 IRC messages beside it some 8,000. A full one
#: loses nothing but makes walks longer: 100 of 609 nodes are seen with 4,000, 190 with 2,000, 486 with 1,000.
ROLLUP_WORDS_MAX: Final = 4_000
#: Weight of the cosine. Coverage at 3 of conversations 0 to 2 (3 and 4): with 0.25 0.851 (0.851), 0.5 0.857 (0.853),
#: 1 0.858 (0.836).
W_DENSE: Final = 0.5
#: The cosine that a node above segments is taken to lead to, for its own few bullets say little of the best below it.
#: With 0.3 0.847 (0.848) and 37 nodes seen, 0.5 0.857 (0.853) and 51, 1 0.862 (0.854) and 79 of 83.
HOPE: Final = 0.5


class Statistics(msgspec.Struct, frozen=True):
    """Of one tenant's segments: how many, their sketches' mean sum of counts, how many hold each word asked for.

    Need not be exact: what changed since yesterday moves little.
    """

    segments: int
    length_mean: float
    held: Mapping[str, int]


class Card(msgspec.Struct, frozen=True):
    """What a walk sees of a node; `leaf`: it is a segment; `end` epoch ms; unit vectors of its bullets' events."""

    id: str
    leaf: bool
    sketch: Sketch
    end: int = 0
    vectors: list[Floats] = []


def sketch_of(words: Iterable[str], most: int = SEGMENT_WORDS_MAX) -> Sketch:
    """The `most` words that tell most, with their counts: frequent ones first, of equally frequent the longest.

    Longer words are rarer (Zipf's law of abbreviation), which is all that one node alone can know of rarity.
    """
    return _cut(Counter(words), most)


def merged(children: Sequence[Sketch], most: int = ROLLUP_WORDS_MAX) -> Sketch:
    """The sketch of a node from its children's."""
    best: Sketch = {}
    for child in children:
        for word, count in child.items():
            if count > best.get(word, 0):
                best[word] = count
    return _cut(best, most)


def _cut(counts: Mapping[str, int], most: int) -> Sketch:
    """The first `most` in the order of `sketch_of`, in that order."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], -len(each[0]), each[0]))
    return dict(ranked[:most])


class Question:
    """A question, ready to be compared with nodes of one tenant."""

    def __init__(self, words: Sequence[str], statistics: Statistics, vector: Floats | None = None) -> None:
        """`words` analysed as the sketches' are; `vector` of unit length, None to go by words alone."""
        count = max(1, statistics.segments)
        self._idf = {
            word: math.log1p((count - held + 0.5) / (held + 0.5))
            for word in dict.fromkeys(words)
            if (held := min(count, statistics.held.get(word, 0)))
        }
        self._most = sum(self._idf.values()) * (_K1 + 1)
        self._mean = max(1.0, statistics.length_mean)
        self._vector = vector

    def score(self, card: Card) -> float:
        """How much of the question a node answers, 0 to 1 + `W_DENSE`; comparable between nodes of one tenant."""
        text = 0.0
        length = sum(card.sketch.values()) if card.leaf else _LENGTH_ABOVE * self._mean
        norm = _K1 * (1 - _B + _B * length / self._mean)
        least = 0 if card.leaf or len(card.sketch) < ROLLUP_WORDS_MAX else 1
        for word, idf in self._idf.items():
            often = card.sketch.get(word, least)
            if often:
                text += idf * often * (_K1 + 1) / (often + norm)
        score = text / self._most if self._most else 0.0
        if self._vector is None:
            return round(score, 6)
        if not card.leaf:
            return round(score + W_DENSE * HOPE, 6)
        return round(score + W_DENSE * max([0.0, *(float(np.dot(v, self._vector)) for v in card.vectors)]), 6)


class Step(msgspec.Struct, frozen=True):
    """One node that was opened, and why: its score was the best of those in sight."""

    id: str
    leaf: bool
    score: float


class Walk:
    """Opens the best node in sight, again and again; the caller fetches what lies under it.

        walk = Walk(question, segments=3, nodes_max=200)
        walk.see(roots)
        while (step := walk.open()) is not None:
            if not step.leaf:
                walk.see(children_of(step.id))

    Of equal nodes the newest comes first, so a question without a known word gives the latest segments.
    """

    def __init__(self, question: Question, *, segments: int, nodes_max: int) -> None:
        """Stop after so many opened `segments`; once `nodes_max` nodes were in sight, open segments in sight only."""
        self._question = question
        self._left = segments
        self._nodes_left = nodes_max
        self._in_sight: list[tuple[float, int, str, bool]] = []
        self.steps: list[Step] = []

    def see(self, cards: Iterable[Card]) -> None:
        """Bring nodes in sight; each once."""
        for card in cards:
            self._nodes_left -= 1
            heapq.heappush(self._in_sight, (-self._question.score(card), -card.end, card.id, card.leaf))

    def open(self) -> Step | None:
        """The best node in sight, or None when the walk is over."""
        while self._left > 0 and self._in_sight:
            score, _, node, leaf = heapq.heappop(self._in_sight)
            if not leaf and self._nodes_left <= 0:
                continue
            self._left -= leaf
            self.steps.append(Step(node, leaf, -score))
            return self.steps[-1]
        return None
