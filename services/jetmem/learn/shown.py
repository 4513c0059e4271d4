"""What studies found, as users see it; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jetmem.domain.procedures import patterns as rules
from jetmem.domain.procedures.insights import Insight, Works
from jetmem.learn.study import Recurring
from jetmem.learn.study import Related as Graph
from jetmem_schemas import procedures as schema
from jetmem_schemas.procedures import InsightItem, Next, PatternItem, RelatedProcedure
from jetmem_schemas.procedures_asked import PatternsFound

#: Steps that are told to come next, the likeliest.
_NEXT: int = 5
_EXAMPLE_CHARS: int = 300


class _Reached(NamedTuple):
    """A procedure: by which path, how strong it is, and the kind of its last edge; None of where it begins."""

    strength: float
    path: list[str]
    kind: schema.Relation | None


def related(of: Graph, ask: schema.Related) -> list[RelatedProcedure]:
    """Neighbours within so many hops, by the strongest path, over edges of the kinds asked for.

    A walk over the edges of what is reached, a bounded number of each: no graph of those kinds is made for a question.
    """
    best: dict[str, _Reached] = {ask.id: _Reached(1.0, [ask.id], None)}
    reached = dict(best)
    for _ in range(ask.hops):
        further: dict[str, _Reached] = {}
        for node, (strength, path, _) in sorted(reached.items()):
            for edge in of.leads.get(node, ()):
                along = strength * edge.strength
                if ask.kinds and edge.kind not in ask.kinds:
                    continue
                if along > max(_strength(best, edge.target), _strength(further, edge.target)):
                    further[edge.target] = _Reached(along, [*path, edge.target], edge.kind)
        best |= further
        reached = further
    found = [
        RelatedProcedure(id=name, kind=kind, strength=strength, path=path)
        for name, (strength, path, kind) in best.items()
        if kind is not None
    ]
    return sorted(found, key=lambda each: (-each.strength, each.id))[: ask.limit]


def _strength(of: Mapping[str, _Reached], name: str) -> float:
    return of[name].strength if name in of else 0.0


def patterns(of: Recurring, ask: schema.Patterns, start: int, now_ms: int) -> tuple[PatternsFound, bool]:
    """One page of patterns, and what tends to come next; whether more follow."""
    found = rules.recurring(of.rows, of.every, now_ms)
    told = [each for each in found if each.shared or not ask.shared]
    page = [
        PatternItem(
            id=" > ".join(each.steps), steps=list(each.steps), successes=each.successes, failures=each.failures,
            rate=each.rate, lift=each.lift, low=each.lower, shared=each.shared,
        )
        for each in told[start : start + ask.limit]
    ]  # fmt: skip
    follow = rules.following(ask.done, found)[:_NEXT] if ask.done else []
    return PatternsFound(page, [Next(step=s, rate=rate) for s, rate in follow]), len(told) > start + ask.limit


def insights(of: Sequence[Insight], ask: schema.Insights) -> list[InsightItem]:
    """Clusters, the largest first."""
    return [
        InsightItem(
            id=str(number), tasks=each.size, runs=each.runs, rate=each.rate,
            examples=[text[:_EXAMPLE_CHARS] for text in each.examples],
            contexts=[f"{name}={value}" for name, value, _ in each.contexts],
            works=[_works(one) for one in each.works], fails=[_works(one) for one in each.fails],
        )
        for number, each in enumerate(of[: ask.limit])
    ]  # fmt: skip


def _works(of: Works) -> schema.Works:
    return schema.Works(id=of.procedure, rate=of.rate, low=of.lower, lift=of.lift, runs=of.runs)
