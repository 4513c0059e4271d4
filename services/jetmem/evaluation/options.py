"""Whether a ranking option helps: tuned on all conversations but one, measured on that one; pure.

The rule, stated before any figure was seen: an option is on by default if its gains in recall@10 and in nDCG@10, each
measured on the conversations that its parameters were not tuned on, are above 0 in the mean and at the lower bound of
the bootstrap's 95 % interval. A hit counts if it is shown: what is folded under another does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain import ranking
from jetmem.domain.fusion import Floats
from jetmem.evaluation import metrics
from jetmem.evaluation.gathered import Gathered
from jetmem_schemas.ranking import Rank

#: What is tried of each option. The cosine of 0.80 and the half-life of 14 days are the ones that were proposed.
GRIDS: Final[Mapping[str, tuple[Rank, ...]]] = {
    "salience": tuple(Rank(salience=weight) for weight in (0.02, 0.05, 0.1, 0.2)),
    "age": tuple(
        Rank(age_half_life_days=days, age_share=share) for days, share in product((7.0, 14.0, 60.0), (0.1, 0.3))
    ),
    "supersession": tuple(
        Rank(supersede=True, supersede_cosine=cosine, supersede_share=share)
        for cosine, share in product((0.80, 0.90), (0.1, 0.3))
    ),
    "folding": tuple(Rank(fold=True, fold_cosine=cosine) for cosine in (0.90, 0.95, 0.98, 1.0)),
}
TOGETHER: Final = "together"
_K: Final = 10
_RESAMPLES: Final = 2_000
_SEED: Final = 19
_PERCENTILES: Final = (2.5, 97.5)


class Gain(msgspec.Struct, frozen=True):
    """Of one measure: the mean over questions, its 95 % interval, and the mean of each conversation held out."""

    mean: float
    low: float
    high: float
    folds: dict[str, float]


class Verdict(msgspec.Struct, frozen=True):
    """One option: what was chosen for each conversation held out, and what it gained there."""

    chosen: dict[str, Rank]
    recall_10: Gain
    ndcg_10: Gain
    on: bool


class Report(msgspec.Struct, frozen=True):
    """All options; `recall_10` and `ndcg_10` are those of the ranking without any."""

    recall_10: float
    ndcg_10: float
    options: dict[str, Verdict]


#: Recall@10 and nDCG@10 of every question, shape (questions, 2).
_Table = NDArray[np.float64]


def judge(gathered: Sequence[Gathered]) -> Report | None:
    """Each option alone, and those together that gain; None with fewer than two conversations."""
    of = np.array([each.question.tenant for each in gathered])
    if len(set(of.tolist())) < 2:
        return None
    without = _scores(gathered, Rank())
    tables = {name: [_scores(gathered, options) for options in grid] for name, grid in GRIDS.items()}
    verdicts = {name: _verdict(of, without, grid, tables[name]) for name, grid in GRIDS.items()}
    gaining = [name for name, each in verdicts.items() if each.recall_10.mean > 0 and each.ndcg_10.mean > 0]
    if len(gaining) > 1:
        grid = tuple(_merged(each) for each in product(*(set(verdicts[name].chosen.values()) for name in gaining)))
        verdicts[TOGETHER] = _verdict(of, without, grid, [_scores(gathered, options) for options in grid])
    return Report(float(without[:, 0].mean()), float(without[:, 1].mean()), verdicts)


def _merged(options: Iterable[Rank]) -> Rank:
    """One of all: each names only its own."""
    return Rank(**{name: value for each in options for name, value in msgspec.to_builtins(each).items()})


def _scores(gathered: Sequence[Gathered], options: Rank) -> _Table:
    return np.array([shown_scores(each, options) for each in gathered])


def shown_scores(gathered: Gathered, options: Rank) -> tuple[float, float]:
    """Recall@10 and nDCG@10 of one question under some options."""
    shown = [gathered.ids[placed.at] for placed in ranking.rank(gathered.candidates, options)[:_K]]
    evidence = frozenset(gathered.question.evidence)
    return metrics.recall(shown, evidence, _K), metrics.ndcg(shown, evidence, _K)


def _verdict(of: NDArray[np.str_], without: _Table, grid: Sequence[Rank], tables: Sequence[_Table]) -> Verdict:
    """Tune by the sum of both measures on the others, the first of equals; measure on the one held out."""
    gains = np.zeros_like(without)
    chosen: dict[str, Rank] = {}
    for tenant in sorted(set(of.tolist())):
        held_out = of == tenant
        best = max(range(len(grid)), key=lambda at: float(tables[at][~held_out].sum()))
        chosen[tenant] = grid[best]
        gains[held_out] = tables[best][held_out] - without[held_out]
    recall, ndcg = (_gain(of, gains[:, measure]) for measure in (0, 1))
    return Verdict(chosen, recall, ndcg, on=all(each.mean > 0 and each.low > 0 for each in (recall, ndcg)))


def _gain(of: NDArray[np.str_], gains: Floats) -> Gain:
    """The mean gain; its interval by resampling questions (Efron's percentile bootstrap), the same on each call."""
    drawn = np.random.default_rng(_SEED).integers(0, len(gains), (_RESAMPLES, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), _PERCENTILES)
    folds = {tenant: float(gains[of == tenant].mean()) for tenant in sorted(set(of.tolist()))}
    return Gain(float(gains.mean()), float(low), float(high), folds)
