"""Answers about procedures, as users get them; made of what `procedures` describes."""

from __future__ import annotations

import msgspec

from jetmem_schemas.asking import Reply
from jetmem_schemas.procedures import (
    InsightItem,
    Interval,
    Neighbour,
    Next,
    PatternItem,
    ProcedureDetail,
    ProcedureItem,
    Recommended,
    RelatedProcedure,
    Why,
)


class RecommendReply(Reply, frozen=True, kw_only=True):
    """Procedures, best first. `cold`: nothing is known of such tasks; chances are told all the same, by what answers.

    That is: none of the procedures was run at this task, counts a run at tasks like it, or was run in its context.
    `similar`: the tasks most like this one, best first, of each the latest run that succeeded, else the latest.
    """

    procedures: list[Recommended]
    cold: bool
    similar: list[Neighbour] = []


class PredictReply(Reply, frozen=True, kw_only=True):
    """One procedure's chance; `cold`: it has no run."""

    probability: float
    interval: Interval
    why: Why
    cold: bool


class ProcedureReply(Reply, frozen=True, kw_only=True):
    """One procedure."""

    procedure: ProcedureDetail


class ProceduresReply(Reply, frozen=True, kw_only=True):
    """One page of procedures.

    `left_out`: how many the list does not have, of more than it holds; used least of late, they answer to their names.
    """

    procedures: list[ProcedureItem]
    left_out: int = 0
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class RelatedReply(Reply, frozen=True, kw_only=True):
    """The graph's neighbours."""

    procedures: list[RelatedProcedure]


class PatternsReply(Reply, frozen=True, kw_only=True):
    """Patterns, the surest first, and what tends to come next."""

    patterns: list[PatternItem]
    next: list[Next]
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class InsightsReply(Reply, frozen=True, kw_only=True):
    """Clusters of tasks."""

    insights: list[InsightItem]
