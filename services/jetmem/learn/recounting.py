"""Counts procedures anew after a forget, slice by slice: a million runs take most of a minute, the writer none of it.

What is to be counted is noted in the write that erases the runs, and the rows stay as they were, with what is erased in
them, until all that remains is counted: then they are replaced in one write. Until then the tenant is not fresh beyond
the entry before the forget (`fresh.Fresh`). A process that starts begins again what is noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from typing import Final, NamedTuple

import msgspec

from jetmem.domain import keys
from jetmem.domain.procedures.crystals import Rules
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
    prefix,
    ran,
    share_key,
    tenant_of,
    tried_key,
)
from jetmem.runtime.store import WriteSet

#: Runs that one turn of the writer counts, some 0.1 s.
AT_ONCE: Final = 2_500
_FAMILY: Final = "recounts"


class Touched(NamedTuple):
    """Rows that erased runs had a part in: shares by kind and what they are of, contexts by key of `tried`."""

    shares: set[tuple[bytes, str]]
    tried: dict[bytes, dict[str, str]]


def touched(tenant: str, procedure: bytes, gone: Sequence[tuple[int, RunRow]]) -> Touched:
    """Rows that these runs had a part in."""
    rows = [row for _, row in gone]
    shares = {(AGENT, row.agent) for row in rows} | {(CONTEXT, pair) for row in rows for pair in pairs_of(row.context)}
    return Touched(shares, {tried_key(tenant, row.task, row.context, procedure): row.context for row in rows})


class Remaining:
    """Rows of one procedure that erased runs had a part in, from the runs that remain; `upto` is the last counted."""

    def __init__(self, tenant: str, procedure: bytes, touched: Touched) -> None:
        self._tenant, self._procedure = tenant, procedure
        self.upto = 0
        self.grown = ProcedureRow("").grown
        self._shares = dict.fromkeys(touched.shares, Tally())
        self._tried = {key: TriedRow(context) for key, context in touched.tried.items()}

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
        if self._tried:
            key = tried_key(self._tenant, row.task, row.context, self._procedure)
            if key in self._tried:
                self._tried[key] = tried(self._tried[key], [run])
        self.grown = grown(self.grown, run, rules)

    def write(self, batch: WriteSet, name: str, news: News, *, defined: bool) -> None:
        """Write all rows; those of no run go, but a procedure that is defined."""
        for (kind, of), tally in self._shares.items():
            _put(batch, "shares", share_key(self._tenant, self._procedure, kind, of), tally, ShareRow(of, tally))
        for key, row in self._tried.items():
            _put(batch, "tried", key, row.tally, row)
        fresh = ProcedureRow(name, *self.grown)
        write_procedure(batch, self._tenant, self._procedure, fresh, news, defined=defined)


def write_procedure(
    batch: WriteSet, tenant: str, procedure: bytes, row: ProcedureRow, news: News, *, defined: bool
) -> None:
    """Write a procedure; one that nobody ran or defined goes."""
    key = prefix(tenant) + procedure
    if row.counts.runs or defined:
        batch.put("procedures", key, encode(row))
        news.procedures[procedure] = row
    else:
        batch.delete("procedures", key)
        news.procedures[procedure] = None


def _put(batch: WriteSet, family: str, key: bytes, tally: Tally, row: object) -> None:
    if tally.runs:
        batch.put(family, key, encode(row))
    else:
        batch.delete(family, key)


class _Noted(msgspec.Struct, frozen=True, array_like=True):
    """A row below a procedure's: a share, or the context of a row of `tried`."""

    key: bytes
    kind: bytes = b""
    of: str = ""
    context: dict[str, str] = {}


_noted = msgspec.msgpack.Decoder(_Noted).decode


class _Work:
    """A procedure that is being counted: since which forget, what it touched, and how far it is."""

    def __init__(self, tenant: str, procedure: bytes, since: int) -> None:
        self.tenant, self.procedure, self.since = tenant, procedure, since
        self.touched = Touched(set(), {})
        self.left = Remaining(tenant, procedure, self.touched)

    def again(self) -> None:
        self.left = Remaining(self.tenant, self.procedure, self.touched)


class Recounting:
    """What is to be counted anew. Writer thread only, but for `since` and `waiting`."""

    def __init__(self, rows: Rows, rules: Rules, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
        self._rows = rows
        self._rules = rules
        self._works: dict[tuple[str, bytes], _Work] = {}
        #: Per tenant, the first forget that is not done with and how many procedures wait; replaced, never changed.
        self._since: dict[str, tuple[int, int]] = {}
        self.reload()

    def reload(self) -> None:
        """As noted in the store."""
        self._works = {}
        for key, raw in self._rows.store.scan(_FAMILY, b""):
            tenant = tenant_of(key)
            tail = key.removeprefix(prefix(tenant))
            procedure = tail[:HASH_BYTES]
            if len(tail) == HASH_BYTES:
                self._works[tenant, procedure] = _Work(tenant, procedure, keys.from_u64(raw))
            else:
                _touch(self._works[tenant, procedure].touched, _noted(raw))
        for work in self._works.values():
            work.again()
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
        start = prefix(tenant) + procedure
        work = self._works.get((tenant, procedure))
        if work is None:
            work = self._works[tenant, procedure] = _Work(tenant, procedure, rseq)
            batch.put(_FAMILY, start, keys.u64(rseq))
            first, count = self._since.get(tenant, (rseq, 0))
            self._since = {**self._since, tenant: (min(first, rseq), count + 1)}
        noted = self._noted_of(batch, work, gone)
        for each in noted:
            _touch(work.touched, each)
            batch.put(_FAMILY, start + each.key, encode(each))
        if noted or any(number <= work.left.upto for number, _ in gone):
            work.again()  # else what was counted holds: none of these was, and no other row is to be made of it

    def _noted_of(self, batch: WriteSet, work: _Work, gone: Sequence[tuple[int, RunRow]]) -> list[_Noted]:
        """What these runs touch that no runs did before; rows of `tried` that held nothing else go at once."""
        start = len(prefix(work.tenant) + work.procedure)
        held = touched(work.tenant, work.procedure, gone)
        found = [
            _Noted(share_key(work.tenant, work.procedure, kind, of)[start:], kind, of)
            for kind, of in held.shares - work.touched.shares
        ]
        runs = Counter(tried_key(work.tenant, row.task, row.context, work.procedure) for _, row in gone)
        fresh = [key for key in held.tried if key not in work.touched.tried]
        for key, raw in zip(fresh, self._rows.store.get_many("tried", fresh), strict=True):
            if raw and decode_tried(raw).tally.runs == runs[key]:
                batch.delete("tried", key)
            elif raw:
                found.append(_Noted(key, context=held.tried[key]))
        return found

    def slice(self, batch: WriteSet, news: dict[str, News]) -> None:
        """Count on; what is through goes into the batch, what is not waits until all others had their turn."""
        left = self.at_once
        while left > 0 and self._works:
            key, work = next(iter(self._works.items()))
            runs = self._rows.runs(work.tenant, work.procedure, work.left.upto, left)
            looked = work.left.count(runs, self._rules)
            if looked < left:
                self._finish(batch, work, news.setdefault(work.tenant, News()))
            else:  # who forgets again and again begins again each time, and must not hold up the others
                self._works[key] = self._works.pop(key)
            left -= max(1, looked)

    def _finish(self, batch: WriteSet, work: _Work, news: News) -> None:
        start = prefix(work.tenant) + work.procedure
        old = self._rows.procedure(work.tenant, work.procedure)
        if old is not None:
            defined = self._rows.definition(work.tenant, work.procedure) is not None
            work.left.write(batch, old.name, news, defined=defined)
        news.erased = True  # what was made with the rows as they were
        for key, _ in self._rows.store.scan(_FAMILY, start):
            batch.delete(_FAMILY, key)
        del self._works[work.tenant, work.procedure]

    def written(self) -> None:
        """The batch is written, and hearers were told."""
        self._tell()

    def _tell(self) -> None:
        since: dict[str, tuple[int, int]] = {}
        for work in self._works.values():
            first, count = since.get(work.tenant, (work.since, 0))
            since[work.tenant] = (min(first, work.since), count + 1)
        self._since = since


def _touch(touched: Touched, noted: _Noted) -> None:
    if noted.kind:
        touched.shares.add((noted.kind, noted.of))
    else:
        touched.tried[noted.key] = noted.context
