"""Counts procedures anew after a forget, in turns of the writer: a million runs take some 13 s of it.

What is to be counted is noted in the write that erases the runs, and the rows stay as they were, with what is erased in
them, until all that remains is counted: then they are replaced in one write. Until then the tenant is not fresh beyond
the entry before the forget (`fresh.Fresh`). A process that starts begins again what is noted.

A pass over a procedure's runs is never begun again for a forget that comes meanwhile: where that meets what the pass
has counted it is noted for the next one, and with the end of this one the tenant is fresh up to the entry before it.
So whoever forgets faster than a pass takes is behind by two passes at most; a forget itself reads what it names.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence, Set
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from jetmem.domain import keys
from jetmem.domain.procedures.crystals import Rules
from jetmem.learn import ranks
from jetmem.learn.core import Tally, grown, pairs_of, tallied
from jetmem.learn.counting import tried
from jetmem.learn.ports import News
from jetmem.learn.rows import (
    AGENT,
    CONTEXT,
    HASH_BYTES,
    ProcedureRow,
    Rows,
    RunRow,
    ShareRow,
    TriedRow,
    decode_tried,
    encode,
    encode_tried,
    prefix,
    ran,
    share_key,
    tried_key,
)
from jetmem.runtime.store import WriteSet

#: Runs that one turn of the writer counts, some 30 ms.
AT_ONCE: Final = 2_500
#: Procedures that are counted in turns, and rows below one that a pass makes: what is held of a pass under way.
ACTIVE_MAX: Final = 8
TOUCHED_MAX: Final = 2_000
_FAMILY: Final = "recounts"
_NUMBER_BYTES: Final = 8


class Touched(NamedTuple):
    """Rows that erased runs had a part in: shares by kind and what they are of, keys of `tried`."""

    shares: set[tuple[bytes, str]]
    tried: set[bytes]


def touched(tenant: str, procedure: bytes, gone: Sequence[tuple[int, RunRow]]) -> Touched:
    """Rows that these runs had a part in."""
    rows = [row for _, row in gone]
    shares = {(AGENT, row.agent) for row in rows} | {(CONTEXT, pair) for row in rows for pair in pairs_of(row.context)}
    return Touched(shares, {tried_key(tenant, row.task, row.context, procedure) for row in rows})


class Remaining:
    """Rows of one procedure that erased runs had a part in, from the runs that remain; `upto` is the last counted."""

    def __init__(self, tenant: str, procedure: bytes, touched: Touched) -> None:
        self._tenant, self._procedure = tenant, procedure
        self.upto = 0
        self.grown = ProcedureRow("").grown
        self._shares = dict.fromkeys(touched.shares, Tally())
        self._keys = touched.tried
        self._tried: dict[bytes, TriedRow] = {}

    def count(self, runs: Iterable[tuple[int, RunRow]], rules: Rules, gone: Set[int] = frozenset()) -> int:
        """Count runs of the procedure in the order of the log, but those that are gone; how many were looked at."""
        looked = 0
        for rseq, row in runs:
            looked += 1
            self.upto = rseq
            if rseq not in gone:
                self._count(rseq, row, rules)
        return looked

    def _count(self, rseq: int, row: RunRow, rules: Rules) -> None:
        run = ran(rseq, row)
        for share in [(AGENT, row.agent), *((CONTEXT, pair) for pair in pairs_of(row.context))]:
            if share in self._shares:
                self._shares[share] = tallied(self._shares[share], run)
        if self._keys:
            key = tried_key(self._tenant, row.task, row.context, self._procedure)
            if key in self._keys:
                self._tried[key] = tried(self._tried.get(key) or TriedRow(row.context), [run])
        self.grown = grown(self.grown, run, rules)

    def write(self, batch: WriteSet, old: ProcedureRow | None, news: News, *, defined: bool) -> None:
        """Write all rows in place of the old ones; those of no run go, but a procedure that is defined.

        A procedure that an earlier pass erased is None: rows that it did not make may still be there.
        """
        for (kind, of), tally in self._shares.items():
            _put(
                batch, "shares", share_key(self._tenant, self._procedure, kind, of), tally, encode(ShareRow(of, tally))
            )
        for key in self._keys:
            row = self._tried.get(key, TriedRow({}))
            _put(batch, "tried", key, row.tally, encode_tried(row))
        if old is not None:
            fresh = ProcedureRow(old.name, *self.grown)
            write_procedure(batch, self._tenant, self._procedure, old, fresh, news, defined=defined)


def write_procedure(
    batch: WriteSet, tenant: str, procedure: bytes, old: ProcedureRow, row: ProcedureRow, news: News, *, defined: bool
) -> None:
    """Write a procedure in place of the old row; one that nobody ran or defined goes."""
    ranks.write(batch, tenant, procedure, old, row if row.counts.runs or defined else None, news)


def _put(batch: WriteSet, family: str, key: bytes, tally: Tally, row: bytes) -> None:
    if tally.runs:
        batch.put(family, key, row)
    else:
        batch.delete(family, key)


class _Noted(msgspec.Struct, frozen=True, array_like=True):
    """A row below a procedure's: a share, or one of `tried` by its key."""

    key: bytes
    kind: bytes = b""
    of: str = ""


_noted = msgspec.msgpack.Decoder(_Noted).decode


class _Work:
    """A procedure that is being counted.

    Attributes:
        since: Of the pass under way, or due, and of the next one if one is noted: its number, and its first forget.
        left: What the pass under way has counted; None before it begins.
        touched: Rows that it makes.
        notes: Their keys in the store.
        more: Whether more are noted for it than are made at once.
    """

    def __init__(self, tenant: str, procedure: bytes) -> None:
        self.tenant, self.procedure = tenant, procedure
        self.since: list[tuple[int, int]] = []
        self.left: Remaining | None = None
        self.touched = Touched(set(), set())
        self.notes: list[bytes] = []
        self.more = False

    @property
    def start(self) -> bytes:
        """Where its keys begin."""
        return prefix(self.tenant) + self.procedure

    def noted_at(self, number: int) -> bytes:
        """Where those of one pass begin."""
        return self.start + keys.u64(number)

    def begin(self, rows: Rows) -> Remaining:
        """Begin the pass that is due."""
        self.touched = Touched(set(), set())
        found = rows.store.scan(_FAMILY, at := self.noted_at(self.since[0][0]))
        held = list(islice(((key, raw) for key, raw in found if key != at), TOUCHED_MAX + 1))
        self.more = len(held) > TOUCHED_MAX
        self.notes = [key for key, _ in held[:TOUCHED_MAX]]
        for _, raw in held[:TOUCHED_MAX]:
            each = _noted(raw)
            if each.kind:
                self.touched.shares.add((each.kind, each.of))
            else:
                self.touched.tried.add(each.key)
        self.left = Remaining(self.tenant, self.procedure, self.touched)
        return self.left

    def covers(self, held: Touched, gone: Sequence[tuple[int, RunRow]]) -> bool:
        """Whether the pass under way is none the worse for runs that go: it counted none, and makes all their rows."""
        if self.left is None or any(number <= self.left.upto for number, _ in gone):
            return False
        return held.shares <= self.touched.shares and held.tried <= self.touched.tried

    def ended(self, batch: WriteSet) -> bool:
        """Its rows are in the batch; whether nothing more is noted."""
        for key in self.notes:
            batch.delete(_FAMILY, key)
        self.left, self.notes, self.touched = None, [], Touched(set(), set())
        if not self.more:
            number, _ = self.since.pop(0)
            batch.delete(_FAMILY, self.noted_at(number))
        return not self.since


class Recounting:
    """What is to be counted anew. Writer thread only, but for `since` and `waiting`."""

    def __init__(self, rows: Rows, rules: Rules, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
        self._rows = rows
        self._rules = rules
        self._works: dict[tuple[str, bytes], _Work] = {}
        #: Of these, what waits to be begun, and what is under way.
        self._queue: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._active: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        #: Per tenant, the first forget that is not done with and how many procedures wait; replaced, never changed.
        self._since: dict[str, tuple[int, int]] = {}
        self.reload()

    def reload(self) -> None:
        """As noted in the store."""
        self._works = {}
        for key, raw in self._rows.store.scan(_FAMILY, b""):
            tenant = keys.tenant_of(key)
            tail = key.removeprefix(prefix(tenant))
            procedure = tail[:HASH_BYTES]
            if len(tail) == HASH_BYTES + _NUMBER_BYTES:
                work = self._works.setdefault((tenant, procedure), _Work(tenant, procedure))
                work.since.append((keys.from_u64(tail[HASH_BYTES:]), keys.from_u64(raw)))
        self._queue, self._active = OrderedDict.fromkeys(self._works), OrderedDict()
        self._tell()

    def since(self, tenant: str) -> int | None:
        """The first forget of a tenant that is not done with; None if all are. Any thread."""
        held = self._since.get(tenant)
        return held[0] if held else None

    def waiting(self, tenant: str = "") -> int:
        """Procedures that wait, of a tenant or of all. Any thread."""
        held = self._since
        return held.get(tenant, (0, 0))[1] if tenant else sum(count for _, count in held.values())

    def tenants(self) -> set[str]:
        """Of whom a procedure waits. Any thread."""
        return set(self._since)

    def counts(self, tenant: str, procedure: bytes) -> bool:
        """Whether a procedure is being counted."""
        return (tenant, procedure) in self._works

    def begin(
        self, batch: WriteSet, tenant: str, procedure: bytes, gone: Sequence[tuple[int, RunRow]], rseq: int
    ) -> None:
        """Count a procedure after runs of it go with this batch, by a forget of this number."""
        key = tenant, procedure
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(tenant, procedure)
            self._queue[key] = None
            first, count = self._since.get(tenant, (rseq, 0))
            self._since = {**self._since, tenant: (min(first, rseq), count + 1)}
        held = touched(tenant, procedure, gone)
        if work.covers(held, gone):
            return
        if len(work.since) < (1 if work.left is None else 2):
            work.since.append((work.since[-1][0] + 1 if work.since else 0, rseq))
            batch.put(_FAMILY, work.noted_at(work.since[-1][0]), keys.u64(rseq))
        start = work.noted_at(work.since[-1][0])
        for each in self._noted_of(batch, work, held, gone):
            batch.put(_FAMILY, start + each.key, encode(each))

    def _noted_of(
        self, batch: WriteSet, work: _Work, held: Touched, gone: Sequence[tuple[int, RunRow]]
    ) -> list[_Noted]:
        """What these runs touch; rows of `tried` that held nothing else go at once, but what a pass is making."""
        below = len(work.start)
        found = [_Noted(share_key(work.tenant, work.procedure, kind, of)[below:], kind, of) for kind, of in held.shares]
        found += [_Noted(key) for key in held.tried & work.touched.tried]
        runs = Counter(tried_key(work.tenant, row.task, row.context, work.procedure) for _, row in gone)
        rest = list(held.tried - work.touched.tried)
        for key, raw in zip(rest, self._rows.store.get_many("tried", rest), strict=True):
            if raw and decode_tried(raw).tally.runs == runs[key]:
                batch.delete("tried", key)
            elif raw:
                found.append(_Noted(key))
        return found

    def slice(self, batch: WriteSet, news: dict[str, News]) -> None:
        """Count on; what is through goes into the batch, what is not waits until all others had their turn."""
        left = self.at_once
        ended: set[tuple[str, bytes]] = set()
        while left > 0 and (key := self._next(ended)) is not None:
            work = self._works[key]
            count = work.left or work.begin(self._rows)
            looked = count.count(self._rows.runs(work.tenant, work.procedure, count.upto, left), self._rules)
            if looked < left:
                self._finish(batch, work, count, news.setdefault(work.tenant, News()))
                ended.add(key)
            left -= max(1, looked)

    def _next(self, ended: Set[tuple[str, bytes]]) -> tuple[str, bytes] | None:
        """Whose turn it is. A procedure has one pass in a batch: the next one reads what that writes."""
        if len(self._active) < ACTIVE_MAX and self._queue and (key := next(iter(self._queue))) not in ended:
            del self._queue[key]
            self._active[key] = None
        if not self._active:
            return None
        key = next(iter(self._active))
        self._active.move_to_end(key)
        return key

    def _finish(self, batch: WriteSet, work: _Work, count: Remaining, news: News) -> None:
        old = self._rows.procedure(work.tenant, work.procedure)
        defined = self._rows.definition(work.tenant, work.procedure) is not None
        count.write(batch, old, news, defined=defined)
        news.erased = True  # what was made with the rows as they were
        key = work.tenant, work.procedure
        del self._active[key]
        if work.ended(batch):
            del self._works[key]
        else:
            self._queue[key] = None

    def written(self) -> None:
        """The batch is written, and hearers were told."""
        self._tell()

    def _tell(self) -> None:
        since: dict[str, tuple[int, int]] = {}
        for work in self._works.values():
            first, count = since.get(work.tenant, (work.since[0][1], 0))
            since[work.tenant] = (min(first, work.since[0][1]), count + 1)
        self._since = since
