"""Ids for events that come without one: ULIDs, increasing within a process even inside one millisecond."""

from __future__ import annotations

import secrets
import time
from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS: Final = 80
#: The random part starts in its lower half, so that counting up within one millisecond does not overflow.
_FRESH_BITS: Final = _RANDOM_BITS - 1


def encode(value: int) -> str:
    """128 bits as the 26 characters of a ULID."""
    return (
        _ALPHABET[value >> 125]
        + "".join([_PAIRS[(value >> shift) & 1023] for shift in range(115, -1, -10)])
        + (_ALPHABET[value & 31])
    )


class Ids:
    """A source of increasing ids; one per client, not shared between threads."""

    def __init__(self) -> None:
        self._ms = 0
        self._tail = 0

    def next(self) -> str:
        """A new id, greater than all before it; a clock that steps back is ignored."""
        now = time.time_ns() // 1_000_000
        if now > self._ms:
            self._ms = now
            self._tail = secrets.randbits(_FRESH_BITS)
        else:
            self._tail += 1
        return encode((self._ms << _RANDOM_BITS) | self._tail)
