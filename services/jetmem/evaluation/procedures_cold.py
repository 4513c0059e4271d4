"""Cold procedures: what helps one that was seen in 3 runs only, beside others that are known well.

Each procedure in turn is the cold one, in each fold; log-loss is over its held-out runs. Contagion runs over the
training runs in random order, one a time step, along the relations that the training runs show.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import contagion, estimate, prediction, relations
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.prediction import Sample, losses
from jetmem.domain.procedures.relations import Edge, Together
from jetmem.evaluation.procedures_data import FOLDS, Data
from jetmem.evaluation.procedures_scores import Figure, difference, figure

RUNS: Final = 3
#: The procedure's rate, drawn to procedures in general by as much as they are alike.
RATE: Final = "global rate, prior from the spread"
#: That, moved by boosts that are worth m runs.
BOOSTED: Final = {f"contagion, m = {m:g}": m for m in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)}
_SEED: Final = 17


class Cold(msgspec.Struct, frozen=True):
    """Log-loss by way; what those of `BOOSTED` change of that of `RATE`, below 0 is better."""

    data: str
    ways: dict[str, Figure]
    contagion: dict[str, Figure]
    mean_boost: float


def measure(data: Data) -> Cold:
    """Answer for every cold procedure."""
    successes, runs = data.outcomes()
    answers: dict[str, Floats] = {}
    boosts: list[float] = []
    rng = np.random.default_rng(_SEED)
    for number in range(FOLDS):
        rows, out = np.flatnonzero(data.fold != number), np.flatnonzero(data.fold == number)
        order = [int(each) for each in rng.permutation(len(data.runs)) if data.fold[data.row[int(each)]] != number]
        for which in range(len(data.procedures)):
            kept = _but_few(data, order, which)
            sample = data.sample(kept, rows)
            found, boost = _cold(data, sample, kept, which, out)
            boosts.append(abs(boost))
            for name, p in found.items():
                answers.setdefault(name, np.zeros(runs.shape))[out, which] = p
    lost = {name: losses(p, successes, runs).sum(1) for name, p in answers.items()}
    weight = runs.sum(1)
    changed = {name: difference(lost[name], lost[RATE], weight, data.group) for name in BOOSTED}
    return Cold(
        data.name,
        {name: figure(each, weight, data.group) for name, each in lost.items()},
        changed,
        float(np.mean(boosts)),
    )


def _but_few(data: Data, order: list[int], which: int) -> list[int]:
    """All runs but those of one procedure, of which only the first few."""
    left, kept = RUNS, []
    for number in order:
        if data.runs[number].procedure == data.procedures[which]:
            left -= 1
            if left < 0:
                continue
        kept.append(number)
    return kept


def _cold(
    data: Data, sample: Sample, kept: list[int], which: int, out: NDArray[np.intp]
) -> tuple[dict[str, Floats], float]:
    won, had = sample.successes.sum(0), sample.runs.sum(0)
    every = float((won.sum() + 1) / (had.sum() + 2))
    boost = _boost(data, sample, kept, which, every)
    kin = [i for i, agent in enumerate(data.agents) if agent == data.agents[which] and i != which]
    family = (won[kin].sum() + 4 * every) / (had[kin].sum() + 4)
    known, n = estimate.rates(won, had)[which], had[which]
    rates = {RATE: known} | {name: contagion.moved(known, n, np.array(boost), m) for name, m in BOOSTED.items()}
    rates |= {f"agent's other procedures {m:g}": estimate.shrunk(won[which], n, family, m) for m in (2.0, 4.0)}
    answers = {name: np.full(len(out), rate) for name, rate in rates.items()}
    fitted = prediction.fit(sample)
    asked = data.situations.take(out)
    answers["neighbours"] = fitted.predict(asked, "simple")[:, which]
    answers["difficulty"] = fitted.predict(asked, "factors")[:, which]
    answers["jetmem (gated)"] = fitted.predict(asked)[:, which]
    return answers, boost


def _boost(data: Data, sample: Sample, kept: list[int], which: int, every: float) -> float:
    graph = relations.graph(related(data, sample))
    if data.procedures[which] not in graph.names:
        return 0.0
    number = {name: at for at, name in enumerate(graph.names)}
    steps = enumerate((data.runs[at] for at in kept), 1)
    told = [(number[run.procedure], run.success, step) for step, run in steps if run.procedure in number]
    runs, success, step = np.array(told, np.int64).T
    at_ms, reach = step * contagion.STEP_MS, relations.reach(graph)
    moved = contagion.boosts(runs, success.astype(np.bool_), at_ms, every, reach)[number[data.procedures[which]]]
    return contagion.value(moved, len(kept) * contagion.STEP_MS)


def related(data: Data, sample: Sample) -> list[Edge]:
    """CONTEXT_RELATED and SIMILAR_TO, from what the training runs show."""
    edges: list[Edge] = []
    tried, won = sample.runs > 0, sample.successes > 0
    for i, name in enumerate(data.procedures):
        for j, other in enumerate(data.procedures):
            both = tried[:, i] & tried[:, j]
            if i != j and both.any():
                a, b = won[both, i], won[both, j]
                pair = Together(int(both.sum()), int((a | b).sum()), int((a & b).sum()))
                strength = relations.context_strength(pair)
                if strength > 0:
                    edges.append(Edge(name, other, "context_related", strength))
    means = (sample.runs.T @ sample.situations.vectors).astype(np.float32)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    return relations.bounded([*edges, *relations.similar(data.procedures, means)])
