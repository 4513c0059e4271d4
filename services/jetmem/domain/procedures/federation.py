"""Share counts between deployments or tenants, without texts.

What was merged is a map from source to the latest export of that source, a join semilattice (Shapiro and others, 2011,
"Conflict-free replicated data types"): merging is commutative, associative and idempotent. Only reading combines:

- `mean`: rates weighted by evidence, no source worth more than `EVIDENCE_MAX` runs or twice the middle source, so
  one that lies bends little;
- `median`: the weighted median of the sources' rates, which less than half of the evidence cannot move at will
  (Yin and others, 2018, "Byzantine-robust distributed learning").

Laplace noise (Dwork and others, 2006) on an export hides any one run with the stated epsilon.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

from jetmem.domain.procedures.run import draw
from jetmem_schemas.subjects import ID_PATTERN

How: TypeAlias = Literal["mean", "median"]
#: Runs that one source counts for, at most, of one procedure …
EVIDENCE_MAX: Final = 200.0
#: … and, among at least three, so many times what the middle one has: else a claim of many runs outvotes all others.
ABOVE_MIDDLE: Final = 2.0
PROCEDURES_MAX: Final = 10_000
#: Less is all noise: of scale 1,000 here, and soon beyond any count.
EPSILON_MIN: Final = 0.001


#: Counts of others are taken within this; `combined` clips them to what a source may be worth.
Count: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]


class Shared(msgspec.Struct, frozen=True, order=True):
    """Counts of one procedure; floats, for noise."""

    runs: Count
    successes: Count


class Export(msgspec.Struct, frozen=True):
    """One source's counts; `version` grows with each export, `epsilon` 0 is without noise."""

    source: Annotated[str, Meta(pattern=ID_PATTERN)]
    version: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    procedures: Annotated[dict[Annotated[str, Meta(min_length=1)], Shared], Meta(max_length=PROCEDURES_MAX)]
    epsilon: Annotated[float, Meta(ge=0)] = 0.0


class Merged(msgspec.Struct, frozen=True):
    """The latest export of each source."""

    sources: dict[str, Export] = {}


def exported(source: str, version: int, counts: Mapping[str, Shared], epsilon: float = 0.0, key: str = "") -> Export:
    """Make an export.

    Args:
        source: Name of this deployment or tenant.
        version: Larger than before; what it covers, say.
        counts: By procedure.
        epsilon: Privacy loss a run; one run changes one of two counts by 1, so noise has scale 1 / epsilon. 0 for none.
        key: A secret of the source; the same version is noised alike each time, else averaging exports would undo it.
            Another epsilon draws other noise, else two exports would tell both: each costs its own epsilon.
    """
    kept = dict(sorted(counts.items())[:PROCEDURES_MAX])
    if epsilon <= 0:
        return Export(source, version, kept)
    noise = np.random.default_rng(draw(f"{key}\0{source}\0{version}\0{epsilon}")).laplace(
        0.0, 1.0 / epsilon, (len(kept), 2)
    )
    noised = {}
    for (name, each), (won, lost) in zip(kept.items(), noise, strict=True):
        successes = max(0.0, each.successes + float(won))
        noised[name] = Shared(successes + max(0.0, each.runs - each.successes + float(lost)), successes)
    return Export(source, version, noised, epsilon)


def merge(left: Merged, right: Merged) -> Merged:
    """The later export of each source; equal versions with other content are settled by content, alike everywhere."""
    sources = dict(left.sources)
    for name, each in right.sources.items():
        sources[name] = max(sources[name], each, key=_rank) if name in sources else each
    return Merged(dict(sorted(sources.items())))


def taken(export: Export) -> Merged:
    """One export, as something to merge."""
    return Merged({export.source: export})


def _rank(each: Export) -> tuple[int, bytes]:
    return each.version, msgspec.json.encode(each, order="sorted")


def combined(merged: Merged, how: How = "mean", without: str = "") -> dict[str, Shared]:
    """Evidence of all sources but `without`, by procedure; runs of a source are capped."""
    told: dict[str, list[tuple[float, float]]] = {}
    for source, export in sorted(merged.sources.items()):
        if source == without:
            continue
        for name, each in export.procedures.items():
            if each.runs > 0:
                rate = min(1.0, max(0.0, each.successes / each.runs))
                told.setdefault(name, []).append((rate, min(EVIDENCE_MAX, each.runs)))
    return {name: _together(_capped(sorted(every)), how) for name, every in sorted(told.items())}


def _capped(every: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(every) < 3:
        return every
    most = ABOVE_MIDDLE * statistics.median(runs for _, runs in every)
    return [(rate, min(runs, most)) for rate, runs in every]


def _together(every: list[tuple[float, float]], how: How) -> Shared:
    runs = sum(weight for _, weight in every)
    if how == "mean":
        return Shared(runs, sum(rate * weight for rate, weight in every))
    passed = 0.0
    for rate, weight in every:
        passed += weight
        if passed >= runs / 2:
            return Shared(runs, rate * runs)
    return Shared(runs, every[-1][0] * runs)
