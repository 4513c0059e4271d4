"""What events take, for whoever plans machines: processor, disk and memory by process, `services/SIZING.md`."""

from __future__ import annotations

import os
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


class Sizing:
    """Looks at all processes before the first event; `figures` says what came on top once all is worked off."""

    def __init__(self, running: Pipeline) -> None:
        self._running = running
        self._processes = {**running.processes(), "clients": os.getpid()}
        self._spent = bench_resources.cpu_seconds(self._processes)
        self._idle = bench_resources.memory(running.processes())
        self._disk = bench_resources.disk(running.root)

    async def figures(self, nc: Nats, data: Data) -> list[Figure]:
        """All events are recorded, found by words and by meaning, linked and summarised; nothing else was asked."""
        count = len(data.lines)
        spent = bench_resources.cpu_seconds(self._processes)
        each = {name: (spent[name] - before) * 1000 / count for name, before in self._spent.items()}
        return [
            *(Figure(f"processor, {name}", s, "s per 1,000 events") for name, s in each.items()),
            Figure("processor, all but clients", sum(each.values()) - each["clients"], "s per 1,000 events"),
            *self._on_disk(self._running.root, count),
            *await _in_streams(nc, data),
            *self._in_memory(),
        ]

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
