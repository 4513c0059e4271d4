"""Named points at which a test may end this process with SIGKILL. Nothing happens unless asked for.

`JETMEM_CRASH=persist:before-write:3` ends the process the third time it passes that point.
"""

from __future__ import annotations

import os
import signal
from typing import Final

#: All points; a test kills at each of them.
POINTS: Final = (
    "persist:before-write",
    "persist:after-write",
    "persist:after-sync",
    "persist:after-announce",
    "persist:before-outbox-clear",
    "expire:before-publish",
    "expire:after-publish",
    "move:after-park",
    "move:after-slice",
    "move:after-whole",
    "move:before-release",
    "move:after-let-go",
    "move:after-release",
    "move:after-own",
    "move:after-catch-up",
    "move:after-drop",
    "index:before-text-commit",
    "index:after-text-commit",
    "index:after-store",
    "index:before-snapshot-rename",
    "summarize:after-store",
    "summarize:after-node",
    "summarize:after-sweep",
    "summarize:after-publish",
    "summarize:after-topics",
    "learn:after-store",
    "learn:after-vectors",
    "learn:in-recount",
    "embed:before-encode",
    "embed:before-ack",
)

_armed: dict[str, int] = {}


def arm(text: str) -> None:
    """Arm from the setting `crash`: `<stage>:<point>[:count]`, empty for none."""
    _armed.clear()
    if not text:
        return
    name, _, count = text.rpartition(":") if text.rsplit(":", 1)[-1].isdigit() else (text, "", "1")
    if name not in POINTS:
        raise ValueError(f"unknown crash point {name}, must be one of {', '.join(POINTS)}")
    _armed[name] = int(count)


def crashpoint(name: str) -> None:
    """End this process with SIGKILL if this point is armed and its count is reached."""
    if not _armed or name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
