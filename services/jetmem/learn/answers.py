"""Answers about procedures, from a tenant's board and rows. Runs on the read pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from jetmem.domain.procedures import choosing, statistics
from jetmem.domain.procedures.choosing import Candidate, Ranked
from jetmem.domain.procedures.kernels import Floats
from jetmem.domain.procedures.statistics import wilson
from jetmem.learn import core, shares, similar
from jetmem.learn.board import Board, Standing
from jetmem.learn.boards import Boards
from jetmem.learn.core import Latest
from jetmem.learn.estimating import NOTHING, Asked, Estimates, Learnt, asked_of, estimated, unknown
from jetmem.learn.nearby import Seen
from jetmem.learn.rows import AGENT, CONTEXT, ProcedureRow, Rows, ShareRow, decode_share, hashed, share_key
from jetmem.runtime.clock import Clock
from jetmem_schemas.events import rfc3339
from jetmem_schemas.procedures import (
    Interval,
    Neighbour,
    Predict,
    ProcedureDetail,
    ProcedureItem,
    Procedures,
    Recommend,
    Recommended,
    Why,
)
from jetmem_schemas.procedures_asked import PredictFound, RecommendFound

#: Runs told as evidence of one procedure, tasks told as like the one asked about, and characters of their texts.
NEIGHBOURS: Final = 5
SIMILAR: Final = 8
TASK_CHARS: Final = 300

#: Place of tasks in the evidence, from 0.
Order: TypeAlias = Mapping[bytes, int]
#: A run, and the task that it was of.
Evidence: TypeAlias = tuple[Seen, Latest]


class Answers:
    """Reads for questions; any thread."""

    def __init__(self, rows: Rows, boards: Boards, clock: Clock) -> None:
        self._rows = rows
        self._boards = boards
        self._clock = clock

    # --- for a task

    def recommend(
        self, board: Board, tenant: str, ask: Recommend, vector: bytes, learnt: Learnt = NOTHING
    ) -> RecommendFound:
        """Procedures for a task, best first.

        Args:
            board: The tenant's, `Boards.compared`.
            tenant: Whose.
            ask: The question.
            vector: Of its task, b"" if there is none.
            learnt: What was found in many runs at once.
        """
        asked = self._asked(tenant, ask, vector)
        found = estimated(self._rows, board, asked, None, learnt)
        # who asks again after more runs draws again; nothing that others do is in it
        mixed = "\0".join((tenant, ask.task, ask.agent or "", ask.seed, str(board.totals.runs)))
        ranked = choosing.rank(found.candidates(), ask.explore, mixed, ask.k)
        place = {found.standing.names[row]: at for at, row in enumerate(found.rows)}
        order = self._order(board, asked, found, learnt)
        shown = [self._recommended(asked, ask, found, place[each.procedure], each, order) for each in ranked]
        told = [each for each in shown if each is not None]
        return RecommendFound(told, found.cold(), self._similar(asked, found, order))

    def predict(self, board: Board, tenant: str, ask: Predict, vector: bytes, learnt: Learnt = NOTHING) -> PredictFound:
        """One procedure's chance."""
        asked = self._asked(tenant, ask, vector)
        found = estimated(self._rows, board, asked, hashed(ask.procedure), learnt)
        if not len(found.rows):
            general = unknown(self._rows, board, asked.now_ms)
            (one,) = choosing.rank([Candidate(ask.procedure, general.mean, 0.0)])
            return PredictFound(one.probability, _interval(one), Why(how="none", runs=0, successes=0), True)
        (one,) = choosing.rank(found.candidates())
        row = self._rows.procedure(tenant, key := hashed(ask.procedure))
        crystal = row.crystal.version if row is not None and self._steps(tenant, key, row)[1] else 0
        why = self._why(asked, ask.agent, found, 0, self._order(board, asked, found, learnt), crystal)
        return PredictFound(one.probability, _interval(one), why, why.runs == 0)

    def _asked(self, tenant: str, ask: Recommend | Predict, vector: bytes) -> Asked:
        numbers = np.frombuffer(vector, dtype=np.float32)
        context = core.context_of(ask.context)
        return asked_of(tenant, core.task_of(ask.task), numbers, context, ask.agent, self._clock.now_ms())

    def _recommended(
        self, asked: Asked, ask: Recommend, found: Estimates, at: int, ranked: Ranked, order: Order
    ) -> Recommended | None:
        key = hashed(ranked.procedure)
        row = self._rows.procedure(asked.tenant, key)
        if row is None:  # it was erased just now
            return None
        steps, frozen = self._steps(asked.tenant, key, row)
        return Recommended(
            id=ranked.procedure,
            probability=ranked.probability,
            interval=_interval(ranked),
            why=self._why(asked, ask.agent, found, at, order, row.crystal.version if frozen else 0),
            state=row.crystal.state,
            steps=list(steps),
            duration_ms=shares.spread(row.counts.duration_ms),
            cost=shares.spread(row.counts.cost),
            failures=shares.said(statistics.failures(row.counts)),
            lessons=shares.said(statistics.lessons(row.counts)),
            drawn=ranked.draw if ask.explore == "thompson" else None,
        )

    def _why(self, asked: Asked, agent: str | None, found: Estimates, at: int, order: Order, crystal: int) -> Why:
        row = int(found.rows[at])
        standing = found.standing
        return Why(
            how=found.how(at),
            model=found.model(at),
            runs=int(standing.all_runs[row]),
            successes=int(standing.all_won[row]),
            in_context=int(found.context_runs[at]),
            by_agent=self._by_agent(asked.tenant, standing.keys[row], agent),
            neighbours=self._neighbours(asked, _spread_out(found.trials.by(row), order)),
            boost=found.boost(at),
            crystal=crystal,
        )

    def _by_agent(self, tenant: str, procedure: bytes, agent: str | None) -> int:
        raw = self._rows.store.get("shares", share_key(tenant, procedure, AGENT, agent)) if agent else None
        return decode_share(raw).tally.runs if raw else 0

    def _order(self, board: Board, asked: Asked, found: Estimates, learnt: Learnt) -> Order:
        """Place of each near task in the evidence."""
        near = found.trials.cosines()
        return similar.places(self._rows, board, asked.tenant, asked.text, near, learnt.words)

    def _similar(self, asked: Asked, found: Estimates, order: Order) -> list[Neighbour]:
        """Of each task most like this one the latest success, or else the latest run, of any procedure."""
        best: dict[bytes, tuple[Evidence, str]] = {}
        told = set(sorted(order, key=order.__getitem__)[:SIMILAR])  # of the hundreds of others nothing is compared
        for row, seen in found.trials.at(told):
            for each, run in _runs([seen]):
                held = best.get(each.task)
                if held is None or (run.success, run.at_ms, run.id) > (held[0][1].success, *held[0][1][:2]):
                    best[each.task] = (each, run), found.standing.names[row]
        first = sorted(best.values(), key=lambda each: order[each[0][0].task])
        return self._neighbours(asked, [each for each, _ in first], [name for _, name in first])

    def _neighbours(self, asked: Asked, seen: Sequence[Evidence], names: Sequence[str] = ()) -> list[Neighbour]:
        tasks = self._rows.tasks(asked.tenant, [each.task for each, _ in seen])
        return [
            Neighbour(
                run=run.id, task=task.text[:TASK_CHARS], agent=run.agent, success=run.success,
                similarity=min(1.0, max(0.0, each.cosine)), procedure=name,
            )
            for (each, run), task, name in zip(seen, tasks, names or [""] * len(seen), strict=True)
            if task is not None
        ]  # fmt: skip

    def _steps(self, tenant: str, procedure: bytes, row: ProcedureRow) -> tuple[Sequence[str], bool]:
        """As the crystal froze them, else of the definition, else the most common ones of runs; whether frozen.

        What a crystal froze of a definition is looked up, not copied: one that is forgotten has no part in it.
        """
        crystal = row.crystal
        if crystal.state == "crystalline":
            then = self._rows.definition(tenant, procedure, crystal.seq)
            if frozen := (then.steps if then is not None else ()) or crystal.steps:
                return frozen, True
        defined = self._rows.definition(tenant, procedure)
        return (defined.steps if defined is not None else ()) or statistics.steps(row.counts), False

    # --- of procedures

    def procedure(self, tenant: str, name: str, boost: float = 0.0) -> ProcedureDetail | None:
        """One procedure; None if nobody ran or defined it."""
        key = hashed(name)
        row = self._rows.procedure(tenant, key)
        if row is None:
            return None
        now_ms = self._clock.now_ms()
        counts = row.counts
        runs, won = statistics.decayed(counts, now_ms)
        defined = self._rows.definition(tenant, key)
        item = self._item(tenant, row, self._base(self._boards.get(tenant)))
        latest = self._rows.latest(tenant, key, shares.LATEST_READ_MAX)
        steps, frozen = self._steps(tenant, key, row)
        return ProcedureDetail(
            **{name: getattr(item, name) for name in ProcedureItem.__struct_fields__},
            steps=list(steps),
            frozen=frozen,
            version=defined.version if defined else "",
            consistency=shares.alike(counts),
            decayed_runs=runs,
            decayed_successes=won,
            posterior=shares.posterior(won, runs),
            reward=shares.spread(counts.reward),
            duration_ms=shares.spread(counts.duration_ms),
            cost=shares.spread(counts.cost),
            by_agent=shares.by_agent(self._parts(tenant, key, AGENT, shares.agents_of(latest)), latest, now_ms),
            by_context=shares.by_context(self._parts(tenant, key, CONTEXT, shares.pairs_in(latest)), latest, now_ms),
            failures=shares.said(statistics.failures(counts)),
            lessons=shares.said(statistics.lessons(counts)),
            boost=boost,
            crystal=row.crystal.version,
            crystal_why=row.crystal.why,
            crystal_since=rfc3339(row.crystal.since_ms) if row.crystal.version else "",
        )

    def procedures(self, tenant: str, ask: Procedures, start: int) -> tuple[list[ProcedureItem], bool]:
        """One page of those on the board, and whether more follow; ties by name."""
        board = self._boards.get(tenant)
        standing = board.standing(self._clock.now_ms())
        by = _order(standing, ask.sort)
        names = [(name, at) for at, name in enumerate(standing.names) if name]
        if ask.state is not None:
            wanted = standing.crystalline == (ask.state == "crystalline")
            names = [(name, at) for name, at in names if wanted[at]]
        if by is None:
            names.sort()
        else:
            names.sort(key=lambda each: (by[each[1]], each[0]))
        base = self._base(board)
        page = names[start : start + ask.limit]
        rows = [self._rows.procedure(tenant, standing.keys[at]) for _, at in page]
        found = [self._item(tenant, row, base) for row in rows if row is not None]
        return found, len(names) > start + ask.limit

    def _parts(self, tenant: str, procedure: bytes, kind: bytes, names: Sequence[str]) -> list[ShareRow]:
        beside = self._rows.shares_of(tenant, procedure, kind, names)
        return shares.most_used(self._rows.shares(tenant, procedure, kind), beside)

    def _base(self, board: Board) -> float:
        """The tenant's rate: of all its runs, whether their procedures are on the board or not."""
        return (board.totals.successes + 1) / (board.totals.runs + 2)

    def _item(self, tenant: str, row: ProcedureRow, base: float) -> ProcedureItem:
        counts = row.counts
        low, high = wilson(counts.successes, counts.runs)
        defined = self._rows.definition(tenant, hashed(row.name))
        return ProcedureItem(
            id=row.name,
            runs=counts.runs,
            successes=counts.successes,
            rate=counts.successes / counts.runs if counts.runs else 0.0,
            interval=Interval(low=low, high=high),
            lift=counts.successes / counts.runs / base if counts.runs else 0.0,
            state=row.crystal.state,
            agents=counts.distinct_agents,
            first=rfc3339(counts.first_ms) if counts.runs else "",
            last=rfc3339(counts.last_ms) if counts.runs else "",
            recent=[each.success for each in reversed(counts.recent)],
            description=defined.description if defined else "",
        )


def _runs(seen: Iterable[Seen]) -> Iterator[Evidence]:
    return ((each, run) for each in seen for run in each.runs)


def _spread_out(seen: Iterable[Seen], order: Order) -> list[Evidence]:
    """Runs as evidence: the latest of each task, in the order of tasks, before a task comes again."""
    came: Counter[bytes] = Counter()
    held = []
    for each, run in sorted(_runs(seen), key=lambda one: (one[1].at_ms, one[1].id), reverse=True):
        held.append((came[each.task], order[each.task], (each, run)))
        came[each.task] += 1
    return [each for *_, each in sorted(held, key=lambda one: one[:2])[:NEIGHBOURS]]


def _interval(ranked: Ranked) -> Interval:
    return Interval(low=ranked.low, high=ranked.high)


def _order(standing: Standing, sort: str) -> Floats | None:
    """What procedures are sorted by, the least first; None: by name alone."""
    runs, won = standing.all_runs, standing.all_won
    if sort in ("rate", "lift"):  # lift is the rate over that of the tenant, one number; by itself one run would win
        return np.array([-wilson(float(w), float(n))[0] if n else 0.0 for w, n in zip(won, runs, strict=True)])
    by = {"runs": runs, "last": standing.last_ms}.get(sort)
    return None if by is None else -by
