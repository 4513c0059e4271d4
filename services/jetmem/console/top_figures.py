"""What `jetmem top` shows, from what processes say of themselves: rates between two looks, quantiles, shares."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from jetmem import flow
from jetmem.runtime import metrics

#: Name of a series and its labels, sorted.
Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
_VERBS_MAX: Final = 8
_QUERY: Final = "query"
_SERVED: Final = "served"


class Look(NamedTuple):
    """One process at one moment: when (seconds, monotonic), what `/healthz` said ({}: no answer), every series."""

    at: float
    health: Mapping[str, Any]
    series: Mapping[Key, float]


class StageFigures(msgspec.Struct, frozen=True):
    """One process.

    Attributes:
        process: As it is called where it was found: its stage, or its address.
        rate: What it took in a second; None where it did not answer twice.
        lag: Entries not yet applied, the oldest of them `lag_s` old.
        shard: Its ordinal, of a stage with a store; None where it is not known.
        served: Partitions that it serves.
        moving: Partitions that are on their way to it or from it.
    """

    stage: str
    process: str
    healthy: bool
    detail: str
    rate: float | None
    lag: int
    lag_s: float
    last_error: str
    shard: int | None = None
    served: int | None = None
    moving: int = 0


class Spread(msgspec.Struct, frozen=True):
    """How long something took, in seconds: `count` of them, within the window or, if none were, since the start."""

    name: str
    count: int
    p50_s: float
    p99_s: float
    since_start: bool


class Snapshot(msgspec.Struct, frozen=True):
    """Everything at one moment; `window_s` is what rates and spreads are about."""

    window_s: float
    stages: list[StageFigures]
    freshness: list[Spread]
    verbs: list[Spread]
    dead_letters: int | None
    degraded: dict[str, float]


def read(text: str) -> dict[Key, float]:
    """The series of one `/metrics`; of a text that is none, or cut, what could be read."""
    found: dict[Key, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                found[name, tuple(sorted(labels.items()))] = value
    except ValueError:
        return found
    return found


def snapshot(before: Mapping[str, Look], after: Mapping[str, Look]) -> Snapshot:
    """What happened between two looks at the same processes, by name; the first may lack some, or be the same."""
    spans = [after[name].at - before[name].at for name in after if name in before]
    grown = [_grown(before.get(name), look) for name, look in sorted(after.items())]
    whole = [look.series for look in after.values()]
    held = [look.health["dead_letters"] for look in after.values() if look.health.get("dead_letters") is not None]
    return Snapshot(
        window_s=round(max(spans, default=0.0), 1),
        stages=sorted((_stage(name, before.get(name), look) for name, look in after.items()), key=_place),
        freshness=_spreads(metrics.series(metrics.freshness), "arm", grown, whole, {}),
        verbs=_slowest(_spreads(metrics.series(metrics.request_seconds), "verb", grown, whole, {"stage": _QUERY})),
        dead_letters=max(held) if held else None,
        degraded=_shares(grown),
    )


def _place(each: StageFigures) -> tuple[int, int, str]:
    """As the flow goes; who does not say what it is comes last."""
    known = flow.NAMES.index(each.stage) if each.stage in flow.NAMES else len(flow.NAMES)
    return known, -1 if each.shard is None else each.shard, each.process


def _slowest(verbs: Iterable[Spread]) -> list[Spread]:
    """What was asked just now before what was asked once, each the slowest first."""
    return sorted(verbs, key=lambda each: (each.since_start, -each.p99_s))[:_VERBS_MAX]


def _stage(name: str, before: Look | None, look: Look) -> StageFigures:
    health = look.health
    stage = str(health.get("stage", "")) or name
    if not health:
        return StageFigures(stage, name, False, "does not answer", None, 0, 0.0, "")
    lag_s = sum(_values(look.series, metrics.series(metrics.lag_seconds)))
    shard, parts = _partitions(look)
    return StageFigures(
        stage,
        name,
        bool(health.get("healthy")),
        str(health.get("detail") or ""),
        _rate(stage, before, look),
        int(health.get("lag") or 0),
        round(lag_s, 1),
        str(health.get("last_error") or ""),
        shard,
        parts.get(_SERVED, 0) if parts else None,
        sum(count for state, count in parts.items() if state != _SERVED),
    )


def _partitions(look: Look) -> tuple[int | None, dict[str, int]]:
    """Ordinal of a process, and its partitions by what it does with them; none of a stage without a store."""
    shard, found = None, {}
    for (name, labels), value in look.series.items():
        if name == metrics.series(metrics.partitions):
            its = dict(labels)
            shard, found[its["state"]] = int(its["shard"]), int(value)
    return shard, found


def _rate(stage: str, before: Look | None, look: Look) -> float | None:
    if before is None or not before.health or look.at <= before.at:
        return None
    taken = metrics.requests if stage == _QUERY else metrics.received
    grown = _grown(before, look)
    return round(sum(_values(grown, metrics.series(taken), {"stage": stage})) / (look.at - before.at), 1)


def _grown(before: Look | None, look: Look) -> dict[Key, float]:
    """By how much each series rose; one that fell began again from 0."""
    old = before.series if before is not None else {}
    return {
        key: value - old.get(key, 0.0) if value >= old.get(key, 0.0) else value for key, value in look.series.items()
    }


def _values(series: Mapping[Key, float], name: str, labels: Mapping[str, str] | None = None) -> list[float]:
    wanted = set((labels or {}).items())
    return [value for (found, its), value in series.items() if found == name and wanted <= set(its)]


def _shares(grown: Sequence[Mapping[Key, float]]) -> dict[str, float]:
    """Share of answers without an arm, by arm; arms that none lacked are absent."""
    answers = sum(sum(_values(each, metrics.series(metrics.requests), {"stage": _QUERY})) for each in grown)
    lacked: dict[str, float] = defaultdict(float)
    for each in grown:
        for (name, labels), value in each.items():
            if name == metrics.series(metrics.degraded):
                lacked[dict(labels)["arm"]] += value
    return {arm: round(count / answers, 3) for arm, count in sorted(lacked.items()) if count and answers}


def _spreads(
    name: str,
    label: str,
    grown: Sequence[Mapping[Key, float]],
    whole: Sequence[Mapping[Key, float]],
    only: Mapping[str, str],
) -> list[Spread]:
    recent, ever = _buckets(name, label, grown, only), _buckets(name, label, whole, only)
    found = []
    for value, buckets in sorted(ever.items()):
        quiet = not _count(recent.get(value, {}))
        seen = buckets if quiet else recent[value]
        if _count(seen):
            p50, p99 = (round(quantile(q, seen), 4) for q in (0.5, 0.99))
            found.append(Spread(value, int(_count(seen)), p50, p99, quiet))
    return found


def _buckets(
    name: str, label: str, looks: Sequence[Mapping[Key, float]], only: Mapping[str, str]
) -> dict[str, dict[float, float]]:
    """Cumulative counts by upper bound, by the label's value, over all processes."""
    found: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for look in looks:
        for (series, its), value in look.items():
            labels = dict(its)
            if series == f"{name}_bucket" and set(only.items()) <= set(its):
                found[labels[label]][float(labels["le"])] += value
    return found


def _count(buckets: Mapping[float, float]) -> float:
    return buckets.get(math.inf, 0.0)


def quantile(q: float, buckets: Mapping[float, float]) -> float:
    """Where a share `q` of what was counted is below, linear within its bucket, as Prometheus has it.

    Args:
        q: 0 to 1.
        buckets: Cumulative counts by upper bound, infinity among them, not all 0.

    Returns:
        At most the highest finite bound.
    """
    wanted = q * buckets[math.inf]
    below, last = 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] >= wanted and buckets[bound] > below:
            return last if math.isinf(bound) else last + (bound - last) * (wanted - below) / (buckets[bound] - below)
        below, last = buckets[bound], last if math.isinf(bound) else bound
    return last
