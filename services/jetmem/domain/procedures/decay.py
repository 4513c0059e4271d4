"""A sum that halves with time, the same whatever order its parts come in.

Forward decay (Cormode and others, 2009): the sum stands at the latest time it has seen; a part that comes late counts
what it would count had it come in time. Equal up to rounding (1e-12 relative) for every order.
"""

from __future__ import annotations

import msgspec

DAY_MS = 86_400_000.0


class Decayed(msgspec.Struct, frozen=True, gc=False):
    """`value` as of `at_ms`."""

    value: float = 0.0
    at_ms: int = 0


def add(to: Decayed, amount: float, at_ms: int, half_life_ms: float) -> Decayed:
    """Add an amount that was due at `at_ms`."""
    if not to.value:
        return Decayed(amount, at_ms) if amount else to
    if at_ms >= to.at_ms:
        return Decayed(to.value * 0.5 ** ((at_ms - to.at_ms) / half_life_ms) + amount, at_ms)
    return Decayed(to.value + amount * 0.5 ** ((to.at_ms - at_ms) / half_life_ms), to.at_ms)


def value(of: Decayed, now_ms: int, half_life_ms: float) -> float:
    """What is left at `now_ms`; a time before the latest part counts as that part's."""
    return of.value * float(0.5 ** (max(0, now_ms - of.at_ms) / half_life_ms))
