"""What bullets alone find, whoever chose them: segments ranked by the words of their bullets; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from jetmem.domain import extract, walk
from jetmem.domain.extract import Analyze, Candidate, Floats, Said, Vectors
from jetmem.evaluation import toc_metrics
from jetmem.evaluation.locomo import Question
from jetmem.evaluation.toc_metrics import Coverage

#: Of a segment's candidates and how many are wanted: the places of those chosen.
Pick = Callable[[Sequence[Candidate], int], Sequence[int]]
#: Unit vectors by text.
Meaning = Mapping[str, Floats]
_SEED: Final = 1
_OPENED_MAX: Final = toc_metrics.OPENED[-1]

PICKS: Final[dict[str, Pick]] = {
    "full text": lambda each, _: range(len(each)),
    "lead-k": lambda each, count: toc_metrics.lead(len(each), count),
    "random": lambda each, count: toc_metrics.at_random(len(each), count, _SEED),
    "ours, by words": lambda each, count: extract.choose(_wordly(each), count, count),
    "ours, with vectors": lambda each, count: extract.choose(each, count, count),
}


class Row(msgspec.Struct, frozen=True):
    """Coverage of the evidence; the share of it that a bullet quotes; how much a node's bullets repeat each other.

    `repeated` by words, `alike` by meaning: 0 where no bullet was encoded.
    """

    coverage: Coverage
    cited: float
    repeated: float
    alike: float = 0.0


class Segment(msgspec.Struct, frozen=True):
    """A segment's events, in order."""

    events: list[Said]

    @property
    def ids(self) -> list[str]:
        """Of its events."""
        return [event.id for event in self.events]


class Baselines:
    """Of all tenants; their segments are analysed once. `texts` is all that a `Meaning` must know."""

    def __init__(
        self, segments: Mapping[str, Sequence[Segment]], analyze: Analyze, meaning: Meaning | None = None
    ) -> None:
        self._segments = segments
        self._analyze = analyze
        self._meaning = meaning or {}
        self._candidates = {
            tenant: [extract.said_candidates(each.events, self._vectors(each), analyze) for each in held]
            for tenant, held in segments.items()
        }

    def _vectors(self, segment: Segment) -> Vectors:
        found = {event.id: self._meaning.get(spoken(event)) for event in segment.events}
        return {name: vector for name, vector in found.items() if vector is not None}

    @staticmethod
    def texts(segments: Mapping[str, Sequence[Segment]], analyze: Analyze) -> list[str]:
        """Of all events, and of all bullets that may be chosen."""
        every = [each for held in segments.values() for each in held]
        events = [spoken(event) for each in every for event in each.events if event.text]
        bullets = [c.bullet.text for each in every for c in extract.said_candidates(each.events, {}, analyze)]
        return list(dict.fromkeys(events + bullets))

    def row(self, questions: Sequence[Question], pick: Pick) -> Row:
        """How well bullets that were chosen so do."""
        chosen = {tenant: [self._picked(each, pick) for each in held] for tenant, held in self._candidates.items()}
        found, cited = [], []
        ranked = {tenant: _cards(each) for tenant, each in chosen.items()}
        for question in questions:
            cards, statistics = ranked[question.tenant]
            asked = walk.Question(self._analyze(question.question), statistics)
            best = sorted(range(len(cards)), key=lambda n: (-asked.score(cards[n]), n))[:_OPENED_MAX]
            evidence = frozenset(question.evidence)
            found.append(toc_metrics.coverage([self._segments[question.tenant][n].ids for n in best], evidence))
            quoted = {each.bullet.grips[0].first for held in chosen[question.tenant] for each in held}
            cited.append(toc_metrics.cited(quoted, evidence))
        every = [held for each in chosen.values() for held in each]
        repeated = [toc_metrics.repeated_words([frozenset(each.words) for each in held]) for held in every]
        alike = [
            toc_metrics.repeated_meaning([v for c in held if (v := self._meaning.get(c.bullet.text)) is not None])
            for held in every
        ]
        return Row(toc_metrics.mean(found), _mean(cited), _mean(repeated), _mean(alike))

    @staticmethod
    def _picked(candidates: Sequence[Candidate], pick: Pick) -> list[Candidate]:
        wanted = extract.bullets_wanted(len(candidates), of_children=False)
        return [candidates[n] for n in pick(candidates, wanted)]


def spoken(event: Said) -> str:
    """What index has embedded of an event (decision 0005)."""
    return f"{event.author}: {event.text}" if event.author else event.text


def _wordly(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [msgspec.structs.replace(each, vector=None) for each in candidates]


def _cards(chosen: Sequence[Sequence[Candidate]]) -> tuple[list[walk.Card], walk.Statistics]:
    bags = [Counter(word for each in held for word in each.words) for held in chosen]
    return [walk.Card(str(n), True, dict(bag)) for n, bag in enumerate(bags)], statistics(bags)


def statistics(sketches: Sequence[Mapping[str, int]]) -> walk.Statistics:
    """Of a tenant's segments, exact."""
    total = sum(sum(each.values()) for each in sketches)
    held = Counter(word for each in sketches for word in each)
    return walk.Statistics(len(sketches), total / max(1, len(sketches)), held)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(1, len(values))
