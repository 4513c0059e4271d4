"""What waits: nodes to be made, and nodes on their way to the record and back. Rows, and an index of them."""

from __future__ import annotations

import heapq
import random
from typing import Final

from jetmem.runtime.clock import Clock
from jetmem.runtime.store import WriteSet
from jetmem.summarize.rows import Rows, Wanted, decode_wanted, encode, node_of, tenant_of
from jetmem.summarize.settings import SummarizeSettings
from jetmem_schemas.internal import Head

#: A node that took long is made again only after so many times as long, so that a day of thousands of segments does
#: not take the writer's time.
_TIMES: Final = 10.0
#: When so many nodes were made, those whose rest is over are forgotten.
_MADE_MAX: Final = 10_000
_SEGMENT_DEPTH: Final = 4


class Waiting:
    """Changed by the writer thread only; each change goes into its batch, too.

    Attributes:
        wanted: Nodes to be made.
        unsent: Versions to be published, in order.
        sent: Versions that MEMORY has acknowledged, with their sequences there; not yet back.
    """

    def __init__(self, rows: Rows, settings: SummarizeSettings, clock: Clock) -> None:
        self.wanted: dict[bytes, Wanted] = {}
        self.unsent: dict[bytes, int] = {}
        self.sent: dict[bytes, tuple[int, int]] = {}
        self._rows = rows
        self._settings = settings
        self._clock = clock
        self._random = random.Random()
        self._due: list[tuple[float, int, bytes]] = []
        self._due_at: dict[bytes, float] = {}
        self._rests: dict[bytes, float] = {}
        self._since: dict[str, dict[bytes, Head]] = {}
        self.load()

    def load(self) -> None:
        """Begin with what the store holds: all of it is due."""
        for held in (self.wanted, self.unsent, self.sent, self._due_at, self._rests, self._since):
            held.clear()
        self._due.clear()
        for key, row in self._rows.waiting():
            self.unsent[key] = row.version
            self._of(key)[key] = row.since
        for key, raw in self._rows.store.scan("dirty", b""):
            wanted = self.wanted[key] = decode_wanted(raw)
            self._of(key).setdefault(key, wanted.since)
            self._schedule(key, urgent=True)

    def want(
        self,
        batch: WriteSet,
        key: bytes,
        since: Head,
        *,
        place: bytes = b"",
        again: bool = False,
        urgent: bool = False,
    ) -> None:
        """Have a node made. As of `Wanted`; what was wanted of it before stays so."""
        old = self.wanted.get(key)
        if old is not None:
            since = min(old.since, since, key=lambda head: head.rseq)
            place, again, urgent = place or old.place, again or old.again, urgent or old.urgent
        wanted = Wanted(place, since, again, urgent)
        if wanted != old:
            self.wanted[key] = wanted
            batch.put("dirty", key, encode(wanted))
        self._of(key).setdefault(key, since)
        self._schedule(key, urgent)

    def _schedule(self, key: bytes, urgent: bool) -> None:
        now = self._clock.monotonic()
        due = now if urgent else max(now, self._rests.get(key, now))
        if due < self._due_at.get(key, due + 1):
            self._due_at[key] = due
            heapq.heappush(self._due, (due, -node_of(key)[1].depth, key))

    def next(self) -> bytes | None:
        """The node that is due first, if one is; segments before what is above them."""
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, key = heapq.heappop(self._due)
            if self._due_at.get(key) == due and key in self.wanted:
                del self._due_at[key]
                return key
        return None

    def postpone(self, key: bytes, seconds: float) -> None:
        """Not now: the log must go on first."""
        self._rests[key] = self._clock.monotonic() + seconds
        self._schedule(key, urgent=False)

    def made(self, batch: WriteSet, key: bytes, took_s: float) -> None:
        """It is made; the next time not before its rest is over."""
        del self.wanted[key]
        self._due_at.pop(key, None)  # it may have been made before it was due
        batch.delete("dirty", key)
        settings = self._settings
        is_segment = node_of(key)[1].depth == _SEGMENT_DEPTH
        rest = settings.open_every_s if is_segment else settings.rollup_every_s
        rest = max(rest, _TIMES * took_s) * (1 + settings.jitter * self._random.random())
        now = self._clock.monotonic()
        if len(self._rests) > _MADE_MAX:
            self._rests = {each: until for each, until in self._rests.items() if until > now}
        self._rests[key] = now + rest
        self._settle(key)

    def send(self, key: bytes, version: int) -> Head:
        """A version is put in the outbox; since when its node is behind."""
        self.unsent.pop(key, None)
        self.unsent[key] = version
        self.sent.pop(key, None)
        return self._of(key)[key]

    def acknowledged(self, key: bytes, version: int, seq: int) -> None:
        """MEMORY has it, unless a newer one is wanted by now."""
        if self.unsent.get(key) == version:
            del self.unsent[key]
            self.sent[key] = (version, seq)

    def back(self, batch: WriteSet, key: bytes) -> Head | None:
        """What was on its way is recorded, or need not be any more; since when its node was behind."""
        batch.delete("outbox", key)
        self.unsent.pop(key, None)
        self.sent.pop(key, None)
        behind = self._of(key).pop(key, None)
        self._settle(key)
        return behind

    def _settle(self, key: bytes) -> None:
        held = self._of(key)
        if key in self.wanted:
            held[key] = held.get(key, self.wanted[key].since)
        elif key not in self.unsent and key not in self.sent:
            held.pop(key, None)
        if not held:
            self._since.pop(tenant_of(key), None)

    def _of(self, key: bytes) -> dict[bytes, Head]:
        return self._since.setdefault(tenant_of(key), {})

    def on_its_way(self, key: bytes) -> bool:
        """Whether a version was made and is not yet recorded."""
        return key in self.unsent or key in self.sent

    def since(self, tenant: str) -> Head | None:
        """The last entry before the first change that is not yet recorded; None if none waits. From any thread."""
        held = self._since.get(tenant)
        every = list(held.values()) if held else []
        return min(every, key=lambda head: head.rseq) if every else None

    def count(self, tenant: str = "") -> int:
        """Nodes that are behind."""
        if tenant:
            return len(self._since.get(tenant, ()))
        return sum(len(held) for held in list(self._since.values()))

    def urgent(self, tenant: str) -> bool:
        """Whether a node must still be made without what was erased. Writer thread only."""
        return any(self.wanted[key].urgent for key in self._since.get(tenant, ()) if key in self.wanted)

    def keys_of(self, tenant: str) -> list[bytes]:
        """Nodes of a tenant that are behind. Writer thread only."""
        return list(self._since.get(tenant, ()))
