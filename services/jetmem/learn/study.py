"""What is found in a sample of runs: relations, patterns, insights, and a model of success. Pure, some seconds each.

The same sample gives the same, so that a start, another process and a forget that is done again agree.
"""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from jetmem.domain.procedures import contagion, difficulty, insights, patterns, prediction, relations
from jetmem.domain.procedures.estimate import Prior
from jetmem.domain.procedures.insights import Insight
from jetmem.domain.procedures.kernels import Vectors
from jetmem.domain.procedures.patterns import Pattern, Steps
from jetmem.domain.procedures.prediction import Fitted, Sample
from jetmem.domain.procedures.relations import Edge, Together
from jetmem.domain.procedures.repeats import Worths
from jetmem.domain.procedures.run import Ran
from jetmem.learn.core import pairs_of
from jetmem.learn.rows import hashed
from jetmem.learn.sample import Sampled

#: Procedures of a graph, those that were run most: every two of them are compared.
RELATED_MAX: Final = 2_000
#: Procedures of one task that are compared with each other.
TOGETHER_MAX: Final = 48
#: Tasks that are looked at for near-equal ones: every two of them are compared.
NEAR_EQUAL_MAX: Final = 3_000
_NONE: Final[Mapping[Any, Any]] = {}
#: Patterns that are kept, those that succeeded most.
PATTERNS_MAX: Final = 5_000
#: Rough cost in Python's objects of a pattern with its steps and latest runs.
_PATTERN_BYTES: Final = 3_500


@dataclass(frozen=True, slots=True)
class Related:
    """Procedures as a graph, of a bounded number of edges from each.

    `boosts` is empty unless contagion is on; `meanings` are vectors of definitions, by hash of their text.
    """

    graph: relations.Graph
    boosts: Mapping[str, contagion.Boost] = field(default_factory=dict)
    meanings: Mapping[bytes, Vectors] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        return self.graph.nbytes + sum(each.nbytes for each in self.meanings.values())


@dataclass(frozen=True, slots=True)
class Recurring:
    """Patterns, and the row that counts all runs with steps."""

    rows: Mapping[Steps, Pattern]
    every: Pattern

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        return _PATTERN_BYTES * len(self.rows)


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model, where each procedure is in its answers, and what their rates were when it was fitted.

    None of too few tasks to judge anything by. `worths` of runs at the very same task, and by the same agent.
    """

    fitted: Fitted | None
    row: Mapping[str, int]
    rates: Mapping[str, float]
    worths: Worths = field(default=Worths())

    @property
    def nbytes(self) -> int:
        """Memory, about: as much as it is when it is sent."""
        return len(pickle.dumps(self))

    @property
    def judged(self) -> bool:
        """Whether there was enough to compare candidates on what they had not seen."""
        return self.fitted is not None and bool(self.fitted.held.loss)


def named(of: Sampled) -> list[str]:
    """Procedures that are related to each other: those that were run most, by name."""
    return sorted(_most(Counter(run.procedure for run in of.runs if run.procedure), RELATED_MAX))


def related(
    of: Sampled, *, spread: bool, defined: Mapping[str, bytes] = _NONE, meanings: Mapping[bytes, Vectors] = _NONE
) -> Related:
    """Relate procedures to each other.

    Args:
        of: Runs.
        spread: Whether success is catching.
        defined: Hashes of what definitions say, by procedure.
        meanings: Unit vectors of what they say, by that hash; who has none is known by its mean task.
    """
    names = named(of)
    counted = Counter(run.procedure for run in of.runs)
    known = {name: counted[name] for name in names}
    vectors = of.means(names)
    for at, name in enumerate(names):
        meaning = meanings.get(defined.get(name, b""))
        if meaning is not None and len(meaning) == vectors.shape[1]:
            vectors[at] = meaning
    edges = relations.bounded([*relations.similar(names, vectors), *_together(of, known), *_follows(of, known)])
    graph = relations.graph(edges)
    return Related(graph, boosts(of.runs, graph) if spread else {}, meanings)


def _most(counted: Mapping[str, int], most: int) -> list[str]:
    return sorted(counted, key=lambda each: (-counted[each], each))[:most]


def _together(of: Sampled, counted: Mapping[str, int]) -> list[Edge]:
    """CONTEXT_RELATED: procedures that were tried, and succeeded, at the same or near-equal tasks, and contexts."""
    kind = _near_equal(of)
    runs = [run for run in of.runs if run.procedure in counted]
    one: dict[bytes, str] = {}
    several: set[bytes] = set()  # where others were tried, too: a context may have a value of its own for each run
    for run in runs:
        several.update(at for at in _places(run, kind, of) if one.setdefault(at, run.procedure) != run.procedure)
    del one
    tried: defaultdict[bytes, dict[str, bool]] = defaultdict(dict)
    for run in runs:
        for place in _places(run, kind, of):
            if place in several:
                tried[place][run.procedure] = tried[place].get(run.procedure, False) or run.success
    at: defaultdict[str, list[Mapping[str, bool]]] = defaultdict(list)
    for found in tried.values():
        kept = {name: found[name] for name in _most({name: counted[name] for name in found}, TOGETHER_MAX)}
        for name in kept:
            at[name].append(kept)
    return [edge for name in sorted(at) for edge in relations.bounded(_beside(name, at[name]))]


def _places(run: Ran, kind: Mapping[str, str], of: Sampled) -> list[bytes]:
    """Keys of what two procedures may both have been tried at: the task, or one like it, and each context value."""
    task = kind.get(run.task, run.task)
    return [b"t" + of.keys.get(task, b""), *(b"c" + hashed(pair) for pair in pairs_of(run.context))]


def _beside(name: str, places: Iterable[Mapping[str, bool]]) -> Iterator[Edge]:
    """Of one procedure at a time: pairs of all would be millions."""
    pairs: defaultdict[str, Together] = defaultdict(Together)
    for found in places:
        for other, won in found.items():
            if other != name:
                pairs[other] = relations.together(pairs[other], found[name], won)
    for other, pair in pairs.items():
        strength = relations.context_strength(pair)
        if strength > 0:
            yield Edge(name, other, "context_related", strength)


def _near_equal(of: Sampled) -> dict[str, str]:
    """The task that stands for each of those that ask the same; of the tasks that were run most."""
    tasks = sorted(_most(Counter(run.task for run in of.runs if run.task in of.vectors), NEAR_EQUAL_MAX))
    if not tasks:
        return {}
    vectors = of.matrix(tasks)
    numbers = difficulty.clusters((vectors @ vectors.T).astype(np.float64), prediction.NEAR_EQUAL)
    first: dict[int, str] = {}
    return {task: first.setdefault(int(number), task) for task, number in zip(tasks, numbers, strict=True)}


def _follows(of: Sampled, known: Container[str]) -> list[Edge]:
    """FOLLOWS: procedures that came one after the other in a session; not after themselves.

    Runs of the same millisecond go by id, so that the order in which they were recorded does not matter.
    """
    sessions: defaultdict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    for run in of.runs:
        if run.procedure:
            sessions[run.agent, run.session].append((run.at_ms, run.id, run.procedure))
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
        if count and one in known and other in known
    ]
    return sorted(found)


def boosts(runs: Iterable[Ran], graph: relations.Graph) -> dict[str, contagion.Boost]:
    """What runs, the oldest first, move their procedures' neighbours by."""
    number = {name: at for at, name in enumerate(graph.names)}
    told = [(number[run.procedure], run.success, run.at_ms) for run in runs if run.procedure in number]
    which, success, at_ms = np.array(told, np.int64).reshape(-1, 3).T
    moved = contagion.boosts(which, success.astype(np.bool_), at_ms, Prior().mean, relations.reach(graph))
    return {name: boost for name, boost in zip(graph.names, moved, strict=True) if boost.value}


def recurring(of: Sampled) -> Recurring:
    """Count patterns of steps."""
    often = patterns.often([run.steps for run in of.runs if run.success], PATTERNS_MAX)
    rows: dict[Steps, Pattern] = {}
    every = Pattern()
    for run in of.runs:
        if run.steps:
            every = patterns.apply(every, run)
            for steps in patterns.within(run.steps) & often:
                rows[steps] = patterns.apply(rows.get(steps, Pattern()), run)
    return Recurring(rows, every)


def told(of: Sampled) -> list[Insight]:
    """Cluster tasks."""
    sample, names = of.situations()
    return insights.insights(sample.situations, sample.successes, sample.runs, names) if names else []


def model(sample: Sample, names: list[str], rates: Mapping[str, float], worths: Worths, boost: bool) -> Model:
    """Fit a model of success; whether it is used, its gate says.

    Args:
        sample: Outcomes, of these procedures.
        names: Procedures, in the order of the sample.
        rates: Of procedures, now.
        worths: Of runs that came again.
        boost: Whether gradient boosting is a candidate.
    """
    fitted = prediction.fit(sample, boost=boost)
    row = {name: at for at, name in enumerate(names)}
    return Model(fitted, row, {name: rates[name] for name in names if name in rates}, worths)
