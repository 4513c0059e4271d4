"""Shares of procedures' runs by the agents and in the contexts of questions, kept as they were read: they come again.

A question weighs some 200 procedures, and to read a share of each takes a millisecond.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jetmem.domain.procedures.kernels import Floats
from jetmem.learn.core import Tally

#: Shares of a tenant that are kept, 2 to 5 MB; when they are more, all are read anew.
KEPT_MAX: Final = 16_384
#: Measured: of a share of many runs, and of what holds those of a procedure.
_SHARE_BYTES: Final = 95
_PROCEDURE_BYTES: Final = 230

#: Reads the shares of procedures; None where there is none.
Read = Callable[[Sequence[bytes]], Sequence[Tally | None]]
#: A share as it is kept: in one piece, for a question that comes after much else finds little of it near the processor.
_SHARE: Final = Struct("<5d")
_NONE: Final = _SHARE.pack(0.0, 0.0, 0.0, 0.0, 0.0)


class Told(NamedTuple):
    """Shares in the order asked, zeros where there is none; each (procedures,), times in epoch milliseconds.

    Successes and runs, decayed and as of when, and plain runs.
    """

    won: Floats
    won_at: Floats
    runs: Floats
    runs_at: Floats
    all_runs: Floats


class KeptShares:
    """One tenant's. One writer, many readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By procedure, then by share: a write drops what it changed without a look at what else was asked about.
        self._held: dict[bytes, dict[bytes, bytes]] = {}
        self._kept = 0
        self._changes = 0

    @property
    def nbytes(self) -> int:
        """Memory, about and at most."""
        with self._lock:
            return _SHARE_BYTES * self._kept + _PROCEDURE_BYTES * len(self._held)

    def of(self, share: bytes, procedures: Sequence[bytes], read: Read) -> Told:
        """Of procedures those by one agent, or in one context value; `read` tells what lacks."""
        with self._lock:
            held = self._held.get
            found = [None if (known := held(each)) is None else known.get(share) for each in procedures]
            changes = self._changes
        lacking = [at for at, each in enumerate(found) if each is None]
        if lacking:
            wanted = [procedures[at] for at in lacking]
            fresh = [_NONE if tally is None else _kept(tally) for tally in read(wanted)]
            self._keep(share, dict(zip(wanted, fresh, strict=True)), changes)
            for at, each in zip(lacking, fresh, strict=True):
                found[at] = each
        told: NDArray[np.float64] = np.frombuffer(b"".join([each for each in found if each is not None]), dtype="<f8")
        return Told(*told.reshape(-1, len(Told._fields)).T)

    def changed(self, procedures: Iterable[bytes]) -> None:
        """A write changed these procedures, and what was read while it was made may be older."""
        with self._lock:
            self._changes += 1
            for each in procedures:
                self._kept -= len(self._held.pop(each, ()))

    def _keep(self, share: bytes, fresh: dict[bytes, bytes], changes: int) -> None:
        with self._lock:
            if changes != self._changes:
                return
            if self._kept + len(fresh) > KEPT_MAX:
                self._held, self._kept = {}, 0
            for each, kept in fresh.items():
                held = self._held.setdefault(each, {})
                self._kept += share not in held
                held[share] = kept


def _kept(tally: Tally) -> bytes:
    won, runs = tally.decayed_successes, tally.decayed_runs
    return _SHARE.pack(won.value, won.at_ms, runs.value, runs.at_ms, tally.runs)
