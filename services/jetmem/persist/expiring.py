"""Rows of what expires: which events, and when; and up to where of the log all of them are there.

They are rows of `meta`, not of a family of their own, for an older version cannot open a store with a family that it
does not know. Such a version passes these rows over, and what it records has none. So each write notes how far all is
listed, and where the log is longer the rest is looked through (`expire.Expire`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.runtime.store import Store, WriteSet
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import Time, expiry_ms
from jetmem_schemas.internal import Entry
from jetmem_schemas.subjects import partition_of

#: Keys in `meta`: partition, tenant, time, id of an event that expires; no value.
EXPIRES: Final = b"expires:"
#: Key in `meta`, and partition: up to this entry of it everything that expires has its row.
LISTED: Final = b"listed:"
_TIME_BYTES: Final = 8


class _Expiring(msgspec.Struct):
    expires_at: Time | None = None


_decode = msgspec.json.Decoder(_Expiring).decode


def expires_at(entry: Entry) -> int | None:
    """When an entry's event expires, epoch ms; None for never."""
    if entry.kind != "event":
        return None
    try:
        at = _decode(entry.body).expires_at
        return None if at is None else expiry_ms(at)
    except (msgspec.MsgspecError, SchemaError):  # recorded by a version that did not look
        return None


def row_key(tenant: str, at: int, id_: str) -> bytes:
    """Key of a row; `at` in epoch ms."""
    return EXPIRES + keys.tenant(partition_of(tenant), tenant) + keys.time(at) + id_.encode()


def tenant_of(key: bytes) -> tuple[bytes, str]:
    """What keys of the same tenant begin with, and its name."""
    first = len(EXPIRES) + 1  # the partition may be 0
    end = key.index(b"\0", first)
    return key[: end + 1], key[first:end].decode()


def due_of(key: bytes) -> tuple[int, str]:
    """Time, epoch ms, and id of a row."""
    at = len(tenant_of(key)[0])
    return keys.from_time(key[at : at + _TIME_BYTES]), key[at + _TIME_BYTES :].decode()


def put(batch: WriteSet, entry: Entry) -> None:
    """List an entry if it expires."""
    at = expires_at(entry)
    if at is not None:
        batch.put("meta", row_key(entry.tenant, at, entry.id), b"")


def drop(batch: WriteSet, entry: Entry) -> None:
    """The event is erased: its row goes with it."""
    at = expires_at(entry)
    if at is not None:
        batch.delete("meta", row_key(entry.tenant, at, entry.id))


def listed(store: Store, part: int) -> int:
    """Up to which entry of a partition all that expires has its row; 0 for none."""
    raw = store.get("meta", LISTED + keys.partition(part))
    return keys.from_u64(raw) if raw else 0


def note(batch: WriteSet, part: int, rseq: int) -> None:
    """All up to this entry has its row."""
    batch.put("meta", LISTED + keys.partition(part), keys.u64(rseq))
