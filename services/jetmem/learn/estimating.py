"""How likely each procedure is to succeed at a task, from a board and the rows of the tasks most like it.

Work is bounded: so many tasks are looked at, so many procedures tried at each, and so many procedures weighed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures import choosing, contagion, estimate, repeats
from jetmem.domain.procedures.choosing import Candidate
from jetmem.domain.procedures.contagion import Boost
from jetmem.domain.procedures.estimate import Prior
from jetmem.domain.procedures.kernels import Floats, Situations, Vectors
from jetmem.domain.procedures.repeats import Worths
from jetmem.learn import nearby, ranks, similar
from jetmem.learn.board import WEIGHED_MAX, Board, Near, Standing, as_of, most
from jetmem.learn.core import pairs_of
from jetmem.learn.kept_shares import Told
from jetmem.learn.nearby import Trials
from jetmem.learn.rows import AGENT, CONTEXT, Brief, Rows, hashed
from jetmem.learn.sample import as_studied
from jetmem.learn.similar import Worded
from jetmem.learn.study import Model
from jetmem_schemas.procedures import How

#: Tasks nearest to the one asked about, and the cosine below which a run counts less than 0.02 runs. Log-loss of the
#: chain on intercode-sql-dev is 0.4508 with 32, 0.4500 with 48, 0.4495 with 64, 0.4486 with all; each costs a read of
#: its rows, some 0.07 ms where ten runs were made of it.
NEAR_TASKS: Final = 48
COSINE_MIN: Final = 0.3
#: Context values of a question that are looked at.
PAIRS_MAX: Final = 8
NO_BOOSTS: Final[Mapping[str, Boost]] = {}
#: Evidence at which an answer says what it rests on.
TELLING_RUNS: Final = 1.0


class Learnt(NamedTuple):
    """What was found in many runs at once.

    `model`: its gate says whether it is used. `boosts`: what neighbours' runs move priors by; empty unless contagion is
    on. `words`: of tasks; without them only vectors are compared. `version`: up to which `rseq` the model counts.
    """

    model: Model | None = None
    boosts: Mapping[str, Boost] = NO_BOOSTS
    words: Worded | None = None
    version: int = 0


NOTHING: Final = Learnt()


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is known of the procedures weighed, in rows of a board.

    Attributes:
        standing: The board as it stood.
        rows: Procedures weighed.
        probability: Of each of them, clipped.
        evidence: Runs that stand behind each, own and near, for who draws.
        weight: Runs that each is known as well as by, at this very task: the total weight of its Beta.
        near_runs: What runs at tasks like this one count for each.
        same_runs: Runs of each at the very same task.
        context_runs: Runs of each in this context, the fewest over its values.
        trials: What was tried at the nearest tasks.
        boosts: As of `Learnt`.
        hows: At places of `rows` that a model answered for, which one.
        version: Of the model.
    """

    standing: Standing
    rows: NDArray[np.intp]
    probability: Floats
    evidence: Floats
    weight: Floats
    near_runs: Floats
    same_runs: Floats
    context_runs: Floats
    trials: Trials
    hows: Mapping[int, How]
    boosts: Mapping[str, Boost]
    version: int = 0

    def model(self, at: int) -> int:
        """Version of the model that answered for a place of `rows`; 0 if none did."""
        return self.version if at in self.hows else 0

    def boost(self, at: int) -> float:
        """What waves of related procedures move the prior of one by."""
        boost = self.boosts.get(self.standing.names[self.rows[at]])
        return contagion.value(boost, self.standing.now_ms) if boost is not None else 0.0

    def candidates(self) -> list[Candidate]:
        """As `choosing.rank` takes them."""
        columns = (self.rows, self.probability, self.evidence, self.weight)
        found = zip(*(each.tolist() for each in columns), strict=True)
        return [Candidate(self.standing.names[row], *told) for row, *told in found]

    def how(self, at: int) -> How:
        """What the estimate at a place of `rows` rests on."""
        if at in self.hows:
            return self.hows[at]
        if self.near_runs[at] >= TELLING_RUNS:
            return "neighbours"
        if self.context_runs[at] >= TELLING_RUNS:
            return "context"
        return "rate" if self.standing.all_runs[self.rows[at]] else "none"

    def cold(self) -> bool:
        """Whether nothing is known of such tasks, whatever answered: no run at this one, like it, or in its context.

        Chances are told all the same: by rates, or by what a model makes of a task that is like none.
        """
        near = (self.near_runs >= TELLING_RUNS) | (self.same_runs > 0)
        return not (near | (self.context_runs >= TELLING_RUNS)).any()


class Asked(NamedTuple):
    """A question: the task's text, key and vector (empty if there is none), the context as it is compared."""

    tenant: str
    text: str
    task: bytes
    vector: Vectors
    context: dict[str, str]
    agent: str | None
    now_ms: int


def estimated(
    rows: Rows,
    board: Board,
    asked: Asked,
    only: bytes | None = None,
    learnt: Learnt = NOTHING,
) -> Estimates:
    """Estimate procedures.

    Args:
        rows: What is known.
        board: The same, in memory.
        asked: The question.
        only: One procedure; all if None.
        learnt: What was found in many runs at once.
    """
    standing, like = board.standing(asked.now_ms), _like(board, asked, learnt.words)
    if board.left_out:
        standing = standing.beside(_left_out(rows, asked.tenant, standing, like, only))
    rate = rates(standing, learnt.boosts)
    worths = learnt.model.worths if learnt.model is not None else Worths()
    trials = nearby.read(rows, asked.tenant, standing, like)
    near = nearby.counted(trials, len(standing.runs), like, worths, asked.now_ms)
    counted = near.runs + near.same_runs * max(1.0, estimate.NEAR_RUNS * worths.near)
    weighed = _weighed(standing, rate, counted, only)
    there, in_context, context_runs = _in_context(rows, board, asked, standing, weighed, rate[weighed])
    simple = estimate.clipped(estimate.shrunk(near.won[weighed], near.runs[weighed], there, estimate.NEAR_PRIOR))
    probability, hows = _chosen(asked, standing, weighed, rate[weighed], simple, learnt.model)
    by_agent = np.zeros(len(weighed))
    if asked.agent is not None:
        won, by_agent = _by_agent(rows, board, asked, [standing.keys[row] for row in weighed])
        plain = (standing.won / np.maximum(standing.runs, 1e-9))[weighed]
        probability = repeats.with_agent(probability, plain, won, by_agent, worths.agent)
    same_won, same_runs = near.same_won[weighed], near.same_runs[weighed]
    probability = estimate.clipped(repeats.with_task(probability, same_won, same_runs, worths.task))
    runs = standing.runs[weighed]
    weight = _weight(asked, worths, runs, in_context, by_agent, same_runs)
    # where runs at the very same task weigh more than all else, they answered and no model did
    hows = {at: how for at, how in hows.items() if same_runs[at] < worths.task}
    near_runs = counted[weighed]
    evidence = choosing.evidence(runs, in_context if asked.context else None, near_runs)
    return Estimates(
        standing, weighed, probability, evidence, weight, near_runs=near_runs, same_runs=same_runs,
        context_runs=context_runs, trials=trials, hows=hows, boosts=learnt.boosts, version=learnt.version,
    )  # fmt: skip


def _weight(asked: Asked, worths: Worths, runs: Floats, in_context: Floats, by_agent: Floats, same: Floats) -> Floats:
    """How well the chance of each at this very task is known: total weight of its Beta, in runs.

    As the chance is made: from what procedures are like in general to the rate, to the rate in this context, that of
    this agent, and at this task; each around the one before as far as its prior says, and then told by its own runs,
    of which none counts twice. Runs at like tasks move the chance, but how far this task lies from those they cannot
    tell: counted as runs at this one, less by their cosine, intervals held the true rate in 0.75 instead of 0.95.
    """
    weight = estimate.RATE_RUNS_MIN + runs
    if asked.context:
        weight = estimate.known(weight, estimate.CONTEXT_RUNS, in_context)
    if asked.agent is not None:
        weight = estimate.known(weight, worths.agent, by_agent)
    return estimate.known(weight, worths.task, same)


def rates(standing: Standing, boosts: Mapping[str, Boost] = NO_BOOSTS) -> Floats:
    """Each procedure's rate, shrunk to what procedures are like in general, moved by what is catching.

    In general is: those on the board. Of more than it holds, what is left out was used least of late; of those with one
    run, of which it holds the newest, that is a sample. A procedure of few runs weighs little (`estimate.prior`).
    """
    if not boosts:
        return standing.rate
    moves = np.zeros(standing.runs.shape)
    for name, boost in boosts.items():
        at = standing.row.get(hashed(name))
        if at is not None and at < len(moves):
            moves[at] = contagion.value(boost, standing.now_ms)
    return contagion.moved(standing.rate, standing.runs, moves)


def _chosen(
    asked: Asked, standing: Standing, weighed: NDArray[np.intp], rate: Floats, simple: Floats, model: Model | None
) -> tuple[Floats, Mapping[int, How]]:
    """Probabilities by what did best on runs that it had not seen, and of which places of `weighed` what answered.

    A procedure's rate goes on after a model was fitted: by as much as its log odds moved, so do the model's.
    """
    if model is None or model.fitted is None or not model.judged or model.fitted.how == "simple":
        return simple, {}
    if model.fitted.how == "rate":
        how: How = "rate"
        known = np.flatnonzero(standing.all_runs[weighed] > 0).tolist()
        return estimate.clipped(rate), dict.fromkeys(known, how)
    dimensions = model.fitted.dimensions
    if len(asked.vector) != dimensions:
        return simple, {}
    text = as_studied(asked.task, asked.text)  # else it is none of those that the model knows
    told = model.fitted.predict(Situations([text], asked.vector.reshape(1, -1), [asked.context]))[0]
    how = "boosted" if model.fitted.how == "boosted" else "difficulty"
    names = [standing.names[row] for row in weighed]
    at = [place for place, name in enumerate(names) if name in model.row and name in model.rates]
    answered = told[[model.row[names[place]] for place in at]]
    then = np.array([model.rates[names[place]] for place in at])
    probability = simple.copy()
    probability[at] = estimate.sigmoid(estimate.logit(answered) + estimate.logit(rate[at]) - estimate.logit(then))
    return estimate.clipped(probability), dict.fromkeys(at, how)


def unknown(rows: Rows, board: Board, now_ms: int) -> Prior:
    """What is thought of a procedure that nobody ran or defined."""
    standing = board.standing(now_ms)
    return estimate.prior(standing.won, standing.runs)


def _like(board: Board, asked: Asked, words: Worded | None) -> Near:
    """The very same task first, whether it has a vector or not, then those like it, by words where vectors lack."""
    near = board.near(asked.vector, NEAR_TASKS, COSINE_MIN) if len(asked.vector) else Near([], np.zeros(0))
    if words is not None:
        more = words.like(asked.text, NEAR_TASKS, every=not len(asked.vector))
        near = similar.together(near, more, NEAR_TASKS) if more.tasks else near
    others = [at for at, task in enumerate(near.tasks) if task != asked.task]
    # encoded beside other texts, the same words are a cosine of 0.99 away
    return Near([asked.task, *(near.tasks[at] for at in others)], np.r_[1.0, near.cosine[others]])


def _left_out(rows: Rows, tenant: str, standing: Standing, near: Near, only: bytes | None) -> list[tuple[bytes, Brief]]:
    """The procedure asked about, or those tried at such tasks, the nearest first, if the board has them not."""
    wanted = dict.fromkeys([only] if only is not None else [])
    if only is None:
        for found in rows.tried(tenant, near.tasks, nearby.TRIED_MAX):
            wanted |= dict.fromkeys(procedure for procedure, _ in found if procedure not in standing.row)
            if len(wanted) >= WEIGHED_MAX:
                break
    wanted = dict.fromkeys(each for each in list(wanted)[:WEIGHED_MAX] if each not in standing.row)
    return list(ranks.read(rows, tenant, list(wanted)))


def _weighed(standing: Standing, rate: Floats, near_runs: Floats, only: bytes | None) -> NDArray[np.intp]:
    """Rows of the procedures to weigh."""
    if only is not None:
        row = standing.row.get(only, len(rate))
        return np.array([row] if row < len(rate) else [], dtype=np.intp)
    if np.count_nonzero(standing.there) <= WEIGHED_MAX:
        return np.flatnonzero(standing.there)
    tried = np.flatnonzero(standing.there & (near_runs > 0))  # few: to choose among many zeros takes ten times as long
    held = standing.likeliest
    likeliest = held if rate is standing.rate else most(rate, np.flatnonzero(standing.there), standing.keys)
    return np.union1d(likeliest, most(near_runs, tried, standing.keys))


def _in_context(
    rows: Rows, board: Board, asked: Asked, standing: Standing, weighed: NDArray[np.intp], rate: Floats
) -> tuple[Floats, Floats, Floats]:
    """The rate of each in this context, decayed runs that it rests on, and plain runs.

    A run counts the share of the asked values that it was made in; with one value, whether it was.
    """
    pairs = pairs_of(asked.context)[:PAIRS_MAX]
    keys = [standing.keys[row] for row in weighed.tolist()]
    shares = [CONTEXT + hashed(pair) for pair in pairs]
    told = [board.shares.of(share, keys, partial(rows.shared, asked.tenant, share)) for share in shares]
    won, runs = np.zeros(len(keys)), np.zeros(len(keys))
    for each in told:
        each_won, each_runs = _now(each, asked.now_ms)
        won += each_won / len(told)
        runs += each_runs / len(told)
    fewest = np.min([each.all_runs for each in told], axis=0) if told else np.zeros(len(keys))
    return estimate.shrunk(won, runs, rate, estimate.CONTEXT_RUNS), runs, fewest


def _by_agent(rows: Rows, board: Board, asked: Asked, keys: list[bytes]) -> tuple[Floats, Floats]:
    """Decayed successes and runs of each procedure by the agent who asks."""
    share = AGENT + hashed(asked.agent or "")
    return _now(board.shares.of(share, keys, partial(rows.shared, asked.tenant, share)), asked.now_ms)


def _now(told: Told, now_ms: int) -> tuple[Floats, Floats]:
    """Successes and runs as they count now."""
    return as_of(told.won, told.won_at, now_ms), as_of(told.runs, told.runs_at, now_ms)


def asked_of(tenant: str, task: str, vector: Vectors, context: dict[str, str], agent: str | None, now_ms: int) -> Asked:
    """A question about a task, asked by or for an agent, if one is named."""
    return Asked(tenant, task, hashed(task), vector, context, agent, now_ms)
