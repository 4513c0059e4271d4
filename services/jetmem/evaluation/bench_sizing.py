"""What events take, for whoever plans machines: processor, disk and memory by process, `services/SIZING.md`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.client import Client as Nats

from jetmem.adapters.nats_streams import stream_info
from jetmem.console.temporary import Pipeline
from jetmem.evaluation import bench_resources
from jetmem.evaluation.bench_data import Data
from jetmem.evaluation.bench_report import Figure
from jetmem_schemas import subjects

_MILLION: Final = 1_000_000
_MIB_IN_GIB: Final = 1024
#: Timers and heartbeats, which a long run would count as work of its events.
_IDLE_LOOK_S: Final = 10.0


class Sizing:
    """Looks at all processes before the first event; `figures` says what came on top once all is worked off."""

    def __init__(self, running: Pipeline) -> None:
        self._running = running
        self._processes = {**running.processes(), "clients": os.getpid()}
        self._spent = bench_resources.cpu_seconds(self._processes)
        self._began = time.perf_counter()
        self._idle = bench_resources.memory(running.processes())
        self._disk = bench_resources.disk(running.root)

    async def figures(self, nc: Nats, data: Data) -> list[Figure]:
        """All events are recorded, found by words and by meaning, linked and summarised; nothing else was asked."""
        count = len(data.lines)
        spent, took_s = bench_resources.cpu_seconds(self._processes), time.perf_counter() - self._began
        idle = await self._idle_share()
        each = {
            name: max(0.0, spent[name] - before - idle[name] * took_s) * 1000 / count
            for name, before in self._spent.items()
        }
        return [
            *(
                Figure(f"processor, {name}", s, "s per 1,000 events", note=f"and {idle[name]:.1%} of a core when idle")
                for name, s in each.items()
            ),
            Figure("processor, all but clients", sum(each.values()) - each["clients"], "s per 1,000 events"),
            *self._on_disk(self._running.root, count),
            *await _in_streams(nc, data),
            *self._in_memory(),
        ]

    async def _idle_share(self) -> dict[str, float]:
        """Of one core, by process."""
        before = bench_resources.cpu_seconds(self._processes)
        await asyncio.sleep(_IDLE_LOOK_S)
        after = bench_resources.cpu_seconds(self._processes)
        return {name: (after[name] - before[name]) / _IDLE_LOOK_S for name in before}

    def _on_disk(self, root: Path, count: int) -> list[Figure]:
        grown = {name: size - self._disk.get(name, 0.0) for name, size in bench_resources.disk(root).items()}
        gib = {name: mib / _MIB_IN_GIB * _MILLION / count for name, mib in grown.items()}
        stores = {name: size for name, size in gib.items() if name in self._running.processes()}
        return [
            *(Figure(f"disk, {name}", size, "GiB per million events") for name, size in stores.items()),
            Figure("disk, all stages", sum(stores.values()), "GiB per million events"),
        ]

    def _in_memory(self) -> list[Figure]:
        now = bench_resources.memory(self._running.processes())
        return [
            Figure(f"memory, {name}", each.now, "MiB", note=f"empty {self._idle[name].now:,.0f}, most {each.most:,.0f}")
            for name, each in now.items()
            if name in self._idle
        ]


async def _in_streams(nc: Nats, data: Data) -> list[Figure]:
    count = len(data.lines)
    said = sum(len(msgspec.json.encode(line.event)) for line in data.lines) / count
    held = {stream: (await stream_info(nc, stream))["state"] for stream in (subjects.MEMORY, subjects.RECORD)}
    memory, record = held[subjects.MEMORY], held[subjects.RECORD]
    return [
        Figure("payload, each event", said, "bytes"),
        Figure("MEMORY, each event", memory["bytes"] / count, "bytes", note=f"{memory['messages']:,} messages"),
        Figure("RECORD, in all", record["bytes"] / 1024**2, "MiB", note="in the broker's memory, bounded"),
    ]
