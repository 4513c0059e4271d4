"""Topics of a `toc_record.Stage`, each loop called by hand: vectors are those of a bag of words."""

import asyncio
from types import SimpleNamespace

import msgspec
import numpy as np

from harness.toc_record import PART, TENANT
from jetmem.runtime.errors import RequestFailed
from jetmem.summarize.topic_answers import Answers
from jetmem.summarize.topic_loops import Placer, Topicker
from jetmem.testing.encoder import FakeEncoder
from jetmem_schemas.internal import EntryVectorsReply, Head
from jetmem_schemas.topics import TopicRequest, TopicsRequest

#: Bags of words of one talk have a cosine of about 0.9, of two talks one near 0.
ALIKE = 0.6


async def group(vectors):
    """Groups of at least three vectors that are alike, by the first of each."""
    groups, heads = [], []
    for vector in vectors:
        near = [n for n, head in enumerate(heads) if float(head @ vector) >= ALIKE]
        groups.append(near[0] if near else len(heads))
        if not near:
            heads.append(vector)
    return [n if groups.count(n) >= 3 else -1 for n in groups]


class Index:
    """`EntryVectors` over a record. `down`: nobody answers; `until`: entries after it have no vectors yet."""

    def __init__(self, record):
        self.record = record
        self.encoder = FakeEncoder()
        self.down = False
        self.until = 10**9
        self.model = "fake"
        self.asked = []

    async def __call__(self, tenant, rseqs):
        if self.down:
            raise RequestFailed("unavailable", "stage index is not running")
        self.asked.append(list(rseqs))
        vectors = [self._vector(rseq) for rseq in rseqs]
        at = min(self.until, len(self.record.entries))
        return EntryVectorsReply(self.model, vectors, Head(at, at))

    def _vector(self, rseq):
        entry = self.record.entries[rseq - 1]
        if entry.kind != "event" or rseq > self.until:
            return b""
        text = msgspec.json.decode(entry.body)["text"]
        return self.encoder.encode([text])[0].tobytes() if text else b""


class Topical:
    """The loops of topics over a stage, which may be opened anew in between."""

    def __init__(self, stage, index=None):
        self.stage = stage
        self.index = index or Index(stage.record)
        self.shell = SimpleNamespace(clock=stage.clock, log=SimpleNamespace(warning=lambda *_, **__: None))

    @property
    def topics(self):
        return self.stage.it.topics

    async def _in_writer(self, work):
        return work()

    def place(self):
        placer = Placer(self.shell, self.topics, self.index, self._in_writer, self._in_writer)

        async def all_of_them():
            while await placer.some():
                continue

        asyncio.run(all_of_them())
        return placer.still

    def group(self):
        topicker = Topicker(self.shell, self.topics, group, self._in_writer, self._in_writer, 1.0)
        for tenant in self.topics.due():
            asyncio.run(topicker._again(tenant))

    def make(self):
        while (wanted := self.topics.next()) is not None:
            self.topics.make(wanted[0])

    def settle(self, hours=1):
        """Until nodes and topics are right."""
        self.stage.settle(hours)
        self.place()
        self.make()
        self.group()
        self.make()

    @property
    def answers(self):
        return Answers(self.topics.rows, self.stage.clock)

    def list(self, **fields):
        request = TopicsRequest(TENANT, **{"limit": 100, **fields})
        return self.answers.topics(request, self.topics.at(TENANT, self.stage.it.at[PART]), False).topics

    def open(self, name, **fields):
        return self.answers.topic(TopicRequest(TENANT, name, **{"limit": 100, **fields}), Head(), False)

    def ids(self):
        """Sessions of each topic."""
        return {t.id: sorted(s.session for s in self.open(t.id).segments) for t in self.list()}


def talk(stage, kind, count, *, start, first=0, agent="alice"):
    """Sessions of one kind of talk, each a segment of two events; ids `<kind><number>a` and `…b`."""
    said = {
        "sea": "the harbour lighthouse keeper watches every ship at sea",
        "cake": "lemon cake needs butter sugar eggs and a warm oven",
        "band": "our violin band plays loud concerts on saturday night",
    }[kind]
    for n in range(first, first + count):
        at = start + n * 3_600_000
        for place in "ab":
            text = f"{said} {kind}{n}x{place}."
            stage.record.say(text, at, name=f"{kind}{n}{place}", session=f"{kind}{n}", agent=agent, author="Ann")


def everything(stage):
    """All bytes of the store."""
    from jetmem.summarize.rows import FAMILIES

    return b"".join(key + value for family in FAMILIES for key, value in stage.store.scan(family, b""))


def stored_vectors(stage):
    return {key: np.frombuffer(raw, np.float16) for key, raw in stage.store.scan("topic_vectors", b"")}
