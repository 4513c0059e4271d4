"""What query asks learn about procedures, and what learn found: MessagePack, never seen by users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from jetmem_schemas.internal import Head
from jetmem_schemas.procedures import (
    Insights,
    Interval,
    Neighbour,
    Next,
    PatternItem,
    Patterns,
    Predict,
    ProcedureAsk,
    Procedures,
    Recommend,
    Recommended,
    Related,
    Why,
)


class RecommendAsk(msgspec.Struct, frozen=True):
    """`Recommend` with the task's vector, float32, b"" if it could not be encoded."""

    tenant: str
    ask: Recommend
    vector: bytes
    model: str


class PredictAsk(msgspec.Struct, frozen=True):
    """`Predict`, likewise."""

    tenant: str
    ask: Predict
    vector: bytes
    model: str


class ProceduresAsk(msgspec.Struct, frozen=True):
    """One page of `procedures`; `start` is how many came before."""

    tenant: str
    ask: Procedures
    start: int = 0


class PatternsAsk(msgspec.Struct, frozen=True):
    """One page of `patterns`, likewise."""

    tenant: str
    ask: Patterns
    start: int = 0


class OneAsk(msgspec.Struct, frozen=True):
    """`procedure`."""

    tenant: str
    ask: ProcedureAsk


class RelatedAsk(msgspec.Struct, frozen=True):
    """`related`."""

    tenant: str
    ask: Related


class InsightsAsk(msgspec.Struct, frozen=True):
    """`insights`."""

    tenant: str
    ask: Insights


T = TypeVar("T")


class Found(msgspec.Struct, Generic[T], frozen=True):
    """What learn found, and up to where it has learnt.

    `value` is None where there is no such procedure; `more`: items follow the page. `degraded`: tasks were compared
    without vectors, for they lack. `left_out`: of a list of procedures, those that it leaves out. `lacks`: what
    is being made of the runs and was not there yet: `words` of tasks, by which evidence is put in order, and the
    `model` of success.
    """

    value: T | None
    at: Head
    more: bool = False
    degraded: bool = False
    left_out: int = 0
    lacks: Sequence[str] = ()


class RecommendFound(msgspec.Struct, frozen=True):
    """What `recommend` found."""

    procedures: list[Recommended]
    cold: bool
    similar: list[Neighbour] = []


class PredictFound(msgspec.Struct, frozen=True):
    """What `predict` found."""

    probability: float
    interval: Interval
    why: Why
    cold: bool


class PatternsFound(msgspec.Struct, frozen=True):
    """What `patterns` found."""

    patterns: list[PatternItem]
    next: list[Next]
