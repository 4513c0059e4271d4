"""What is found in a sample of runs: relations, patterns, insights, and a model of success. Pure, some seconds each.

The same sample gives the same, so that a start, another process and a forget that is done again agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import networkx as nx

from jetmem.domain.procedures import contagion, insights, patterns, prediction, relations
from jetmem.domain.procedures.estimate import Prior
from jetmem.domain.procedures.insights import Insight
from jetmem.domain.procedures.patterns import Pattern, Steps
from jetmem.domain.procedures.prediction import Fitted, Sample
from jetmem.domain.procedures.relations import Edge, Together
from jetmem.learn.sample import Sampled

#: Procedures of a graph, those that were run most: every two of them are compared.
RELATED_MAX: Final = 2_000
#: Procedures of one task that are compared with each other.
TOGETHER_MAX: Final = 48
#: Patterns that are kept, those that succeeded most.
PATTERNS_MAX: Final = 5_000


@dataclass(frozen=True, slots=True)
class Related:
    """Procedures as a graph; `boosts` is empty unless contagion is on."""

    graph: nx.DiGraph
    edges: list[Edge]
    boosts: Mapping[str, contagion.Boost] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recurring:
    """Patterns, and the row that counts all runs with steps."""

    rows: Mapping[Steps, Pattern]
    every: Pattern


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model, where each procedure is in its answers, and what their rates were when it was fitted."""

    fitted: Fitted | None
    row: Mapping[str, int]
    rates: Mapping[str, float]

    @property
    def judged(self) -> bool:
        """Whether there was enough to compare candidates on what they had not seen."""
        return self.fitted is not None and bool(self.fitted.held.loss)


#: Of too few tasks to judge anything by.
UNJUDGED: Final = Model(None, {}, {})


def related(of: Sampled, *, spread: bool) -> Related:
    """Relate procedures to each other.

    Args:
        of: Runs.
        spread: Whether success is catching.
    """
    counted = Counter(run.procedure for run in of.runs if run.procedure)
    names = sorted(sorted(counted, key=lambda name: (-counted[name], name))[:RELATED_MAX])
    edges = relations.bounded([*relations.similar(names, of.means(names)), *_together(of, counted), *_follows(of)])
    graph = relations.graph(edges)
    return Related(graph, edges, _boosts(of, graph) if spread else {})


def _together(of: Sampled, counted: Mapping[str, int]) -> list[Edge]:
    """CONTEXT_RELATED: procedures that were tried, and succeeded, at the same tasks."""
    tried: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for run in of.runs:
        if run.procedure:
            tried[run.task][run.procedure] = tried[run.task].get(run.procedure, False) or run.success
    pairs: defaultdict[tuple[str, str], Together] = defaultdict(Together)
    for found in tried.values():
        names = sorted(sorted(found, key=lambda name: (-counted[name], name))[:TOGETHER_MAX])
        for at, one in enumerate(names):
            for other in names[at + 1 :]:
                pairs[one, other] = relations.together(pairs[one, other], found[one], found[other])
    edges = []
    for (one, other), pair in pairs.items():
        strength = relations.context_strength(pair)
        if strength > 0:
            edges += [Edge(one, other, "context_related", strength), Edge(other, one, "context_related", strength)]
    return edges


def _follows(of: Sampled) -> list[Edge]:
    """FOLLOWS: procedures that came one after the other in a session; not after themselves."""
    sessions: defaultdict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    for run in of.runs:
        if run.procedure:
            sessions[run.agent, run.session].append((run.at_ms, run.seq, run.procedure))
    after: Counter[tuple[str, str]] = Counter()
    before: Counter[str] = Counter()
    for runs in sessions.values():
        ordered = [name for _, _, name in sorted(runs)]
        for one, other in pairwise(ordered):
            before[one] += 1
            after[one, other] += one != other
    found = [
        Edge(one, other, "follows", relations.follows_strength(count, before[one]))
        for (one, other), count in after.items()
        if count
    ]
    return sorted(found)


def _boosts(of: Sampled, graph: nx.DiGraph) -> dict[str, contagion.Boost]:
    """What runs move their procedures' neighbours by, each run once."""
    reached: dict[str, dict[str, float]] = {}
    known: dict[str, contagion.Expected] = {}
    boosts: dict[str, contagion.Boost] = {}
    prior = Prior().mean
    for run in of.runs:
        if run.procedure not in reached:
            reached[run.procedure] = relations.reach(graph, run.procedure)
        seen = known.get(run.procedure, contagion.Expected())
        said = contagion.expected(seen, run.at_ms, prior)
        for name, amount in contagion.spread(run.success, said, reached[run.procedure]).items():
            boosts[name] = contagion.apply(boosts.get(name, contagion.Boost()), amount, run.seq, run.at_ms)
        known[run.procedure] = contagion.see(seen, run.seq, run.at_ms, run.success)
    return boosts


def recurring(of: Sampled) -> Recurring:
    """Count patterns of steps."""
    rows: dict[Steps, Pattern] = {}
    every = Pattern()
    for run in of.runs:
        if run.steps:
            every = patterns.apply(every, run)
            for steps in patterns.within(run.steps):
                rows[steps] = patterns.apply(rows.get(steps, Pattern()), run)
    often = sorted(rows, key=lambda steps: (-rows[steps].successes, steps))[:PATTERNS_MAX]
    return Recurring({steps: rows[steps] for steps in often if rows[steps].successes >= patterns.SUCCESSES_MIN}, every)


def told(of: Sampled) -> list[Insight]:
    """Cluster tasks."""
    sample, names = of.situations()
    return insights.insights(sample.situations, sample.successes, sample.runs, names) if names else []


def model(sample: Sample, names: list[str], rates: Mapping[str, float], boost: bool) -> Model:
    """Fit a model of success; whether it is used, its gate says.

    Args:
        sample: Outcomes, of these procedures.
        names: Procedures, in the order of the sample.
        rates: Of procedures, now.
        boost: Whether gradient boosting is a candidate.
    """
    fitted = prediction.fit(sample, boost=boost)
    return Model(fitted, {name: at for at, name in enumerate(names)}, {n: rates[n] for n in names if n in rates})
