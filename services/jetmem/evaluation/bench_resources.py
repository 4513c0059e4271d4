"""Memory of each process, disk of each store, and whether the pipeline has come to rest."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.client import Client as Nats

from jetmem.evaluation import conditions
from jetmem.evaluation.show import Told

_PROC: Final = Path("/proc")
#: Of one core, over `_LOOK_S`: what timers and heartbeats take.
_IDLE_SHARE: Final = 0.15
_LOOK_S: Final = 1.5


class Memory(msgspec.Struct, frozen=True):
    """Resident now and at most, in MiB."""

    now: float
    most: float


def memory(processes: Mapping[str, int]) -> dict[str, Memory]:
    """Resident memory of processes; empty where there is no /proc."""
    found = {}
    for name, pid in processes.items():
        try:
            lines = (_PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        found[name] = Memory(_mib(fields.get("VmRSS", "0 kB")), _mib(fields.get("VmHWM", "0 kB")))
    return found


def _mib(text: str) -> float:
    return int(text.split()[0]) / 1024


def disk(root: Path) -> dict[str, float]:
    """MiB below each folder of the data folder that holds any, allocated blocks as `du` counts them."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        if size:
            found[folder.name] = size / 1024**2
    return found


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """Processor time of each so far, without its children."""
    tick = os.sysconf("SC_CLK_TCK")
    found = {}
    for name, pid in processes.items():
        try:
            fields = (
                (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            )
        except OSError:
            continue
        found[name] = (int(fields[11]) + int(fields[12])) / tick
    return found


class Spent:
    """Processor time from now on, by process, our own included."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {**processes, "clients": os.getpid()}
        self._before = cpu_seconds(self._processes)

    def told(self, count: int, *, micro: bool = False) -> str:
        """Milliseconds for each of `count`, or microseconds."""
        now, scale, unit = cpu_seconds(self._processes), 1e6 if micro else 1e3, "µs" if micro else "ms"
        each = {name: (now[name] - before) * scale / max(1, count) for name, before in self._before.items()}
        return f"processor {unit} each: " + ", ".join(
            f"{name} {time:.{0 if micro else 1}f}" for name, time in each.items()
        )


async def rest(processes: Mapping[str, int], nc: Nats, told: Told, timeout_s: float) -> float:
    """Wait until graphs are linked and next to no processor time is used (segments merged); seconds waited.

    Processor time alone does not tell: on a busy machine what is still to be done hardly gets any.
    """
    began = time.perf_counter()
    before = _used(processes)
    while time.perf_counter() - began < timeout_s:
        await asyncio.sleep(_LOOK_S)
        now = _used(processes)
        spent = sum(seconds - before.get(name, 0.0) for name, seconds in now.items())
        unlinked = int((await conditions.stage_counts(nc, "index")).get("unlinked", 0))
        # what one child has found is often what the next is started for
        if not unlinked and now.keys() == before.keys() and spent / _LOOK_S < _IDLE_SHARE:
            break
        told.still(f"{unlinked} vectors wait to be linked, {spent:.1f} s of processor time in {_LOOK_S:g} s")
        before = now
    return time.perf_counter() - began


def _used(processes: Mapping[str, int]) -> dict[str, float]:
    """Processor time of processes and of what they have started and not ended: what is studied is fitted there."""
    listed = (path for pid in processes.values() for path in (_PROC / str(pid) / "task").glob("*/children"))
    children = {child for path in listed for child in _read(path).split()}
    return cpu_seconds({**processes, **{child: int(child) for child in children}})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # it has ended
        return ""
