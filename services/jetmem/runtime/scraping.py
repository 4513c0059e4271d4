"""What is measured when somebody looks: sizes and counts that it would cost too much to keep up with."""

from __future__ import annotations

import weakref
from typing import Final, Protocol


class Observed(Protocol):
    """Something that sets its own metrics when asked to."""

    def observe(self) -> None:
        """Set them. Runs in the thread that answers `/metrics`, beside everything else; must not raise."""


_OBSERVED: Final[weakref.WeakSet[Observed]] = weakref.WeakSet()


def at_scrape(observed: Observed) -> None:
    """Ask it before each answer of `/metrics`, for as long as somebody else holds it."""
    _OBSERVED.add(observed)


def observe() -> None:
    """Ask all."""
    for each in tuple(_OBSERVED):
        each.observe()
