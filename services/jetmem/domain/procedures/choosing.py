"""Pick a procedure: the likeliest, or by Thompson sampling, which tries what might be better.

Thompson (1933), as in Chapelle and Li (2011): one draw from each procedure's Beta, the best draw first. The seed is the
request's, so asking again gives the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from jetmem.domain.procedures.run import draw
from jetmem.domain.procedures.statistics import beta_interval

Explore: TypeAlias = Literal["none", "thompson"]
#: Evidence is never thought to be more runs than this: rates drift.
EVIDENCE_MAX: Final = 200.0


class Candidate(msgspec.Struct, frozen=True):
    """A procedure with its probability here and the runs that stand behind it (own, plus what neighbours count)."""

    procedure: str
    probability: float
    evidence: float


class Ranked(msgspec.Struct, frozen=True):
    """One of the answer; `low` and `high` are a 95 % credible interval, `draw` what it was ranked by."""

    procedure: str
    probability: float
    low: float
    high: float
    draw: float


def rank(candidates: Sequence[Candidate], explore: Explore = "none", seed: str = "") -> list[Ranked]:
    """Best first; ties by name, the same for every order of candidates."""
    known = sorted(candidates, key=lambda each: each.procedure)
    evidence = np.clip([each.evidence for each in known], 0.0, EVIDENCE_MAX)
    won = np.array([each.probability for each in known]) * evidence
    if explore == "thompson":
        drawn = np.random.default_rng(draw(seed)).beta(won + 1.0, evidence - won + 1.0)
    else:
        drawn = np.array([each.probability for each in known])
    ranked = []
    for each, mine, count, by in zip(known, won, evidence, drawn, strict=True):
        low, high = beta_interval(float(mine), float(count))
        ranked.append(Ranked(each.procedure, each.probability, low, high, float(by)))
    return sorted(ranked, key=lambda each: (-each.draw, each.procedure))
