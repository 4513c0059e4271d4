"""The five folds through a running pipeline: runs are published, and every held-out task is asked about as agents ask.

Each fold is a tenant of its own, which has seen the runs of the other folds' tasks. One more has seen a run of every
task: whether a paraphrase finds it is read off what `recommend` says is similar.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem import client
from jetmem.adapters.nats_ask import ask
from jetmem.client import Client, Outgoing
from jetmem.console.temporary import Pipeline, pipeline
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.run import Ran
from jetmem.evaluation import metrics
from jetmem.evaluation.procedures_data import FOLDS, Data
from jetmem.evaluation.procedures_retrieval import Found, found, questions
from jetmem.evaluation.procedures_scores import Scores, score
from jetmem.evaluation.show import Told, progress
from jetmem.runtime.errors import Broken
from jetmem_schemas import subjects
from jetmem_schemas.internal import StageStatus
from jetmem_schemas.procedure_replies import RecommendReply

_NAME: Final = "jetmem eval-procedures"
_SESSION: Final = "evaluation"
_PUBLISH_S: Final = 120.0
_WAIT_MS: Final = 10_000
_ASK_S: Final = 30.0
_LOOK_S: Final = 0.5
#: On a busy machine embed may be late for a question.
_TRIES: Final = 5
#: Some steps of the data are whole scripts.
_TOOL_CHARS_MAX: Final = 256
_SEED: Final = 3
#: What learn has yet to do before its answers are those of all runs.
_UNDONE: Final = ("pending_tasks", "model_behind")


class Piped(NamedTuple):
    """How good answers were, how long a question took, and what paraphrases found; None where there are none."""

    scores: Scores
    latency: metrics.Spread
    retrieval: Found | None


async def measure(data: Data, say: Told) -> Piped:
    """Start the service, publish, ask, stop.

    Raises:
        Broken: A process died, or an answer was degraded or lacked a procedure.
    """
    successes, runs = data.outcomes()
    probability = np.zeros(runs.shape)
    spent: list[float] = []
    order = np.random.default_rng(_SEED).permutation(len(data.runs))
    async with pipeline("jetmem-eval-procedures-", say.say) as running:
        async with client.connect(running.url, tenant="eval", name=_NAME) as memory:
            folds = [memory.as_tenant(f"fold{number}") for number in range(FOLDS)]
            for number, fold in enumerate(folds):
                say.say(f"{data.name}: publishing the runs of fold {number}'s training tasks")
                await _publish(fold, data, [int(each) for each in order if data.fold[data.row[each]] != number])
            for fold in folds:
                await _learnt(fold, say)
            with progress(say, f"{data.name}: asking about {len(data.tasks)} tasks", len(data.tasks)) as step:
                for number, fold in enumerate(folds):
                    for row in np.flatnonzero(data.fold == number):
                        began = time.perf_counter()
                        reply = await _ask(fold, data, int(row), say)
                        spent.append(time.perf_counter() - began)
                        probability[row] = _row(reply, data.procedures)
                        step()
            hits = await _found(memory.as_tenant("solved"), data, say)
        _whole(running)
    return Piped(score(probability, successes, runs, data.group), metrics.spread(spent), hits)


async def _found(solved: Client, data: Data, say: Told) -> Found | None:
    """Ask about every task that has a paraphrase; the task itself, which is solved, too, does not count."""
    asked = questions(data)
    if not len(asked):
        return None
    await _publish(solved, data, [list(data.row).index(row) for row in sorted(set(data.row))])
    await _learnt(solved, say)
    place = {text: row for row, text in enumerate(data.situations.texts)}
    ranked = []
    with progress(say, f"{data.name}: looking for {len(asked)} paraphrases", len(asked)) as step:
        for row in asked:
            reply = await _ask(solved, data, int(row), say)
            ranked.append([place[each.task] for each in reply.similar])
            step()
    return found(data, asked, ranked)


async def _publish(fold: Client, data: Data, numbers: Sequence[int]) -> None:
    some = [_outgoing(data.runs[number], data.agents) for number in numbers]
    await fold.publish_many(some, timeout_s=_PUBLISH_S)


def _outgoing(run: Ran, agents: Sequence[str]) -> Outgoing:
    body: dict[str, Any] = {
        "task": run.task,
        "success": run.success,
        "procedure": run.procedure,
        "context": run.context,
        "steps": [{"tool": step[:_TOOL_CHARS_MAX]} for step in run.steps],
    }
    if run.reward is not None:
        body["reward"] = min(max(run.reward, 0.0), 1.0)
    return Outgoing(event=body, session=_SESSION, agent=f"agent-{agents.index(run.agent)}", kind="run")


async def _learnt(fold: Client, say: Told) -> None:
    """Wait until every run counts, every task has its vector, and what is fitted is of all runs."""
    while (await fold.procedures(limit=1, after="mine", wait_ms=_WAIT_MS)).stale:
        say.still(f"{fold.tenant}: runs are behind")
    subject = subjects.service("learn", subjects.partition_of(fold.tenant), "status")
    while True:
        status = await ask(fold.nats, subject, {"tenant": fold.tenant}, StageStatus, _ASK_S)
        undone = {name: status.counts[name] for name in _UNDONE if status.counts[name]}
        if not undone:
            return
        if set(undone) == {"model_behind"}:
            await fold.recommend("anything", k=1)  # a model is made for who asks
        say.still(f"{fold.tenant}: {undone}")
        await asyncio.sleep(_LOOK_S)


async def _ask(fold: Client, data: Data, row: int, say: Told) -> RecommendReply:
    task, context = data.situations.texts[row], data.situations.contexts[row]
    for _ in range(_TRIES):
        reply = await fold.recommend(task, context=context, k=len(data.procedures))
        if not reply.degraded and not reply.stale:
            return reply
        await _learnt(fold, say)  # a model takes seconds, and may have been put away
    raise Broken(f"answers about {data.tasks[row].task_id} stay degraded: {reply.degraded}, stale {reply.stale}")


def _row(reply: RecommendReply, procedures: Sequence[str]) -> Floats:
    found = {each.id: each.probability for each in reply.procedures}
    missing = set(procedures) - found.keys()
    if missing:
        raise Broken(f"an answer lacks {', '.join(sorted(missing))}")
    row: NDArray[np.float64] = np.array([found[each] for each in procedures])
    return row


def _whole(running: Pipeline) -> None:
    if running.restarts():
        raise Broken(f"{running.restarts()} processes died and were restarted: the figures would be worthless")
