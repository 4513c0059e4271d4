"""In which order procedures are held in memory, and what all of a tenant's come to, in memory or not.

A rank is the logarithm of a procedure's decayed runs, in half-lives: it says the same at any time, so it is written
when a run comes and not as time goes by. One run now ranks as two did a month ago: neither a flood of names that are
used once drives out what is used every week, nor what was used much long ago holds its place for ever. What was defined
and never run ranks last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.domain.procedures.statistics import HALF_LIFE_MS
from jetmem.learn.ports import News
from jetmem.learn.rows import HASH_BYTES, Brief, ProcedureRow, Rows, Totals, decode_brief, encode, prefix
from jetmem.runtime.store import WriteSet

FAMILY: Final = "ranks"
_RANK: Final = b"r"
_TOTALS: Final = b"t"
#: From so many runs on a rank is rounded up to steps of `_STEP`, a factor of 1.19 in runs or a week: else each run
#: would move its row. Below, the last used is first to the millisecond: who asks after a run finds its procedure.
_ROUNDED_FROM: Final = 4
_STEP: Final = 0.25
#: Ranks as numbers above 0: years 1 to 9999 are -24,000 to 98,000 half-lives, the logarithm of the least float is
#: -1,074; a millisecond is 4e-10 of a half-life.
_LEAST: Final = 65_536
_SCALE: Final = 2**32
_CHUNK: Final = 1_000
#: Above every place.
FIRST: Final = b"\xff" * (8 + HASH_BYTES)


def place_of(procedure: bytes, row: ProcedureRow | Brief) -> bytes:
    """Sorts procedures of a tenant by how much they are used, the least first; equal ones by hash of their names."""
    runs = row.counts.decayed_runs
    if runs.value <= 0.0:
        return keys.u64(0) + procedure
    rank = math.log2(runs.value) + runs.at_ms / HALF_LIFE_MS
    if row.counts.runs >= _ROUNDED_FROM:
        rank = math.ceil(rank / _STEP) * _STEP
    return keys.u64(int((rank + _LEAST) * _SCALE)) + procedure


def write(
    batch: WriteSet, tenant: str, procedure: bytes, old: ProcedureRow | None, row: ProcedureRow | None, news: News
) -> None:
    """Write a procedure's row, or erase it (None), with its rank; `counted` has what it changes of all."""
    start = prefix(tenant)
    was, now = (place_of(procedure, each) if each is not None else None for each in (old, row))
    if was is not None and was != now:
        batch.delete(FAMILY, start + _RANK + was)
    if now is not None and was != now:
        batch.put(FAMILY, start + _RANK + now, b"")
    if row is None:
        batch.delete("procedures", start + procedure)
    else:
        raw = encode(row)
        batch.put("procedures", start + procedure, raw)
        news.sizes[procedure] = len(raw)
    news.procedures[procedure] = row
    news.counted = _sum(_sum(news.counted, row, 1), old, -1)


def write_totals(batch: WriteSet, rows: Rows, tenant: str, news: News) -> None:
    """Write what a tenant's procedures come to; once in a batch, after all of them."""
    if not news.procedures:
        return
    held, more = totals(rows, tenant), news.counted
    news.totals = Totals(held.procedures + more.procedures, held.runs + more.runs, held.successes + more.successes)
    key = prefix(tenant) + _TOTALS
    if news.totals.procedures:
        batch.put(FAMILY, key, encode(news.totals))
    else:
        batch.delete(FAMILY, key)


def totals(rows: Rows, tenant: str) -> Totals:
    """What all procedures of a tenant come to."""
    raw = rows.store.get(FAMILY, prefix(tenant) + _TOTALS)
    return msgspec.msgpack.decode(raw, type=Totals) if raw else Totals()


def ranked(rows: Rows, tenant: str, upto: bytes | None = None) -> Iterator[bytes]:
    """Places of a tenant's procedures, the most used first, from one on if it is given."""
    start = prefix(tenant) + _RANK
    for key, _ in rows.store.scan(FAMILY, start, start=None if upto is None else start + upto, back=True):
        yield key[len(start) :]


def read(rows: Rows, tenant: str, procedures: list[bytes]) -> Iterator[tuple[bytes, Brief]]:
    """Procedures in brief, those that are there."""
    start, left = prefix(tenant), iter(procedures)
    while some := list(islice(left, _CHUNK)):
        found = rows.store.get_many("procedures", [start + each for each in some])
        yield from ((each, decode_brief(raw)) for each, raw in zip(some, found, strict=True) if raw)


def procedure_of(place: bytes) -> bytes:
    """Whose place it is."""
    return place[-HASH_BYTES:]


def _sum(of: Totals, row: ProcedureRow | None, sign: int) -> Totals:
    if row is None:
        return of
    counts = row.counts
    return Totals(of.procedures + sign, of.runs + sign * counts.runs, of.successes + sign * counts.successes)
