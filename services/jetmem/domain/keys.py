"""Keys of every store: partition, tenant, then what orders them. Tokens never contain NUL, so NUL ends them."""

from __future__ import annotations

import struct
from functools import lru_cache

_U64 = struct.Struct(">Q")
#: Times before 1970 must sort before those after it.
_TIME_OFFSET = 1 << 63
U64_MAX = (1 << 64) - 1


def u64(number: int) -> bytes:
    """A number whose bytes sort as it does; 0 ≤ number < 2**64."""
    return _U64.pack(number)


def from_u64(data: bytes) -> int:
    """The number of eight bytes."""
    return int(_U64.unpack(data)[0])


def time(ms: int) -> bytes:
    """An epoch time in ms, negative allowed, whose bytes sort as it does."""
    return _U64.pack(ms + _TIME_OFFSET)


def from_time(data: bytes) -> int:
    """The epoch time in ms of eight bytes."""
    return int(_U64.unpack(data)[0]) - _TIME_OFFSET


def partition(number: int) -> bytes:
    """The first byte of every key."""
    return bytes((number,))


def log(part: int, rseq: int) -> bytes:
    """Place of an entry in a partition's log."""
    return bytes((part,)) + _U64.pack(rseq)


@lru_cache(4096)
def tenant(part: int, name: str) -> bytes:
    """Prefix of everything of one tenant."""
    return bytes((part,)) + name.encode() + b"\0"


def tenant_of(key: bytes) -> str:
    """The tenant that a key begins with, after its partition."""
    return key[1 : key.index(b"\0", 1)].decode()


def under(prefix: bytes, *tokens: str) -> bytes:
    """A prefix deepened by tokens."""
    return prefix + "".join([token + "\0" for token in tokens]).encode()
