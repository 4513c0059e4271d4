"""Ranking options after the fusion: salience, age, supersession, folding; pure, and the same in `make eval`.

Only the first `CANDIDATES` of a fusion are looked at: what stands further down is hardly ever read, and every option
needs more of a candidate than the fusion does. What the options do with scores is multiplication by at most 1, so
they stay in 0..1.

The options, the half-life of 14 days, the kinds that are exempt from ageing and the cosine of 0.80 are those of issue
3; how much of a score each may take, and the cosine of folding, are choices that decision 0019 gives reasons for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.fusion import Bools, Floats, Ints
from jetmem.domain.summaries import kind_of
from jetmem_schemas.ranking import Rank
from jetmem_schemas.toc import NodeKind

#: So many of the best are looked at: the pages that are read, at costs below a millisecond.
CANDIDATES: Final = 100
#: Of a text so much tells its kind; more would let a long paste cost as much as all other hits together.
KIND_CHARS_MAX: Final = 1_000
#: As in `summaries.summarize`: 3 parts for what the author says of the event, 2 for its kind.
_IMPORTANCE_SHARE: Final = 0.6
_IMPORTANCE_DEFAULT: Final = 0.5
#: A newer hit lowers an older one only if it answers the question nearly as well: "Oskar's dentist is Doctor Weber now"
#: is 0.87 like "Felix's dentist is Doctor Weber now", and says nothing about Felix. In the made-up memory of
#: `make eval` facts about others have at most 0.87 of the score of the fact asked for, the two versions of it 0.98.
_RELEVANT: Final = 0.9
_DAY_MS: Final = 86_400_000
#: Products of unit vectors in float32 are off by less; a threshold of 1 means equal.
_ROUNDING: Final = 1e-5
#: Scores are compared after rounding, as the fusion's.
_DIGITS: Final = 9


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best of a fusion, best first; all arrays have one entry per candidate.

    Attributes:
        score: Of the fusion, 0..1.
        ts: When it happened, epoch ms.
        order: Position in the log; larger is newer, no two are equal.
        importance: As the author gave it, 0..1; NaN where not given.
        lasting: Whether it is a constraint, definition, procedure or preference (`lasting`).
        corrected: Whether another event names it in `supersedes`.
        likeness: Cosines of every two (`likeness`), shape (n, n); None where no option needs them.
    """

    score: Floats
    ts: Ints
    order: Ints
    importance: Floats
    lasting: Bools
    corrected: Bools
    likeness: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Placed:
    """One hit of the new ranking.

    Attributes:
        at: Which candidate.
        score: In 0..1.
        folded: Candidates that it stands for, too, the newest first.
        why: What each option that is on made of it, for `explain`.
    """

    at: int
    score: float
    folded: list[int] = field(default_factory=list)
    why: dict[str, float] = field(default_factory=dict)


def active(options: Rank) -> bool:
    """Whether any option is on."""
    return needs_kinds(options) or needs_likeness(options) or options.supersede


def needs_kinds(options: Rank) -> bool:
    """Whether `lasting` is looked at."""
    return options.salience > 0 or _ages(options)


def needs_likeness(options: Rank) -> bool:
    """Whether `likeness` is looked at."""
    return options.fold or options.supersede


def lasting(text: str) -> bool:
    """Whether a text says something that does not age: a constraint, definition, procedure or preference."""
    kind: NodeKind = kind_of([text[:KIND_CHARS_MAX]])
    return kind != "observation"


def likeness(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of every two.

    Args:
        vectors: Shape (n, dimensions), of unit length; a row of zeros where there is none, which is like nothing, and
            so is a row that is not finite.
    """
    finite: Bools = np.asarray(np.isfinite(vectors).all(axis=1))
    held = vectors if finite.all() else np.where(finite[:, None], vectors, np.float32(0))
    return np.asarray(held @ held.T, dtype=np.float32)


def rank(candidates: Candidates, options: Rank) -> list[Placed]:
    """Rank the candidates anew.

    Salience and age change scores first. Then near-duplicates become one hit: the newest, at the place of the best of
    them. Then what is left is lowered where a newer one supersedes it. Newer is what happened later, of equal times
    what was recorded later; what somebody corrected is older than anything.

    Returns:
        Best first, equal scores newest first; every candidate is a hit or in `folded` of one, once.
    """
    count = len(candidates.score)
    scores, why = _weighed(candidates, options)
    age = np.empty(count, dtype=np.int64)
    newest_first = np.lexsort((-candidates.order, -candidates.ts, candidates.corrected))
    age[newest_first] = np.arange(count)  # 0 is the newest
    alike = candidates.likeness if needs_likeness(options) else None
    folded = _folded(alike, age, newest_first, options) if options.fold and alike is not None else {}
    for leader, under in folded.items():
        scores[leader] = max(scores[leader], scores[under].max())
    hidden = {each for under in folded.values() for each in under}
    if options.supersede:
        factor = _superseded(candidates, scores, age, hidden, options)
        scores *= factor
        why["superseded"] = factor
    rounded = np.round(scores, _DIGITS)
    best = np.lexsort((-candidates.order, -rounded))
    return [
        Placed(i, float(rounded[i]), folded.get(i, []), {name: float(each[i]) for name, each in why.items()})
        for i in map(int, best)
        if i not in hidden
    ]


def _weighed(candidates: Candidates, options: Rank) -> tuple[Floats, dict[str, Floats]]:
    """Scores after salience and age, and what they were made of."""
    scores = candidates.score.copy()
    why: dict[str, Floats] = {"fused": candidates.score}
    if options.salience > 0:
        salience = _salience(candidates)
        scores = (1 - options.salience) * scores + options.salience * salience
        why["salience"] = salience
    if _ages(options):
        age = _age(candidates, options)
        scores = scores * age
        why["age"] = age
    return scores, why


def _ages(options: Rank) -> bool:
    return options.age_half_life_days > 0 and options.age_share > 0


def _salience(candidates: Candidates) -> Floats:
    """0..1: how much an event matters whatever is asked."""
    given = np.where(np.isnan(candidates.importance), _IMPORTANCE_DEFAULT, candidates.importance)
    return np.asarray(_IMPORTANCE_SHARE * given + (1 - _IMPORTANCE_SHARE) * candidates.lasting, dtype=np.float64)


def _age(candidates: Candidates, options: Rank) -> Floats:
    """Factors, 1 for the newest, `1 - age_share` for what is old without end.

    Age is counted from the newest candidate and not from the clock: pages of one question are cut from the same
    ranking whenever they are asked for, and what happened long ago is ranked as it was then.
    """
    if not len(candidates.ts):
        return np.ones(0)
    days = (candidates.ts.max() - candidates.ts) / _DAY_MS
    with np.errstate(over="ignore"):  # of a half-life of next to nothing nothing is left
        left = np.exp2(-days / options.age_half_life_days)
    return np.where(candidates.lasting, 1.0, 1.0 - options.age_share * (1.0 - left))


def _folded(alike: NDArray[np.float32], age: Ints, newest_first: Ints, options: Rank) -> dict[int, list[int]]:
    """Which candidates stand under which newer one.

    The newest leads; each older one goes under the leader that it is most like, if near enough, else it leads itself.
    So nothing hangs on a chain of small differences.
    """
    near = (alike >= options.fold_cosine - _ROUNDING) & (age[None, :] < age[:, None])
    doubtful: Bools = np.asarray(near.any(axis=1))
    led: dict[int, list[int]] = {}
    leads = np.ones(len(age), dtype=np.bool_)
    for i in map(int, newest_first):
        if not doubtful[i]:
            continue
        leaders = np.flatnonzero(near[i] & leads)
        if len(leaders):
            closest = leaders[np.lexsort((age[leaders], -alike[i, leaders]))[0]]
            led.setdefault(int(closest), []).append(i)
            leads[i] = False
    return led


def _superseded(candidates: Candidates, scores: Floats, age: Ints, hidden: set[int], options: Rank) -> Floats:
    """Factors: `1 - supersede_share` for what newer hits say again, and for what a correction names; once for each."""
    kept = 1.0 - options.supersede_share
    factor = np.where(candidates.corrected, kept, 1.0)
    if candidates.likeness is None:
        return factor
    near = (candidates.likeness >= options.supersede_cosine - _ROUNDING) & (age[None, :] < age[:, None])
    near &= scores[None, :] >= _RELEVANT * scores[:, None]
    near[:, sorted(hidden)] = False  # its leader speaks for it
    return np.where(near.any(axis=1), kept * factor, factor)
