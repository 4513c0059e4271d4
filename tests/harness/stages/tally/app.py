"""Build and wire tally."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from jetmem.tally.settings import TallySettings

from jetmem.adapters.layouts import Layout, own_folder
from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.domain import keys
from jetmem.runtime.settings import Common
from jetmem.runtime.store import Store
from jetmem_schemas.internal import Counts, Entry, Forgotten, Head

FAMILIES: Final = ("words", "meta")
LAYOUT: Final = Layout(stage="tally", families=FAMILIES, format=1)


class CountRequest(msgspec.Struct, frozen=True):
    """How many words has this tenant said? Waits until entry `rseq` is applied."""

    tenant: str
    rseq: int = 0
    wait_ms: int = 0


class CountReply(msgspec.Struct, frozen=True):
    """`late` arms missed the wait."""

    words: int
    late: list[str]


def build(
    common: Common, settings: TallySettings, *, store: Store | None = None, clock: Any = None, broker: Any = None
) -> Shell:
    """Build the process."""
    folder = own_folder(Path(common.data), "tally")
    shell = Shell("tally", common, clock=clock, broker=broker)
    Tally(shell, settings, store or LAYOUT.open(Path(common.data)), folder).wire()
    return shell


class Tally:
    """A projection's process, and one question."""

    def __init__(self, shell: Shell, settings: TallySettings, store: Store, folder: Path) -> None:
        self.process = ProjectionProcess(shell, self, folder, read_threads=settings.read_threads)
        self.store = store
        self.head = {part: self._stored(part) for part in self.process.parts}

    def wire(self) -> None:
        self.process.wire({"count": Endpoint(CountRequest, self._count)})

    def _stored(self, part: int) -> Head:
        raw = self.store.get("meta", keys.partition(part))
        return msgspec.msgpack.decode(raw, type=Head) if raw else Head()

    def position(self, part: int) -> Head:
        return self.head[part]

    def apply(self, part: int, entries: Sequence[Entry]) -> None:
        batch = self.store.batch()
        for entry in entries:
            start = keys.tenant(part, entry.tenant)
            if entry.kind == "event":
                words = len(msgspec.json.decode(entry.body).get("text", "").split())
                batch.put("words", start + keys.u64(entry.rseq), keys.u64(words))
            elif entry.kind == "forgot":
                for rseq in msgspec.msgpack.decode(entry.body, type=Forgotten).rseqs:
                    batch.delete("words", start + keys.u64(rseq))
        self._write(batch, part, Head(entries[-1].rseq, entries[-1].seq))

    def reset(self, part: int) -> None:
        batch = self.store.batch()
        for key, _ in self.store.scan("words", keys.partition(part)):
            batch.delete("words", key)
        self._write(batch, part, Head())

    def _write(self, batch: Any, part: int, head: Head) -> None:
        batch.put("meta", keys.partition(part), msgspec.msgpack.encode(head))
        self.store.write(batch, sync=False)
        self.head[part] = head

    def heads(self, part: int, tenant: str) -> dict[str, Head]:
        return {"tally": self.head[part]}

    def passed(self, part: int) -> dict[str, Head]:
        return {"tally": self.head[part]}

    def counts(self, tenant: str) -> Counts:
        return {"events": 10**6}  # a name that persist has too: whose it is must not be mixed up

    def close(self) -> None:
        self.store.close()

    async def _count(self, part: int, request: CountRequest) -> CountReply:
        late = await self.process.wait(request.tenant, request.rseq, request.wait_ms)
        part = self.process.part_of(request.tenant)
        return CountReply(await self.process.in_reader(partial(self._sum, keys.tenant(part, request.tenant))), late)

    def _sum(self, start: bytes) -> int:
        return sum(keys.from_u64(raw) for _, raw in self.store.scan("words", start))
