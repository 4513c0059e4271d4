"""The rows of one partition: in slices for another store, and all of them gone.

A slice is what lies behind a place (number of a source, key). What is not a partition's own by its key goes by tenant:
rows of `purge`. The outbox has none, for who parks a partition sends them first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from jetmem.domain import keys
from jetmem.persist.expiring import EXPIRES, LISTED
from jetmem.persist.record import FAMILIES, due_row
from jetmem.runtime.store import Store
from jetmem_schemas import subjects

#: A slice, which fits a reply with what is around it.
_SLICE_BYTES: Final = 700_000
#: Rows deleted in one write.
_DROP_ROWS: Final = 2_000
_OF_TENANTS: Final = ("purge", "outbox")
_META: Final = (b"head:", b"base:", b"forgot:", b"loose:")

Row = tuple[int, bytes, bytes]


class Place(NamedTuple):
    """Where rows of a partition go on: number of a source, key."""

    source: int = 0
    key: bytes = b""


BEGINNING: Final = Place()


class _Source(NamedTuple):
    family: str
    before: bytes


_SOURCES: Final = (
    *(_Source(family, b"") for family in FAMILIES if family not in (*_OF_TENANTS, "meta")),
    *(_Source("meta", before) for before in _META),
    _Source("purge", b""),
    *(_Source("meta", before) for before in (EXPIRES, LISTED)),  # last: a copy that is under way goes on by number
)


def slice_of(store: Store, part: int, source: int, key: bytes) -> tuple[list[Row], bool]:
    """Rows of a partition behind a place, at least one if there are any, and whether there may be more."""
    found: list[Row] = []
    size = 0
    for row in _rows(store, part, source, key):
        size += len(row[1]) + len(row[2]) + 8
        if size > _SLICE_BYTES and found:
            return found, True
        found.append(row)
    return found, False


def _rows(store: Store, part: int, first: int, after: bytes) -> Iterator[Row]:
    for number in range(first, len(_SOURCES)):
        family, before = _SOURCES[number]
        by_tenant = family in _OF_TENANTS
        prefix = b"" if by_tenant else before + keys.partition(part)
        start = after + b"\0" if number == first and after else None
        for key, value in store.scan(family, prefix, start=start):
            if not by_tenant or _is_of(part, value):
                yield number, key, value


def _is_of(part: int, raw: bytes) -> bool:
    return of_part(part, due_row(raw).tenant)


def of_part(part: int, tenant: str) -> bool:
    """Whether what is noted for a tenant goes with a partition; what is nobody's stays where it is."""
    return tenant not in ("", subjects.NONE) and subjects.partition_of(tenant) == part


def family_of(source: int) -> str:
    """The family that rows of a source go to."""
    return _SOURCES[source].family


def drop_some(store: Store, part: int, behind: Place) -> Place | None:
    """Delete some rows of a partition behind a place, synced; where it ended, None if there were none. Writer thread.

    From the beginning each time, all that was deleted before would be passed over again.
    """
    batch = store.batch()
    end = None
    for source, key, _ in _rows(store, part, *behind):
        batch.delete(family_of(source), key)
        end = Place(source, key)
        if len(batch) >= _DROP_ROWS:
            break
    if end is not None:
        store.write(batch, sync=True)
    return end
