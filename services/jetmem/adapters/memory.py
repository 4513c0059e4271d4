"""Memory that was freed and not given back, and how often garbage is looked for."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

#: Objects made between two looks for garbage; Python's own is 700.
_OBJECTS: Final = 50_000


def look_seldom() -> None:
    """Look for cycles less often, and never among what is there by now.

    Who decodes rows by the thousand makes many objects and no cycles: looking took 28 % of learning (measured).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS, 20, 20)


def give_back_freed() -> None:
    """Return to the system what glibc keeps of freed memory; elsewhere nothing.

    The buffers of 64 tantivy writers leave some 900 MB that are free, 100 MB after this (measured). Having glibc never
    keep them (M_MMAP_THRESHOLD) doubles what a commit costs.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim is not None:
            trim(0)
