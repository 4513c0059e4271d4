"""Takes runs and definitions back: what they were counted in is made anew from the runs that remain."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from jetmem.domain.procedures.crystals import Rules
from jetmem.domain.procedures.run import Ran
from jetmem.learn.core import Tally, grown, pairs_of, tallied
from jetmem.learn.counting import tried
from jetmem.learn.ports import News
from jetmem.learn.rows import (
    AGENT,
    CONTEXT,
    DEFINITION,
    ProcedureRow,
    Rows,
    RunRow,
    ShareRow,
    TaskRow,
    TriedRow,
    encode,
    hashed,
    place_key,
    prefix,
    ran,
    run_key,
    share_key,
    tried_key,
)
from jetmem.runtime.store import WriteSet


class Forgetting:
    """Reads what remains, and writes rows into the writer's batch. Writer thread only."""

    def __init__(self, rows: Rows, drop: Callable[[WriteSet, str, int, bytes], None], rules: Rules) -> None:
        """Forget over rows.

        Args:
            rows: Where they are.
            drop: Called of a task that nobody has any more, with the entry that it came with.
            rules: When a procedure crystallises and dissolves.
        """
        self._rules = rules
        self._rows = rows
        self._drop = drop

    def take_back(self, batch: WriteSet, tenant: str, rseqs: Sequence[int], news: News) -> bool:
        """Erase entries of a tenant; whether any of them was ours.

        Each procedure that they touch is read once: ask for many entries together.
        """
        places = [place_key(tenant, rseq) for rseq in rseqs]
        runs: defaultdict[bytes, list[int]] = defaultdict(list)
        definitions: defaultdict[bytes, list[int]] = defaultdict(list)
        for rseq, key, raw in zip(rseqs, places, self._rows.store.get_many("places", places), strict=True):
            if raw:
                (definitions if raw[:1] == DEFINITION else runs)[raw[1:]].append(rseq)
                batch.delete("places", key)
        tasks: Counter[bytes] = Counter()
        for procedure in runs.keys() | definitions.keys():
            for rseq in definitions[procedure]:
                batch.delete("definitions", run_key(tenant, procedure, rseq))
            gone = self._rows.runs_at(tenant, procedure, runs[procedure])
            for rseq, row in gone:
                batch.delete("runs", run_key(tenant, procedure, rseq))
                tasks[row.task] += 1
            if procedure != hashed(""):
                defined = self._defined(tenant, procedure, definitions[procedure])
                self._recount(batch, tenant, procedure, gone, news, defined=defined)
        self._untask(batch, tenant, tasks, news)
        news.erased = bool(runs or definitions)
        return news.erased

    def _defined(self, tenant: str, procedure: bytes, gone: Sequence[int]) -> bool:
        """Whether a definition remains."""
        keys = {run_key(tenant, procedure, rseq) for rseq in gone}
        return any(key not in keys for key, _ in self._rows.store.scan("definitions", prefix(tenant) + procedure))

    def _recount(
        self, batch: WriteSet, tenant: str, procedure: bytes, gone: Sequence[tuple[int, RunRow]], news: News,
        *, defined: bool,
    ) -> None:  # fmt: skip
        old = self._rows.procedure(tenant, procedure)
        if old is None:
            return
        fresh = old
        if gone:
            left = Remaining(tenant, procedure, gone)
            left.count(self._rows.runs(tenant, procedure), self._rules)
            left.write(batch)
            fresh = ProcedureRow(old.name, *left.grown)
        key = prefix(tenant) + procedure
        if fresh.counts.runs or defined:
            batch.put("procedures", key, encode(fresh))
            news.procedures[procedure] = fresh
        else:
            batch.delete("procedures", key)
            news.procedures[procedure] = None

    def _untask(self, batch: WriteSet, tenant: str, tasks: Counter[bytes], news: News) -> None:
        """Count tasks down; one that no run has goes with its vector."""
        wanted = list(tasks)
        for task, row in zip(wanted, self._rows.tasks(tenant, wanted), strict=True):
            if row is None:
                continue
            key = prefix(tenant) + task
            if row.runs > tasks[task]:
                batch.put("tasks", key, encode(TaskRow(row.text, row.runs - tasks[task], row.place)))
                continue
            batch.delete("tasks", key)
            batch.delete("vectors", key)
            self._drop(batch, tenant, row.place, task)
            news.tasks[task] = None


class Remaining:
    """Rows of one procedure that erased runs had a part in, from the runs that remain."""

    def __init__(self, tenant: str, procedure: bytes, gone: Sequence[tuple[int, RunRow]]) -> None:
        self._tenant, self._procedure = tenant, procedure
        self._gone = {rseq for rseq, _ in gone}
        rows = [row for _, row in gone]
        self.grown = ProcedureRow("").grown
        self._shares = {(AGENT, row.agent): Tally() for row in rows}
        self._shares |= {(CONTEXT, pair): Tally() for row in rows for pair in pairs_of(row.context)}
        self._tried = {tried_key(tenant, row.task, row.context, procedure): TriedRow(row.context) for row in rows}

    def count(self, runs: Iterable[tuple[int, RunRow]], rules: Rules) -> None:
        """Count those of a procedure's runs that remain, in the order of the log."""
        for run in self._kept(runs):
            self.grown = grown(self.grown, run, rules)

    def _kept(self, runs: Iterable[tuple[int, RunRow]]) -> Iterable[Ran]:
        for rseq, row in runs:
            if rseq in self._gone:
                continue
            run = ran(rseq, row)
            for share in [(AGENT, row.agent), *((CONTEXT, pair) for pair in pairs_of(row.context))]:
                if share in self._shares:
                    self._shares[share] = tallied(self._shares[share], run)
            key = tried_key(self._tenant, row.task, row.context, self._procedure)
            if key in self._tried:
                self._tried[key] = tried(self._tried[key], [run])
            yield run

    def write(self, batch: WriteSet) -> None:
        """Write the rows; those of no run go."""
        for (kind, of), tally in self._shares.items():
            _put(batch, "shares", share_key(self._tenant, self._procedure, kind, of), tally, ShareRow(of, tally))
        for key, row in self._tried.items():
            _put(batch, "tried", key, row.tally, row)


def _put(batch: WriteSet, family: str, key: bytes, tally: Tally, row: object) -> None:
    if tally.runs:
        batch.put(family, key, encode(row))
    else:
        batch.delete(family, key)
