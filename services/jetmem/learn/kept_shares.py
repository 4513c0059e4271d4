"""Shares of procedures' runs by the agents and in the contexts of questions, kept as they were read: they come again.

A question weighs some 200 procedures, and to read a share of each takes a millisecond.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from jetmem.learn.core import Tally

#: Shares of a tenant that are kept, 7 to 11 MB; when they are more, all are read anew.
KEPT_MAX: Final = 16_384
#: Measured: of a share of many runs, and of what holds those of a procedure.
_SHARE_BYTES: Final = 430
_PROCEDURE_BYTES: Final = 230

#: Reads the shares of procedures; None where there is none.
Read = Callable[[Sequence[bytes]], Sequence[Tally | None]]


class KeptShares:
    """One tenant's. One writer, many readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By procedure, then by share: a write drops what it changed without a look at what else was asked about.
        self._held: dict[bytes, dict[bytes, Tally | None]] = {}
        self._kept = 0
        self._changes = 0

    @property
    def nbytes(self) -> int:
        """Memory, about and at most."""
        with self._lock:
            return _SHARE_BYTES * self._kept + _PROCEDURE_BYTES * len(self._held)

    def of(self, share: bytes, procedures: Sequence[bytes], read: Read) -> list[Tally | None]:
        """Of procedures those by one agent, or in one context value, in the order asked; `read` tells what lacks."""
        with self._lock:
            known = {each: held for each in procedures if (held := self._held.get(each)) is not None}
            found = {each: held[share] for each, held in known.items() if share in held}
            changes = self._changes
        lacking = [each for each in procedures if each not in found]
        if lacking:
            fresh = dict(zip(lacking, read(lacking), strict=True))
            self._keep(share, fresh, changes)
            found |= fresh
        return [found[each] for each in procedures]

    def changed(self, procedures: Iterable[bytes]) -> None:
        """A write changed these procedures, and what was read while it was made may be older."""
        with self._lock:
            self._changes += 1
            for each in procedures:
                self._kept -= len(self._held.pop(each, ()))

    def _keep(self, share: bytes, fresh: dict[bytes, Tally | None], changes: int) -> None:
        with self._lock:
            if changes != self._changes:
                return
            if self._kept + len(fresh) > KEPT_MAX:
                self._held, self._kept = {}, 0
            for each, tally in fresh.items():
                held = self._held.setdefault(each, {})
                self._kept += share not in held
                held[share] = tally
