"""What waits: nodes to be made, and nodes on their way to the record and back. Rows, and an index of them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from jetmem.domain import keys
from jetmem.runtime.clock import Clock
from jetmem.runtime.store import WriteSet
from jetmem.summarize.rows import Rows, Wanted, decode_wanted, encode, node_of
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.timetable import Timetable
from jetmem_schemas.internal import Head

#: A node that took long is made again only after so many times as long, so that a day of thousands of segments does
#: not take the writer's time.
_TIMES: Final = 10.0
#: When so many nodes were made, those whose rest is over are forgotten.
_MADE_MAX: Final = 10_000
#: Entries of an order by age that may stand for nothing any more.
_AGED_MIN: Final = 64
_SEGMENT_DEPTH: Final = 4
_DAY_DEPTH: Final = 3
#: A tenant's next firing, in `meta`.
_FIRES: Final = b"fires:"


class Waiting:
    """Changed by the writer thread only; each change goes into its batch, too.

    Attributes:
        wanted: Nodes to be made.
        unsent: Versions to be published, in order.
        sent: Versions that MEMORY has acknowledged, with their sequences there; not yet back.
    """

    def __init__(
        self,
        rows: Rows,
        settings: SummarizeSettings,
        clock: Clock,
        timetable: Timetable,
        paused: Callable[[str], bool],
    ) -> None:
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
        #: By tenant, what `_since` holds and held, the oldest first; and the oldest that it holds.
        self._by_age: dict[str, list[tuple[int, int, bytes]]] = {}
        self._oldest: dict[str, Head] = {}
        #: Of those that are behind, by tenant: the ones that no forget has emptied since they came or changed.
        self._full: dict[str, dict[bytes, None]] = {}
        self._timetable = timetable
        self._paused = paused
        self._stopped: dict[str, set[bytes]] = {}
        self._held: dict[str, set[bytes]] = {}
        self._firings: list[tuple[int, str]] = []
        self._fires_at: dict[str, int] = {}
        self.load()

    def load(self) -> None:
        """Begin with what the store holds: all of it is due."""
        for held in (self.wanted, self.unsent, self.sent, self._due_at, self._rests, self._since, self._full):
            held.clear()
        self._by_age.clear()
        self._oldest.clear()
        for kept in (self._stopped, self._held, self._fires_at):
            kept.clear()
        self._due.clear()
        self._firings.clear()
        batch = self._rows.store.batch()
        for key, row in self._rows.waiting():
            self.unsent[key] = row.version
            self._behind(key, row.since)
        for key, raw in self._rows.store.scan("dirty", b""):
            wanted = self.wanted[key] = decode_wanted(raw)
            self._behind(key, wanted.since)
            if self._waits(key, wanted):
                self._hold(batch, key, loading=True)
            else:
                self._schedule(key, urgent=True)
        self._rows.store.write(batch, sync=False)

    def want(
        self,
        batch: WriteSet,
        key: bytes,
        since: Head,
        *,
        place: bytes = b"",
        again: bool = False,
        urgent: bool = False,
        asked: bool = False,
    ) -> None:
        """Have a node made. As of `Wanted`; what was wanted of it before stays so."""
        old = self.wanted.get(key)
        if old is not None:
            since = min(old.since, since, key=lambda head: head.rseq)
            place, again = place or old.place, again or old.again
            urgent, asked = urgent or old.urgent, asked or old.asked
        wanted = Wanted(place, since, again, urgent, asked)
        if wanted != old:
            self.wanted[key] = wanted
            batch.put("dirty", key, encode(wanted))
        self._behind(key, since)
        if self._waits(key, wanted):
            self._hold(batch, key)
        else:
            self._schedule(key, urgent or asked)

    def ask(self, batch: WriteSet, nodes: Iterable[bytes]) -> None:
        """Those of these nodes that wait anyway wait no longer."""
        for key in nodes:
            if key in self.wanted:
                self.want(batch, key, self.wanted[key].since, asked=True)

    def _waits(self, key: bytes, wanted: Wanted) -> bool:
        """Whether it waits for the schedule: a day, and by that what is above it."""
        if not self._timetable or wanted.urgent or wanted.asked:
            return False
        return node_of(key)[1].depth == _DAY_DEPTH

    def _hold(self, batch: WriteSet, key: bytes, *, loading: bool = False) -> None:
        """Until the tenant's next firing, which is a row: one that passes while nobody runs is made up for."""
        tenant = keys.tenant_of(key)
        self._held.setdefault(tenant, set()).add(key)
        if tenant in self._fires_at:
            return
        at = self._timetable.after(tenant, self._clock.now_ms())
        row = _FIRES + tenant.encode()
        noted = self._rows.store.get("meta", row) if loading else None
        at = min(at, keys.from_u64(noted)) if noted else at
        batch.put("meta", row, keys.u64(max(0, at)))
        self._fires_at[tenant] = at
        heapq.heappush(self._firings, (at, tenant))

    def _fire(self) -> None:
        now_ms = self._clock.now_ms()
        while self._firings and self._firings[0][0] <= now_ms:
            _, tenant = heapq.heappop(self._firings)
            del self._fires_at[tenant]
            for key in self._held.pop(tenant):
                if key in self.wanted:
                    self._schedule(key, urgent=False)

    def resume(self) -> None:
        """Somebody is paused no more."""
        for tenant in [tenant for tenant in self._stopped if not self._paused(tenant)]:
            for key in self._stopped.pop(tenant):
                if key in self.wanted:
                    self._schedule(key, urgent=False)

    def _schedule(self, key: bytes, urgent: bool) -> None:
        now = self._clock.monotonic()
        due = now if urgent else max(now, self._rests.get(key, now))
        if due < self._due_at.get(key, due + 1):
            self._due_at[key] = due
            heapq.heappush(self._due, (due, -node_of(key)[1].depth, key))

    def next(self) -> bytes | None:
        """The node that is due first, if one is; segments before what is above them."""
        self._fire()
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, key = heapq.heappop(self._due)
            if self._due_at.get(key) == due and key in self.wanted:
                del self._due_at[key]
                tenant = keys.tenant_of(key)
                if self.wanted[key].urgent or not self._paused(tenant):
                    return key
                self._stopped.setdefault(tenant, set()).add(key)
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
            self._behind(key, self.wanted[key].since)
        elif self.on_its_way(key):
            self._behind(key, held[key])
        else:
            held.pop(key, None)
            self._full.get(keys.tenant_of(key), {}).pop(key, None)
        self._age(keys.tenant_of(key), held)
        if not held:
            self._since.pop(keys.tenant_of(key), None)
            self._full.pop(keys.tenant_of(key), None)

    def _behind(self, key: bytes, since: Head) -> None:
        """It is behind, since then unless it was before; and what of it is stored may hold words."""
        tenant = keys.tenant_of(key)
        self._full.setdefault(tenant, {})[key] = None
        held = self._since.setdefault(tenant, {})
        if key in held:
            return
        held[key] = since
        heapq.heappush(self._by_age.setdefault(tenant, []), (since.rseq, since.seq, key))
        self._age(tenant, held)

    def _age(self, tenant: str, held: Mapping[bytes, Head]) -> None:
        """Note the oldest that is behind. Each node that was is passed over once, so that it costs little each time."""
        aged = self._by_age.get(tenant, [])
        if len(aged) > _AGED_MIN + 2 * len(held):
            aged = self._by_age[tenant] = sorted((since.rseq, since.seq, key) for key, since in held.items())
        while aged and held.get(aged[0][2]) != Head(*aged[0][:2]):
            heapq.heappop(aged)
        if aged:
            self._oldest[tenant] = Head(*aged[0][:2])
        else:
            self._by_age.pop(tenant, None)
            self._oldest.pop(tenant, None)

    def _of(self, key: bytes) -> dict[bytes, Head]:
        return self._since.setdefault(keys.tenant_of(key), {})

    def on_its_way(self, key: bytes) -> bool:
        """Whether a version was made and is not yet recorded."""
        return key in self.unsent or key in self.sent

    def since(self, tenant: str) -> Head | None:
        """The last entry before the first change that is not yet recorded; None if none waits. From any thread."""
        return self._oldest.get(tenant)

    def count(self, tenant: str = "") -> int:
        """Nodes that are behind."""
        if tenant:
            return len(self._since.get(tenant, ()))
        return sum(len(held) for held in list(self._since.values()))

    def urgent(self, tenant: str) -> bool:
        """Whether a node must still be made without what was erased. Writer thread only."""
        return any(self.wanted[key].urgent for key in self._since.get(tenant, ()) if key in self.wanted)

    def is_asked(self, key: bytes) -> bool:
        """Whether a command asked for a node that is not yet made."""
        return key in self.wanted and self.wanted[key].asked

    def asked(self, tenant: str) -> int:
        """Nodes that a command asked for and that are not yet made. From any thread."""
        wanted = [self.wanted.get(key) for key in list(self._since.get(tenant, ()))]
        return sum(1 for each in wanted if each is not None and each.asked)

    def keys_of(self, tenant: str) -> list[bytes]:
        """Nodes of a tenant that are behind. Writer thread only."""
        return list(self._since.get(tenant, ()))

    def full(self, tenant: str) -> list[bytes]:
        """Nodes of a tenant that are behind and may hold words. Writer thread only.

        The others are empty, urgent and not on their way, and stay so until they are wanted or made again.
        """
        return list(self._full.get(tenant, ()))

    def emptied(self, tenant: str, nodes: Iterable[bytes]) -> None:
        """A forget has emptied these, and has had them made again, in a write that is done."""
        held = self._full.get(tenant, {})
        for key in nodes:
            held.pop(key, None)
