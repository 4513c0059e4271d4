"""What studies found, as users see it; pure."""

from __future__ import annotations

from collections.abc import Sequence

from jetmem.domain.procedures import patterns as rules
from jetmem.domain.procedures import relations
from jetmem.domain.procedures.insights import Insight, Works
from jetmem.learn.study import Recurring
from jetmem.learn.study import Related as Graph
from jetmem_schemas import procedures as schema
from jetmem_schemas.procedures import InsightItem, Next, PatternItem, RelatedProcedure
from jetmem_schemas.procedures_asked import PatternsFound

#: Steps that are told to come next, the likeliest.
_NEXT: int = 5
_EXAMPLE_CHARS: int = 300


def related(of: Graph, ask: schema.Related) -> list[RelatedProcedure]:
    """Neighbours within so many hops, by the strongest path, over edges of the kinds asked for."""
    found = relations.paths(of.graph, ask.id, ask.hops, ask.kinds or relations.KINDS, ask.limit)
    return [
        RelatedProcedure(id=each.names[-1], kind=each.kind, strength=each.strength, path=each.names) for each in found
    ]


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
