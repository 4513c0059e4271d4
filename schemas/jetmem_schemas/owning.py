"""Who has which partition of the record, and how one moves from store to store."""

from __future__ import annotations

import msgspec

#: Ordinal in the place of an owner that nobody has named.
NOBODY = -1


class Owned(msgspec.Struct, frozen=True, omit_defaults=True):
    """One partition's line in the table of owners.

    `owner` is the ordinal of the shard that answers for it and reads it, `store` the identity of that shard's store, ""
    until a store has claimed it; a process with another store is not the owner, whatever its ordinal. `moves` counts
    how often it changed stores. `left` are other stores whose files may still hold some of it: no erasure of its
    tenants is `purged` before they are rid of it.
    """

    owner: int = NOBODY
    store: str = ""
    moves: int = 0
    left: list[str] = []


#: One line each partition, in the order of their numbers.
Owners = list[Owned]


class CopyRequest(msgspec.Struct, frozen=True, array_like=True):
    """A slice of a partition's rows, for the shard `to` whose store is `store`.

    The first asks with `token` "": the owner parks the partition, that is, reads no further, and names the token of the
    state that it parked. Slices go on behind (`family`, `key`) of that token; another one is a `mismatch`. Rows are
    copied as they are, so an owner of a version that copies others, or otherwise, gives none: its `format` is another.
    """

    to: int
    store: str
    token: str = ""
    family: int = 0
    key: bytes = b""
    format: int = 0


class CopyReply(msgspec.Struct, frozen=True, array_like=True):
    """Rows as (family, key, value), and whether there are more; `parked` is the owner's checkpoint, encoded.

    `trimmed`, `server` and `upto` as in `SafeRequest`, as the owner noted them: a store that is new was never told.
    """

    token: str
    parked: bytes
    rows: list[tuple[int, bytes, bytes]]
    more: bool
    mismatch: bool = False
    trimmed: int = 0
    server: str = ""
    upto: int = 0


class ReleaseRequest(msgspec.Struct, frozen=True, array_like=True):
    """The shard `to` has all of the state `token` on its disk: make it the owner."""

    to: int
    store: str
    token: str


class Released(msgspec.Struct, frozen=True, array_like=True):
    """Whether the table names the asker as the owner now."""

    done: bool


class SafeRequest(msgspec.Struct, frozen=True, array_like=True):
    """Of whoever trims MEMORY: up to where is it read? And what every shard must note before and after a trim.

    `server` and `upto` as in persist's `Trimming`, `trimmed` below which no file of MEMORY has anything.
    """

    note: bool = False
    trimmed: int = 0
    server: str = ""
    upto: int = 0


class SafeReply(msgspec.Struct, frozen=True, array_like=True):
    """MEMORY sequence up to which a partition is on its owner's disk."""

    seq: int
