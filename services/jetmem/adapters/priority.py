"""Giving way to other processes of the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def give_way(nice: int) -> None:
    """Lower the priority of this process; call it before threads are started.

    Args:
        nice: How far, 0..19. Every step is some 10 % less of a processor that others want too; an idle one is all ours.

    Linux with autogroups shares processors between sessions first, so that a nice process in a session of its own
    would give way to nobody; such a session is made nice, too.
    """
    if not nice:
        return
    with contextlib.suppress(OSError):  # a sandbox may forbid it; it is no promise
        os.nice(nice)
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")
