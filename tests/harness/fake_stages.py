"""The other stages as query sees them, in memory: each can be down, slow or behind."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from jetmem import flow
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.events import Event, Forget
from jetmem_schemas.internal import (
    Activity,
    ActivityReply,
    ActivityRequest,
    AppliedReply,
    AppliedRequest,
    Counts,
    CoverReply,
    CoverRequest,
    EncodeReply,
    EncodeRequest,
    Entry,
    FetchedItem,
    FetchReply,
    FetchRequest,
    FindReply,
    FindRequest,
    ForgetState,
    Found,
    Head,
    NodesReply,
    NodesRequest,
    StageStatus,
    TimelineReply,
    TimelineRequest,
)
from jetmem_schemas.placing import SegmentsReply, SegmentsRequest
from jetmem_schemas.toc import Node

encode = msgspec.msgpack.encode


class FakeClock:
    """Stands still unless told, so that deadlines are decided by the test."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def monotonic(self) -> float:
        return self.now


def _within(entry: Entry, request: TimelineRequest) -> bool:
    """Sessions and times only."""
    after = request.since is None or entry.ts >= request.since
    return after and request.session in ("", entry.session) and (request.until is None or entry.ts < request.until)


@dataclass
class FakeStages:
    """`query.ports.Stages`.

    Attributes:
        down: Stages that nobody runs.
        hangs: Calls (`find`, `encode`, `index.applied`, …) that never answer by themselves.
        erased_ids: Found by the index, no longer held by persist.
        cut_at: Items after which a fetch says `cut`.
        reached: MEMORY sequence up to which persist has read.
        memory_end: Where MEMORY ends, if that is further; None: the broker does not say.
        nodes_held: Every version of every node, by id, the newest last.
        nodes_at_once: Nodes after which a reply says `cut`.
        nodes_found: Nodes that the index finds, best first.
        segments: Of entries, by their numbers.
        lost_acks: Publishes that are stored but not acknowledged.
    """

    clock: FakeClock = field(default_factory=FakeClock)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    hangs: set[str] = field(default_factory=set)
    erased_ids: set[str] = field(default_factory=set)
    cut_at: int = 0
    reached: int = 0
    memory_end: int | None = 0
    ranking: list[str] | None = None
    late: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    vector_rseq: int | None = None
    lost_acks: int = 0
    last_error: str = ""
    forgot_seq: int = 0
    index_purging: int = 0
    forgets: set[int] = field(default_factory=set)
    purged: bool = False
    nodes_held: dict[str, list[Node]] = field(default_factory=dict)
    nodes_at_once: int = 10_000
    nodes_found: list[str] = field(default_factory=list)
    segments: dict[int, str] = field(default_factory=dict)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def add(
        self, tenant: str, id_: str, text: str, *, at_ms: int | None = None, session: str = "s1", **fields: Any
    ) -> None:
        self.reached += 1
        body = msgspec.json.encode(Event(text=text, id=id_, **fields))
        held = self.entries.setdefault(tenant, [])
        at = 1_700_000_000_000 + self.reached * 1000 if at_ms is None else at_ms
        held.append(
            Entry(len(held) + 1, self.reached, at, "event", tenant, "alice", session, id_, at, body),
        )

    async def _called(self, stage: str, verb: str, request: Any, timeout_s: float) -> None:
        self.calls.append((verb, request))
        if stage in self.down:
            raise RequestFailed("unavailable", f"stage {stage} is not running")
        if verb in self.hangs or f"{stage}.{verb}" in self.hangs:
            self.clock.now += timeout_s
            await asyncio.sleep(0)
            raise RequestFailed("timeout", f"stage {stage} did not answer")

    def _held(self, tenant: str) -> list[Entry]:
        return [e for e in self.entries.get(tenant, []) if e.id not in self.erased_ids]

    async def ask(self, stage: str, verb: str, tenant: str, request: Any, reply: Any, timeout_s: float) -> Any:
        """By the verb's method here, if the stage is up; what is asked must be of the asked tenant."""
        await self._called(stage, verb, request, timeout_s)
        assert getattr(request, "tenant", tenant) == tenant
        return getattr(self, verb)(stage, tenant, request)

    def cover(self, stage: str, tenant: str, request: CoverRequest) -> CoverReply:
        held = self.entries.get(tenant, [])
        head = self._head(tenant)
        if self.reached < request.after:
            self.clock.now += request.wait_ms / 1000
            return CoverReply(False, 0, head, self.reached)
        return CoverReply(True, max([e.rseq for e in held if e.seq <= request.after], default=0), head, self.reached)

    def fetch(self, stage: str, tenant: str, request: FetchRequest) -> FetchReply:
        held = self._held(tenant)
        items = []
        for id_ in request.ids:
            for at, entry in enumerate(held):
                if entry.id == id_:
                    before = held[max(0, at - request.before) : at]
                    after = held[at + 1 : at + 1 + request.after]
                    items.append(FetchedItem(encode(entry), [encode(e) for e in before], [encode(e) for e in after]))
            if self.cut_at and len(items) == self.cut_at and id_ != request.ids[-1]:
                return FetchReply(items, self.reached, cut=True)
        return FetchReply(items, self.reached)

    def nodes(self, stage: str, tenant: str, request: NodesRequest) -> NodesReply:
        years = sorted(id_ for id_ in self.nodes_held if id_.startswith("toc:year:"))
        found = []
        for id_ in request.ids or years:
            versions = [n for n in self.nodes_held.get(id_, []) if request.version in (0, n.version)]
            found += [msgspec.json.encode(versions[-1])] if versions and not versions[-1].gone else []
        return NodesReply(found[: self.nodes_at_once], self.reached, cut=len(found) > self.nodes_at_once)

    def timeline(self, stage: str, tenant: str, request: TimelineRequest) -> TimelineReply:
        order = [entry for entry in self._held(tenant) if _within(entry, request)]
        order = order[:: -1 if request.descending else 1]
        start = int(request.cursor or b"0")
        page = order[start : start + request.limit]
        end = start + len(page)
        return TimelineReply([encode(e) for e in page], str(end).encode() if end < len(order) else b"", self.reached)

    def sessions(self, stage: str, tenant: str, request: ActivityRequest) -> ActivityReply:
        held = self._held(tenant)
        items = [Activity("alice", "s1", len(held), held[0].ts, held[-1].ts)] if held else []
        return ActivityReply(items, b"more" if items and not request.cursor else b"", self.reached)

    def agents(self, stage: str, tenant: str, request: ActivityRequest) -> ActivityReply:
        held = self._held(tenant)
        return ActivityReply(
            [Activity("alice", "", len(held), held[0].ts, held[-1].ts, 1)] if held else [], b"", self.reached
        )

    def forgotten(self, stage: str, tenant: str, request: dict[str, Any]) -> ForgetState:
        known = request["seq"] in self.forgets
        return ForgetState(known, 2 if known else 0, known and self.purged)

    def find(self, stage: str, tenant: str, request: FindRequest) -> FindReply:
        ids = self.ranking if self.ranking is not None else [e.id for e in self.entries.get(tenant, [])]
        arms = ["text", "vector"] if request.mode == "hybrid" else [request.mode]
        rseqs = {e.id: e.rseq for e in self.entries.get(tenant, [])}
        hits = [Found(id_, 1 / (n + 1), arms, {"turn": 1.0}, rseqs.get(id_, 0)) for n, id_ in enumerate(ids)]
        told = [Found(id_, 1 / (n + 1.5), arms, {"words": 1.0}, 0, True) for n, id_ in enumerate(self.nodes_found)]
        found = {"events": hits, "nodes": told, "both": sorted([*hits, *told], key=lambda each: -each.score)}
        hits = found[request.target][: request.limit]
        head = self._head(tenant)
        return FindReply(hits, head, self._vector_head(head), self.late if request.rseq else [], self.missing, 0.1)

    def segments_of(self, stage: str, tenant: str, request: SegmentsRequest) -> SegmentsReply:
        return SegmentsReply([self.segments.get(rseq, "") for rseq in request.rseqs])

    def _head(self, tenant: str) -> Head:
        held = self.entries.get(tenant, [])
        return Head(held[-1].rseq, held[-1].seq) if held else Head()

    def _vector_head(self, head: Head) -> Head:
        return head if self.vector_rseq is None else Head(self.vector_rseq, self.vector_rseq)

    def applied(self, stage: str, tenant: str, request: AppliedRequest) -> AppliedReply:
        self.clock.now += request.wait_ms / 1000 if self.late else 0.0
        head = self._head(tenant)
        at = dict.fromkeys(flow.stage(stage).arms, head)
        if stage == "index":
            at["vector"] = self._vector_head(head)
        return AppliedReply(at, [arm for arm in self.late if arm in at])

    def encode(self, stage: str, tenant: str, request: EncodeRequest) -> EncodeReply:
        return EncodeReply("model", [b"\0" * 8])

    def status(self, stage: str, tenant: str, request: dict[str, Any]) -> StageStatus:
        assert request == {"tenant": tenant}
        held = self._held(tenant)
        counts: dict[str, Counts] = {
            "persist": {"record_seq": self.reached, "events": len(held), "sessions": 1, "agents": 1, "purging": 0,
                        "forgot_seq": self.forgot_seq},
            "index": {"pending_vectors": 3, "text_seq": 2, "vector_seq": 1, "purging": self.index_purging},
            "summarize": {"toc_seq": 4, "purging": 0},
            "learn": {"procedures_seq": 3, "tasks_seq": 2, "purging": 0},
        }  # fmt: skip
        return StageStatus(stage, f"{stage}-0", True, "ok", 0, self.last_error, counts.get(stage, {}))

    async def own_status(self) -> StageStatus:
        return StageStatus("query", "query-0", True, "ok", 0, "", {})

    async def dead_letters(self, tenant: str, timeout_s: float) -> int:
        await self._called("broker", "dead_letters", tenant, timeout_s)
        return 4

    async def last_seq(self, timeout_s: float) -> int:
        await self._called("broker", "last_seq", None, timeout_s)
        if self.memory_end is None:
            raise RequestFailed("unavailable", "the broker does not say")
        return max(self.memory_end, self.reached)

    async def publish(self, subject: str, body: bytes, timeout_s: float) -> int:
        await self._called("broker", "publish", (subject, body), timeout_s)
        self.published.append((subject, body))
        if len(self.published) <= self.lost_acks:
            self.clock.now += 0.5
            raise RequestFailed("unavailable", "no acknowledgement")
        self.reached += 1
        self.forgets.add(self.reached)
        tenant = subject.split(".")[1]
        self.erased_ids |= set(msgspec.json.decode(body, type=Forget).ids or [])
        held = self.entries.setdefault(tenant, [])
        held.append(Entry(len(held) + 1, self.reached, 0, "forgot", tenant, "_", "_", f"f{self.reached}", 0, b""))
        self.erased_ids.add(held[-1].id)
        return self.reached
