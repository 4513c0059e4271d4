"""Takes the runs of one write into the rows: each row is read once, takes all its runs, and is written once."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from jetmem.domain.procedures import statistics
from jetmem.domain.procedures.crystals import Rules
from jetmem.domain.procedures.run import Ran
from jetmem.learn import ranks
from jetmem.learn.core import Defined, Grown, grown, pairs_of, tallied, with_latest
from jetmem.learn.ports import News, Wave
from jetmem.learn.rows import (
    AGENT,
    CONTEXT,
    DEFINITION,
    RUN,
    ProcedureRow,
    Rows,
    ShareRow,
    TaskRow,
    TriedRow,
    decode_procedure,
    decode_share,
    decode_task,
    decode_tried,
    encode,
    encode_tried,
    hashed,
    named,
    place_key,
    prefix,
    run_key,
    run_row,
    share_key,
    tried_key,
)
from jetmem.runtime.store import WriteSet

R = TypeVar("R", bound=msgspec.Struct)
#: Rows of procedures that are kept as they were written, those counted last: decoding one costs more than counting a
#: run, and few procedures have most of the runs. So many, and so many bytes as they are stored; some 3 kB each, which
#: take five times as much in memory.
_HOT_MAX: Final = 3_000
HOT_BYTES_MAX: Final = 12_000_000


class Counting:
    """Reads rows, and writes them into the writer's batch. Writer thread only; `ports.Hears` of its own writes."""

    def __init__(self, rows: Rows, expect: Callable[[WriteSet, str, int, bytes], None], rules: Rules) -> None:
        """Count over rows.

        Args:
            rows: Where they are.
            expect: Called of a task that lacks its vector, with the entry that it came with.
            rules: When a procedure crystallises and dissolves.
        """
        self._rules = rules
        self._rows = rows
        self._expect = expect
        self._hot: OrderedDict[bytes, tuple[ProcedureRow, int]] = OrderedDict()
        self._hot_bytes = 0

    def tell(self, tenant: str, news: News) -> None:
        """Rows are written: keep what was counted last."""
        start = prefix(tenant)
        for procedure, row in news.procedures.items():
            key = start + procedure
            _, size = self._hot.pop(key, (None, 0))
            self._hot_bytes -= size
            if row is not None:
                self._hot[key] = row, news.sizes[procedure]
                self._hot_bytes += news.sizes[procedure]
        while len(self._hot) > _HOT_MAX or self._hot_bytes > HOT_BYTES_MAX:
            _, (_, size) = self._hot.popitem(last=False)
            self._hot_bytes -= size

    def clear(self) -> None:
        """Everything was changed underneath."""
        self._hot.clear()
        self._hot_bytes = 0

    def take(
        self, batch: WriteSet, tenant: str, runs: Sequence[Ran], defined: Sequence[tuple[int, Defined]], news: News
    ) -> None:
        """Take runs and definitions of a tenant that follow all that was taken before."""
        of: defaultdict[str, list[Ran]] = defaultdict(list)
        for run in runs:
            procedure = named(run.procedure)
            batch.put("runs", run_key(tenant, procedure, run.seq), run_row(run))
            batch.put("places", place_key(tenant, run.seq), RUN + procedure)
            if run.procedure:
                of[run.procedure].append(run)
        for rseq, each in defined:
            procedure = named(each.name)
            batch.put("definitions", run_key(tenant, procedure, rseq), encode(each))
            batch.put("places", place_key(tenant, rseq), DEFINITION + procedure)
            of.setdefault(each.name, [])
        self._tasks(batch, tenant, runs)
        self._procedures(batch, tenant, of, news)
        counted = [run for every in of.values() for run in every]
        self._shares(batch, tenant, counted)
        self._tried(batch, tenant, counted)

    def _procedures(self, batch: WriteSet, tenant: str, of: Mapping[str, Sequence[Ran]], news: News) -> None:
        keys = {prefix(tenant) + named(name): name for name in of}
        held = {key: self._hot[key][0] for key in keys if key in self._hot}
        rest = {key: name for key, name in keys.items() if key not in held}
        unknown: set[bytes] = set()

        def fresh(key: bytes) -> ProcedureRow:
            unknown.add(key)
            return ProcedureRow(keys[key])

        held |= self._held("procedures", rest, decode_procedure, fresh)
        for key, row in held.items():
            found = row.grown
            turned = None
            for run in of[row.name]:
                before, found = found, grown(found, run, self._rules)
                news.waves += outcome_of(before, found, run)
                turned = run if found.crystal.state != before.crystal.state else turned
            if turned is not None:
                news.waves += crystal_of(row.grown, found, turned)
            old = None if key in unknown else row
            ranks.write(batch, tenant, named(row.name), old, ProcedureRow(row.name, *found), news)

    def _shares(self, batch: WriteSet, tenant: str, runs: Sequence[Ran]) -> None:
        of: defaultdict[bytes, list[Ran]] = defaultdict(list)
        names: dict[bytes, str] = {}
        for run in runs:
            procedure = named(run.procedure)
            for kind, each in [(AGENT, run.agent), *((CONTEXT, pair) for pair in pairs_of(run.context))]:
                key = share_key(tenant, procedure, kind, each)
                names[key] = each
                of[key].append(run)
        for key, row in self._held("shares", of, decode_share, lambda key: ShareRow(names[key])).items():
            tally = row.tally
            for run in of[key]:
                tally = tallied(tally, run)
            batch.put("shares", key, encode(ShareRow(row.of, tally)))

    def _tried(self, batch: WriteSet, tenant: str, runs: Sequence[Ran]) -> None:
        of: defaultdict[bytes, list[Ran]] = defaultdict(list)
        for run in runs:
            of[tried_key(tenant, hashed(run.task), run.context, named(run.procedure))].append(run)
        for key, row in self._held("tried", of, decode_tried, lambda key: TriedRow(of[key][0].context)).items():
            batch.put("tried", key, encode_tried(tried(row, of[key])))

    def _tasks(self, batch: WriteSet, tenant: str, runs: Sequence[Ran]) -> None:
        of: defaultdict[bytes, list[Ran]] = defaultdict(list)
        for run in runs:
            of[prefix(tenant) + hashed(run.task)].append(run)

        def fresh(key: bytes) -> TaskRow:
            first = of[key][0]
            self._expect(batch, tenant, first.seq, hashed(first.task))
            batch.put("arrivals", place_key(tenant, first.seq), hashed(first.task))
            return TaskRow(first.task, 0, first.seq)

        for key, row in self._held("tasks", of, decode_task, fresh).items():
            batch.put("tasks", key, encode(TaskRow(row.text, row.runs + len(of[key]), row.place)))

    def _held(
        self, family: str, keys: Mapping[bytes, object], decode: Callable[[bytes], R], fresh: Callable[[bytes], R]
    ) -> dict[bytes, R]:
        found = self._rows.store.get_many(family, list(keys))
        return {key: decode(raw) if raw else fresh(key) for key, raw in zip(keys, found, strict=True)}


def outcome_of(before: Grown, after: Grown, run: Ran) -> Iterator[Wave]:
    """What a run did to its procedure; nothing if it was counted before."""
    if after is not before:
        yield Wave("success" if run.success else "failure", run, abs(run.success - before.counts.rate))


def crystal_of(before: Grown, after: Grown, run: Ran) -> Iterator[Wave]:
    """Whether a procedure turned, by one write; within a time step it may turn and turn back, which is no news."""
    if after.crystal.state != before.crystal.state:
        if after.crystal.state == "crystalline":
            yield Wave("crystallized", run, after.crystal.rate)
        else:
            yield Wave("dissolved", run, 1.0 - statistics.consistency(after.counts))


def tried(row: TriedRow, runs: Sequence[Ran]) -> TriedRow:
    """Take runs of this procedure at this task in this context."""
    tally, latest = row.tally, row.latest
    for run in runs:
        if run.seq > tally.seq:
            tally, latest = tallied(tally, run), with_latest(latest, run)
    return TriedRow(row.context, tally, latest)
