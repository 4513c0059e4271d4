"""A record of runs in memory, and a learner over it that can be killed between writes."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.toc_record import Clock, Killed, Store
from jetmem.domain.procedures import relations
from jetmem.domain.procedures.crystals import RULES, Rules
from jetmem.learn.answers import Answers
from jetmem.learn.boards import Boards
from jetmem.learn.estimating import NOTHING
from jetmem.learn.handler import Learner
from jetmem.learn.lacking import Lacking
from jetmem.learn.ports import News, Wave
from jetmem.learn.recounting import AT_ONCE
from jetmem.learn.rows import FAMILIES, Rows
from jetmem.learn.settings import LearnSettings
from jetmem.learn.studies import Kind, Studies
from jetmem.testing.encoder import FakeEncoder
from jetmem_schemas.internal import Entry, Forgotten, Vector, VectorsReady, encode
from jetmem_schemas.procedures import Predict, Procedures, Recommend
from jetmem_schemas.subjects import partition_of

TENANT = "acme"
PART = partition_of(TENANT)
START = 1_767_000_000_000
MODEL = "fake"

__all__ = ["PART", "START", "TENANT", "Killed", "Record", "Stage", "Store", "edges_of"]


@dataclass
class Record:
    """The log of one partition, mostly of one tenant."""

    entries: list[Entry] = field(default_factory=list)

    def _add(
        self, kind: str, agent: str, session: str, name: str, ts: int, body: bytes, tenant: str, came: int | None = None
    ) -> Entry:
        number = len(self.entries) + 1
        at = ts if came is None else came
        entry = Entry(number, number * 10, at, kind, tenant, agent, session, name or f"r{number}", ts, body)
        self.entries.append(entry)
        return entry

    def ran(
        self, procedure: str, success: bool, task: str = "fix it", *, agent="alice", session="s1", id_="", ts=START,
        tenant=TENANT, came: int | None = None, **fields: Any,
    ) -> Entry:  # fmt: skip
        body = msgspec.json.encode({"task": task, "success": success, "procedure": procedure, **fields})
        return self._add("run", agent, session, id_, ts, body, tenant, came)

    def defined(self, name: str, *, tenant=TENANT, id_="", ts=START, **fields: Any) -> Entry:
        return self._add("procedure", "alice", name, id_, ts, msgspec.json.encode(fields), tenant)

    def said(self, text: str) -> Entry:
        return self._add("event", "alice", "s1", "", START, msgspec.json.encode({"text": text}), TENANT)

    def forget(self, names: set[str], at_once: int = 500, *, tenant=TENANT) -> None:
        """What a persist that scans shows: blanks, and entries that name what was erased."""
        gone = [e.rseq for e in self.entries if e.id in names and e.kind in ("run", "procedure") and e.tenant == tenant]
        for rseq in gone:
            old = self.entries[rseq - 1]
            self.entries[rseq - 1] = Entry(rseq, old.seq, old.at, "blank", tenant, "", "", "", 0, b"")
        for n in range(0, max(1, len(gone)), at_once):
            some = gone[n : n + at_once]
            body = encode(Forgotten(sorted(names), some, n + at_once >= len(gone)))
            self._add("forgot", "_", "_", "", START, body, tenant)

    def runs(self) -> list[Entry]:
        return [e for e in self.entries if e.kind in ("run", "procedure")]


class Stage:
    """learn without its process: opening it again is what a restart does."""

    def __init__(
        self, record: Record, *, store: Any = None, rules: Rules = RULES, at_once: int = AT_ONCE, **settings: Any
    ) -> None:
        self.rules, self.at_once = rules, at_once
        self.record = record
        self.store = store or Store(FAMILIES)
        self.settings = LearnSettings(**settings)
        self.clock = Clock()
        self.clock.now = START / 1000
        self.failed: list[BaseException] = []
        self.encoder = FakeEncoder(dimensions=32)
        #: Texts of definitions that were asked for; whether embed is down.
        self.encoded: list[str] = []
        self.blind = False
        self.open()

    def tell(self, tenant: str, news: News) -> None:
        """As a hearer of the writer."""
        self.waves += news.waves

    def clear(self) -> None:
        """Nothing is held."""

    def open(self) -> None:
        self.rows = Rows(self.store)
        self.boards = Boards(self.rows, self.settings)
        self.studies = Studies(self.rows, self.boards, self.settings, self.clock, self.failed.append, self._encode)
        self.waves: list[Wave] = []
        self.it = Learner(self.rows, [self.boards, self.studies, self], range(64), self.clock, self.rules, self.at_once)
        self.answers = Answers(self.rows, self.boards, self.clock)
        self.lacking = Lacking(self.it)

    def read(self, most: int = 10**9) -> None:
        start = self.it.at[PART].rseq
        fresh = self.record.entries[start : start + most]
        if fresh:
            self.it.apply(PART, fresh)

    def embed(self, most: int = 10**9, model: str = MODEL, tenant: str = TENANT) -> int | None:
        """Answer what lacks its vector."""
        found = [(place, key) for place, key in self.lacking.lacking(tenant, b"")][:most]
        texts = [(key, self.lacking.text_at(tenant, place, key)) for place, key in found]
        made = [Vector(key, self.vector(text)) for key, text in texts if text is not None]
        return self.lacking.store(VectorsReady(tenant, model, made))

    def settle(self) -> None:
        self.read()
        while self.lacking.pending.get(TENANT):
            self.embed(7)
        while self.it.recounts.waiting():
            self.it.recount()

    async def _encode(self, texts: list[str]) -> list[bytes] | None:
        self.encoded += texts
        return None if self.blind else [self.vector(text) for text in texts]

    def vector(self, text: str) -> bytes:
        return bytes(self.encoder.encode([text])[0].tobytes())

    def recommend(self, task: str, *, vector: bytes | None = None, tenant=TENANT, learnt=NOTHING, **fields: Any) -> Any:
        held = self.vector(task) if vector is None else vector
        ask = Recommend(task=task, **fields)
        return self.answers.recommend(self.boards.compared(tenant), tenant, ask, held, learnt)

    def predict(
        self, task: str, procedure: str, *, vector: bytes | None = None, tenant=TENANT, learnt=NOTHING, **fields: Any
    ) -> Any:
        held = self.vector(task) if vector is None else vector
        ask = Predict(task=task, procedure=procedure, **fields)
        return self.answers.predict(self.boards.compared(tenant), tenant, ask, held, learnt)

    def procedure(self, name: str) -> Any:
        return self.answers.procedure(TENANT, name)

    def procedures(self, start: int = 0, **fields: Any) -> Any:
        return self.answers.procedures(TENANT, Procedures(**fields), start)

    async def study(self, kind: Kind) -> Any:
        """As who asks gets it, however long it takes."""
        while (found := await self.studies.get(TENANT, kind, self.it.at[PART])) is None:
            assert not self.failed, self.failed
        return found

    def held(self) -> dict[str, dict[bytes, bytes]]:
        """Every row but the checkpoint and what is noted for the files."""
        return {family: dict(self.store.scan(family, b"")) for family in FAMILIES if family != "meta"}


def edges_of(graph):
    """Edges of `relations.Graph`, in order of their ends and kind."""
    ends = zip(graph.source.tolist(), graph.target.tolist(), graph.kind.tolist(), graph.strength.tolist(), strict=True)
    return sorted(
        relations.Edge(graph.names[one], graph.names[other], relations.KINDS[kind], strength)
        for one, other, kind, strength in ends
    )
