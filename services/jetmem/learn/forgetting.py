"""Takes runs and definitions back: what they were counted in is made anew from the runs that remain."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence, Set

from jetmem.domain.procedures.crystals import Rules
from jetmem.learn.ports import News
from jetmem.learn.recounting import Recounting, Remaining, touched, write_procedure
from jetmem.learn.rows import (
    DEFINITION,
    Rows,
    RunRow,
    TaskRow,
    encode,
    hashed,
    place_key,
    prefix,
    run_key,
)
from jetmem.runtime.store import WriteSet


class Forgetting:
    """Reads what remains, and writes rows into the writer's batch. Writer thread only."""

    def __init__(
        self, rows: Rows, drop: Callable[[WriteSet, str, int, bytes], None], rules: Rules, later: Recounting
    ) -> None:
        """Forget over rows.

        Args:
            rows: Where they are.
            drop: Called of a task that nobody has any more, with the entry that it came with.
            rules: When a procedure crystallises and dissolves.
            later: Counts procedures of which too many runs remain to be counted at once.
        """
        self._rules = rules
        self._rows = rows
        self._drop = drop
        self._later = later

    def take_back(self, batch: WriteSet, tenant: str, rseqs: Sequence[int], at: int, news: News) -> bool:
        """Erase entries of a tenant, by forgets up to number `at`; whether any of them was ours.

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
        room = self._later.at_once
        for procedure in runs.keys() | definitions.keys():
            for rseq in definitions[procedure]:
                batch.delete("definitions", run_key(tenant, procedure, rseq))
            gone = self._rows.runs_at(tenant, procedure, runs[procedure])
            for rseq, row in gone:
                batch.delete("runs", run_key(tenant, procedure, rseq))
                tasks[row.task] += 1
            if procedure != hashed(""):
                defined = {run_key(tenant, procedure, rseq) for rseq in definitions[procedure]}
                room -= self._recount(batch, tenant, procedure, gone, news, defined, room, at)
        self._untask(batch, tenant, tasks, news)
        news.erased = bool(runs or definitions)
        return news.erased

    def _recount(
        self, batch: WriteSet, tenant: str, procedure: bytes, gone: Sequence[tuple[int, RunRow]], news: News,
        undefined: Set[bytes], room: int, at: int,
    ) -> int:  # fmt: skip
        """Count what remains, at once where it is at most `room` runs; how many were looked at."""
        old = self._rows.procedure(tenant, procedure)
        if old is None:
            return 0
        waits = self._later.counts(tenant, procedure)
        if gone and (waits or old.counts.runs > room):
            self._later.begin(batch, tenant, procedure, gone, at)
            return 0
        scanned = self._rows.store.scan("definitions", prefix(tenant) + procedure)
        defined = any(key not in undefined for key, _ in scanned)
        if not gone:
            write_procedure(batch, tenant, procedure, old, old, news, defined=defined)
            return 0
        left = Remaining(tenant, procedure, touched(tenant, procedure, gone))
        looked = left.count(self._rows.runs(tenant, procedure), self._rules, {rseq for rseq, _ in gone})
        left.write(batch, old, news, defined=defined)
        return looked

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
            batch.delete("arrivals", place_key(tenant, row.place))
            self._drop(batch, tenant, row.place, task)
            news.tasks[task] = None
