"""A record in memory that takes nodes as persist does, and a summarizer over it that can be killed between writes."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import msgspec

from jetmem.adapters.tantivy_text import analyze
from jetmem.adapters.tenant_settings import Told as Setting
from jetmem.domain.extract import Bullet, Grip
from jetmem.runtime import limits
from jetmem.runtime.errors import RequestFailed
from jetmem.summarize.better import Better, Told
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.rows import FAMILIES, Rows
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.teller import Teller
from jetmem.summarize.vectors import Vectors
from jetmem.testing.encoder import FakeEncoder
from jetmem.testing.store import FakeStore
from jetmem_schemas import tenants, toc
from jetmem_schemas.internal import Entry, EntryVectorsReply, Forgotten, Head, encode
from jetmem_schemas.subjects import partition_of

TENANT = "acme"
PART = partition_of(TENANT)
_node = msgspec.json.Decoder(toc.Node).decode


class Clock:
    def __init__(self):
        self.now = 0.0

    def now_ms(self):
        return int(self.now * 1000)

    def monotonic(self):
        return self.now


class Killed(Exception):
    pass


class Store(FakeStore):
    """Ends the process after so many more writes."""

    left = None

    def write(self, batch, *, sync):
        if self.left is not None:
            if self.left == 0:
                self.left = None
                raise Killed
            self.left -= 1
        super().write(batch, sync=sync)


@dataclass
class Record:
    """One tenant's log. `refuse`: MEMORY takes nothing."""

    entries: list[Entry] = field(default_factory=list)
    forgot: int = 0
    dropped: int = 0
    seq: int = 0
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def _add(self, kind, agent, session, name, ts, at, body, seq=None):
        if seq is None:
            self.seq += 1
            seq = self.seq
        entry = Entry(len(self.entries) + 1, seq, at, kind, TENANT, agent, session, name, ts, body)
        self.entries.append(entry)
        return entry

    def say(self, text, ts, *, name=None, session="s1", agent="alice", at=0, **fields):
        self.record()
        name = name or f"e{len(self.entries) + 1}"
        body = msgspec.json.encode({"text": text, "id": name, **fields})
        return self._add("event", agent, session, name, ts, at, body)

    def publish(self, body):
        self.seq += 1
        self.pending.append((self.seq, body))
        return self.seq

    def record(self):
        """persist reads what MEMORY holds."""
        for seq, body in self.pending:
            self._take(seq, body)
        self.pending.clear()

    def _take(self, seq, body):
        node = _node(body)
        if node.version < self.forgot or any(v.version >= node.version for v in self.versions(node.id)):
            self.dropped += 1
            return
        self._add("derived", "_", "node", node.id, 0, 0, body, seq)

    def versions(self, name):
        return [_node(e.body) for e in self.entries if e.kind == "derived" and e.id == name]

    def forget(self, names, at_once=0):
        """In entries of so many numbers each, or in one; nodes go first."""
        self.record()
        rseqs = [e.rseq for e in self.entries if e.kind == "event" and e.id in names]
        made = [e.rseq for e in self.entries if e.kind == "derived" and toc.met(list(_node(e.body).sources), rseqs)]
        rseqs = made + rseqs
        for rseq in rseqs:
            old = self.entries[rseq - 1]
            self.entries[rseq - 1] = Entry(rseq, old.seq, old.at, "blank", TENANT, "", "", "", 0, b"")
        at_once = at_once or len(rseqs) or 1
        for n in range(0, max(1, len(rseqs)), at_once):
            some, last = rseqs[n : n + at_once], n + at_once >= len(rseqs)
            entry = self._add("forgot", "_", "_", "", 0, 0, encode(Forgotten(sorted(names), some, last)))
        self.forgot = entry.rseq

    def nodes(self):
        """The newest version of each that is not gone."""
        newest = {}
        for entry in self.entries:
            if entry.kind == "derived":
                node = _node(entry.body)
                if node.id not in newest or newest[node.id].version < node.version:
                    newest[node.id] = node
        return {name: node for name, node in newest.items() if not node.gone}

    def events(self):
        return [e for e in self.entries if e.kind == "event"]


class Index:
    """Gives out vectors as index does: of entries up to `at`, all there are (None: of every entry)."""

    def __init__(self, record):
        self.record = record
        self.encoder = FakeEncoder(dimensions=32)
        self.at = 0
        self.model = "fake"
        self.down = False
        self.asked = 0

    async def entry_vectors(self, tenant, rseqs):
        if self.down:
            raise RequestFailed("unavailable", "index is down")
        at = len(self.record.entries) if self.at is None else self.at
        assert len(rseqs) <= limits.VECTORS_AT_ONCE
        self.asked += len(rseqs)
        return EntryVectorsReply(self.model, [self._vector(rseq) if rseq <= at else b"" for rseq in rseqs], Head(at))

    def _vector(self, rseq):
        entry = self.record.entries[rseq - 1]
        text = msgspec.json.decode(entry.body).get("text", "") if entry.kind == "event" else ""
        return self.encoder.encode([text])[0].tobytes() if text else b""


async def at_once(work):
    """In the place of a thread."""
    return work()


def ran(coroutine):
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


class Stage:
    """summarize without its process: each loop is called by hand."""

    def __init__(self, record, *, store=None, clock=None, timezone="UTC", **settings):
        self.record = record
        self.store = store or Store(FAMILIES)
        self.clock = clock or Clock()
        self.settings = SummarizeSettings(**settings)
        self.index = Index(record)
        self.published = 0
        self.timezone = timezone
        self.open()

    def open(self):
        self.it = Summarizer(Rows(self.store), self.settings, [PART], analyze, self.clock, timezone=self.timezone)
        ask, rest_s = self.index.entry_vectors, self.settings.vectors_rest_s
        self.vectors = Vectors(
            self.it.rows, self.it.maker, at_once, at_once, ask, self.clock, rest_s, self.it.tenants.paused
        )

    def set(self, tenant=TENANT, **changes):
        """What the bucket tells of a tenant."""
        value = tenants.changed(self.it.tenants.values().get(tenant, b""), changes)
        self.it.told([Setting(tenant, value, tenants.decode(value))])

    @property
    def at(self):
        return self.it.at[PART].rseq

    def read(self, most=10**9):
        self.record.record()
        fresh = self.record.entries[self.at : self.at + most]
        if fresh:
            self.it.apply(PART, fresh)
        return bool(fresh)

    def make(self):
        while self.it.some(1.0):
            continue

    def publish(self, most=10**9):
        """Returns whether anything was there."""
        found = [
            (key, version, self.it.rows.outbox(key).body)
            for key, version in list(self.it.waiting.unsent.items())[:most]
        ]
        for key, version, body in found:
            seq = self.record.publish(body)
            self.published += 1
            self.it.waiting.acknowledged(key, version, seq)
        return bool(found)

    def bring(self):
        """Vectors, as far as index has them; how many segments were made with theirs."""
        return ran(self.vectors.lap())

    def tell(self):
        """An endpoint tells what may be told; it says the first thing of each node, and when."""
        teller = Teller(SimpleNamespace(clock=self.clock), self.it, self.settings, None, at_once, at_once)
        for key, _ in list(self.store.scan("untold", b"")):
            asked = teller._prepare(key)
            if asked is not None:
                first = asked.sources[0]
                grip = first.grip or Grip(first.text[:40], first.id, first.id, first.ts)
                told = Told(f"Told at {self.clock.now}", [Bullet("Something was said.", [grip])])
                self.it.maker.improve(key, Better(asked.content, told=told))

    def close(self):
        self.it.close(self.it.due(self.clock.now_ms()), self.clock.now_ms())

    def settle(self, hours=1):
        """Until nothing waits; open segments are closed by then."""
        self.clock.now += hours * 3600
        for _ in range(100):
            self.clock.now += 60
            while self.read():
                continue
            self.it.refused()
            self.close()
            self.make()
            if self.bring():
                continue
            if not self.publish() and not self.it.waiting.count() and self.at == len(self.record.entries):
                assert not self.it.maker.aside, "a node could not be made"
                return
        raise AssertionError(f"{self.it.waiting.count()} nodes still wait: {self.it.waiting.wanted}")
