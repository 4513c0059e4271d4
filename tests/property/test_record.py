"""The record against a model, as a state machine: messages, nodes, forgets, re-readings, restarts, power failures."""

from typing import NamedTuple

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.messages import AT, Said, said
from jetmem.persist import answers
from jetmem.persist.handler import Recorder
from jetmem.persist.record import FAMILIES, OutboxRow, Record
from jetmem.runtime import limits
from jetmem.testing.store import FakeStore
from jetmem_schemas import toc
from jetmem_schemas.internal import (
    ActivityRequest,
    FetchRequest,
    Forgotten,
    Head,
    NodesRequest,
    ScanRequest,
    TimelineRequest,
    decode_entry,
)
from jetmem_schemas.subjects import partition_of

TENANTS = ("acme", "zoo", "acme2")
AGENTS = ("alice", "bob")
SESSIONS = ("s1", "s2")
AUTHORS = ("", "Ann", "Ben")
IDS_MAX = limits.FORGET_IDS_MAX

tenants = st.sampled_from(TENANTS)
agents = st.sampled_from(AGENTS)
sessions = st.sampled_from(SESSIONS)
ids = st.sampled_from([f"id{n}" for n in range(6)])
times = st.integers(AT - 5, AT + 5)
NODE_IDS = ("toc:year:2025", "toc:year:2026", "toc:day:2026-01-15", "toc:segment:2026-01-15:A")
node_ids = st.sampled_from(NODE_IDS)
#: Back from the head: the newest entry, some before it, one that is not there yet.
behind = st.integers(-1, 8)
sources = st.lists(st.tuples(st.integers(0, 12), st.integers(-1, 5)), max_size=3)


class Made(NamedTuple):
    """One version of a node, as the model has it."""

    word: str
    sources: list[tuple[int, int]]
    gone: bool
    rseq: int
    data: bytes


class RecordMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.store = FakeStore(FAMILIES)
        self.recorder = Recorder(Record(self.store), "all")
        self.recorder.adopt("made")
        self.log: list[Said] = []
        self.live: dict[tuple[str, str], tuple] = {}  # (tenant, id) -> (agent, session, author, ts, word, rseq)
        self.rows: dict[tuple[str, str], tuple] = {}  # what every id ever said: (agent, session, body)
        self.forgotten: set[tuple[str, str]] = set()
        self.heads: dict[int, int] = {}
        self.nodes: dict[tuple[str, str], dict[int, Made]] = {}  # (tenant, id) -> version -> what was recorded
        self.last_forget: dict[str, int] = {}
        self.erased: list[str] = []
        self.dead: list[tuple[str, int, str, str]] = []  # tenant, seq, agent, session
        self.reached = 0

    @initialize(ids_max=st.sampled_from([2, 500]))
    def ids_in_one_write(self, ids_max):
        """With few, most forgets take several writes."""
        limits.FORGET_IDS_MAX = ids_max

    def teardown(self):
        limits.FORGET_IDS_MAX = IDS_MAX

    # what is said

    @rule(tenant=tenants, agent=agents, session=sessions, author=st.sampled_from(AUTHORS), id_=ids, ts=times)
    def say(self, tenant, agent, session, author, id_, ts):
        seq = len(self.log) + 1
        body = {"text": f"word{seq}q", "id": id_, "ts": ts, "author": author}
        self.send(said(seq, body, tenant=tenant, agent=agent, session=session))
        self.judge(tenant, agent, session, id_, author, ts, f"word{seq}q", seq, body)

    def judge(self, tenant, agent, session, id_, author, ts, word, seq, body):
        key = (tenant, id_)
        if key in self.forgotten:
            self.erased.append(word)
        elif key not in self.rows:
            part = partition_of(tenant)
            self.heads[part] = self.heads.get(part, 0) + 1
            self.live[key] = (agent, session, author, ts, word, self.heads[part])
            self.rows[key] = (agent, session, body)
        elif self.rows[key] != (agent, session, body):
            self.dead.append((tenant, seq, agent, session))

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), respell=st.booleans())
    def say_again(self, data, respell):
        (tenant, id_), (agent, session, body) = data.draw(st.sampled_from(sorted(self.rows.items(), key=repr)))
        body = dict(reversed(body.items())) if respell else body
        self.send(said(len(self.log) + 1, body, tenant=tenant, agent=agent, session=session))

    @rule(tenant=tenants, payload=st.sampled_from([b"no", b"{}", b'{"text":5}', b'{"text":"a","ts":1e300}']))
    def say_nonsense(self, tenant, payload):
        seq = len(self.log) + 1
        self.send(said(seq, payload, tenant=tenant))
        self.dead.append((tenant, seq, "alice", "s1"))

    # what is made of it

    @rule(tenant=tenants, id_=node_ids, back=behind, made_of=sources, gone=st.integers(0, 9))
    def make_node(self, tenant, id_, back, made_of, gone):
        head = self.heads.get(partition_of(tenant), 0)
        body = {"id": id_, "version": max(1, head - back), "level": id_.split(":")[1]}
        ranges = [(max(0, head - away), max(0, head - away + length)) for away, length in made_of]
        word = f"word{len(self.log) + 1}q"
        if gone == 0:
            body |= {"gone": True, "sources": ranges}
        else:
            body |= {"title": word, "start": AT, "sources": ranges}
        self.tell_node(tenant, body, msgspec.json.encode(body))

    @precondition(lambda self: any(self.nodes.values()))
    @rule(data=st.data(), respell=st.booleans())
    def make_node_again(self, data, respell):
        key, version = data.draw(st.sampled_from([(k, v) for k, held in sorted(self.nodes.items()) for v in held]))
        payload = self.nodes[key][version].data
        self.tell_node(key[0], msgspec.json.decode(payload), payload + b" " * respell)

    def tell_node(self, tenant, body, payload):
        self.send(said(len(self.log) + 1, payload, tenant=tenant, kind="derived", agent="_", session="node"))
        part, version, word = partition_of(tenant), body["version"], body.get("title", "")
        held = self.nodes.setdefault((tenant, body["id"]), {})
        late = version < self.last_forget.get(tenant, 0) or version <= max(held, default=0)
        if late or version > self.heads.get(part, 0):
            if version not in held or held[version].data.strip() != payload.strip():
                self.erased.append(word or "never said")
            return
        self.heads[part] = self.heads.get(part, 0) + 1
        ranges = [tuple(each) for each in body["sources"]]
        held[version] = Made(word, ranges, body.get("gone", False), self.heads[part], payload)

    # what is forgotten

    @rule(tenant=tenants, chosen=st.lists(ids, min_size=1, max_size=3))
    def forget_ids(self, tenant, chosen):
        self.forget(tenant, {"ids": chosen}, lambda id_, _: id_ in chosen)

    @rule(tenant=tenants, agent=agents, session=st.none() | sessions)
    def forget_agent(self, tenant, agent, session):
        body = {"agent": agent} | ({"session": session} if session else {})
        self.forget(tenant, body, lambda _, row: row[0] == agent and session in (None, row[1]))

    @rule(tenant=tenants, author=st.sampled_from(AUTHORS[1:]))
    def forget_author(self, tenant, author):
        self.forget(tenant, {"author": author}, lambda _, row: row[2] == author)

    @rule(tenant=tenants, before=times)
    def forget_before(self, tenant, before):
        self.forget(tenant, {"before": before}, lambda _, row: row[3] < before)

    @rule(tenant=tenants)
    def forget_all(self, tenant):
        self.forget(tenant, {"all": True}, lambda *_: True)

    def forget(self, tenant, body, covers):
        gone = {key: row for key, row in self.live.items() if key[0] == tenant and covers(key[1], row)}
        unmade = self.unmade(tenant, [row[5] for row in gone.values()], everything="all" in body)
        writes = max(1, -(-(len(gone) + len(unmade)) // limits.FORGET_IDS_MAX))
        self.send(said(len(self.log) + 1, body, tenant=tenant, kind="forget", agent="_", session="_"), writes)
        part = partition_of(tenant)
        self.last_forget[tenant] = self.heads[part] = self.heads.get(part, 0) + writes
        for key, version in unmade:
            self.erased.append(self.nodes[key].pop(version).word or "never said")
        for key, row in gone.items():
            self.erased.append(row[4])
            self.forgotten.add(key)
            del self.live[key]

    def unmade(self, tenant, rseqs, *, everything):
        versions = [(key, v, made) for key, held in self.nodes.items() for v, made in held.items() if key[0] == tenant]
        return [(k, v) for k, v, made in versions if everything or (not made.gone and toc.met(made.sources, rseqs))]

    # how it is read

    def send(self, message, writes=1):
        self.log.append(message)
        before = self.store.syncs, self.store.writes
        self.recorder.apply([message])
        assert (self.store.syncs, self.store.writes) == (before[0] + writes, before[1] + writes)

    @rule(back=st.integers(1, 20))
    def read_again(self, back):
        rows = self.dump()
        self.recorder.apply(self.log[-back:])
        assert self.dump() == rows

    @rule()
    def restart(self):
        self.recorder = Recorder(Record(self.store), "all")

    @rule()
    def power_failure(self):
        rows = self.dump()
        self.store = self.store.after_power_failure()
        self.recorder = Recorder(Record(self.store), "all")
        assert self.dump() == rows

    @rule(size=st.integers(1, 7))
    def from_the_beginning(self, size):
        """Whatever the batches were, the same log makes the same record."""
        other = Recorder(Record(FakeStore(FAMILIES)), "all")
        other.adopt("made")
        for start in range(0, len(self.log), size):
            other.apply(self.log[start : start + size])
        theirs = {f: dict(other.record.store.scan(f, b"")) for f in FAMILIES if f != "outbox"}
        assert theirs == {f: rows for f, rows in self.dump().items() if f != "outbox"}

    # what must hold

    def dump(self):
        return {family: dict(self.store.scan(family, b"")) for family in FAMILIES}

    @invariant()
    def numbers_have_no_gap(self):
        for part in {partition_of(t) for t in TENANTS}:
            head = self.recorder.heads.get(part, Head())
            assert head.rseq == self.heads.get(part, 0)
            reply = answers.scan(self.recorder.record, part, ScanRequest(0, 0), head, 0)
            entries = [decode_entry(e) for e in reply.entries]
            assert [e.rseq for e in entries] == list(range(1, head.rseq + 1))
            assert [e.seq for e in entries] == sorted(e.seq for e in entries)
            blanks = {e.rseq for e in entries if e.kind == "blank"}
            dropped = []
            for entry in entries:
                if entry.kind == "forgot":
                    told = msgspec.msgpack.decode(entry.body, type=Forgotten)
                    assert not {(entry.tenant, i) for i in told.ids} & self.live.keys()
                    assert len(told.rseqs) <= limits.FORGET_IDS_MAX
                    dropped += told.rseqs
            assert len(dropped) == len(blanks) and set(dropped) == blanks

    @invariant()
    def the_checkpoint_is_at_the_end(self):
        assert self.recorder.synced.seq == len(self.log) >= self.reached
        self.reached = self.recorder.synced.seq

    @invariant()
    def what_lives_is_read_and_nothing_else(self):
        for tenant in TENANTS:
            wanted = {i: row for (t, i), row in self.live.items() if t == tenant}
            request = FetchRequest(tenant, [f"id{n}" for n in range(6)])
            found = [decode_entry(i.entry) for i in answers.fetch(self.recorder.record, request, 0).items]
            assert {e.id: (e.agent, e.session, e.ts, e.rseq) for e in found} == {
                i: (row[0], row[1], row[3], row[5]) for i, row in wanted.items()
            }
            assert all(wanted[e.id][4].encode() in e.body for e in found)

    @invariant()
    def the_newest_version_is_the_node_and_older_ones_are_readable(self):
        record = self.recorder.record
        for tenant in TENANTS:
            held = {i: self.nodes.get((tenant, i), {}) for i in NODE_IDS}
            latest = {i: made[max(made)].data for i, made in held.items() if made and not made[max(made)].gone}
            assert answers.toc_nodes(record, NodesRequest(tenant, list(NODE_IDS)), 0).nodes == list(latest.values())
            years = [data for i, data in latest.items() if i.startswith("toc:year:")]
            assert answers.toc_nodes(record, NodesRequest(tenant), 0).nodes == years
            for version in {v for made in held.values() for v in made}:
                wanted = [made[version].data for made in held.values() if version in made and not made[version].gone]
                assert answers.toc_nodes(record, NodesRequest(tenant, list(NODE_IDS), version), 0).nodes == wanted

    @invariant()
    def every_row_of_a_node_is_of_one_that_is_recorded(self):
        rows = self.dump()
        kept = [made for held in self.nodes.values() for made in held.values()]
        assert len(rows["versions"]) == len(kept)
        assert len(rows["nodes"]) == sum(bool(held) for held in self.nodes.values())
        entries = {int.from_bytes(key[-8:]) for key in rows["sources"]}
        assert entries == {m.rseq for m in kept if not m.gone and any(a <= b for a, b in m.sources)}
        log = [decode_entry(value) for value in rows["log"].values()]
        assert sorted(e.body for e in log if e.kind == "derived") == sorted(m.data for m in kept)

    @invariant()
    def erased_words_are_nowhere(self):
        rows = self.dump()
        for word in self.erased:
            for family, held in rows.items():
                assert not any(word.encode() in value for value in held.values()), (family, word)

    @invariant()
    def pages_and_counters_equal_a_recount(self):
        record = self.recorder.record
        for tenant in TENANTS:
            rows = [(row[3], row[5], i, row[0], row[1]) for (t, i), row in self.live.items() if t == tenant]
            for descending in (False, True):
                wanted = [r[2] for r in sorted(rows, reverse=descending)]
                assert self.pages(TimelineRequest(tenant, 2, descending)) == wanted
            late = [r[2] for r in sorted(rows) if AT - 2 <= r[0] < AT + 3]
            assert self.pages(TimelineRequest(tenant, 1, False, since=AT - 2, until=AT + 3)) == late
            assert self.pages(TimelineRequest(tenant, 2, True, since=AT - 2, until=AT + 3)) == late[::-1]
            for agent in AGENTS:
                for session in SESSIONS:
                    wanted = [r[2] for r in sorted(rows) if r[3:] == (agent, session)]
                    assert self.pages(TimelineRequest(tenant, 2, False, agent=agent, session=session)) == wanted
            counted: dict[tuple, list[int]] = {}
            for ts, _, _, agent, session in rows:
                counted.setdefault((agent, session), []).append(ts)
            found = self.activity(record, tenant, agents=False)
            assert {(a.agent, a.session): (a.events, a.first, a.last) for a in found} == {
                k: (len(v), min(v), max(v)) for k, v in counted.items()
            }
            assert [a.last for a in found] == sorted((a.last for a in found), reverse=True)
            found = self.activity(record, tenant, agents=True)
            assert {a.agent: (a.events, a.first, a.last, a.sessions) for a in found} == {
                agent: (
                    sum(len(v) for (a, _), v in counted.items() if a == agent),
                    min(min(v) for (a, _), v in counted.items() if a == agent),
                    max(max(v) for (a, _), v in counted.items() if a == agent),
                    sum(a == agent for a, _ in counted),
                )
                for agent in {a for a, _ in counted}
            }

    def pages(self, request):
        found = []
        while True:
            reply = answers.timeline(self.recorder.record, request, 0)
            assert len(reply.entries) <= request.limit
            found += [decode_entry(e).id for e in reply.entries]
            if not reply.cursor:
                return found
            request = msgspec.structs.replace(request, cursor=reply.cursor)

    def activity(self, record, tenant, *, agents):
        found, request = [], ActivityRequest(tenant, 1)
        while True:
            reply = answers.activity(record, request, 0, agents=agents)
            found += reply.items
            if not reply.cursor:
                return found
            request = msgspec.structs.replace(request, cursor=reply.cursor)

    @invariant()
    def no_recount_is_left_undone(self):
        assert not [key for key in self.dump()["meta"] if key.startswith(b"loose:")]

    @invariant()
    def every_refusal_waits_in_the_outbox_or_was_forgotten(self):
        rows = [msgspec.msgpack.decode(v, type=OutboxRow) for v in self.dump()["outbox"].values()]
        seqs = [row.seq for row in rows]
        assert len(seqs) == len(set(seqs))
        assert set(seqs) <= {d[1] for d in self.dead}
        purged = {int.from_bytes(k[:8]) for k in self.dump()["purge"]}
        assert {d[1] for d in self.dead} <= set(seqs) | purged


TestRecord = RecordMachine.TestCase
TestRecord.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)
