"""What is past its `expires_at` is forgotten: which events, when, in what order, and after whatever happened before."""

import asyncio
from types import SimpleNamespace

import msgspec
import nats.errors
import pytest
from faststream.nats import NatsBroker

from harness.messages import AT, said
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_streams import Stored
from jetmem.domain import keys
from jetmem.persist import copying, expire, expiring
from jetmem.persist.app import Persist
from jetmem.persist.copying import BEGINNING, drop_some, slice_of
from jetmem.persist.expire import Expire
from jetmem.persist.handler import Recorder
from jetmem.persist.record import FAMILIES, Record
from jetmem.persist.settings import PersistSettings
from jetmem.runtime import limits, metrics
from jetmem.runtime.errors import Retryable
from jetmem.runtime.settings import Common
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import Entry
from jetmem_schemas.subjects import PARTITIONS, partition_of

PART = partition_of("acme")
NOW_TEXT = "2025-10-09T08:53:20.5Z"
NOW = AT + 500


class Bench:
    """Expire over a recorder; MEMORY is a list, and what is published is read at once unless `reads` is off."""

    def __init__(self, monkeypatch, store=None):
        self.memory = []
        self.reads, self.acks = True, True
        self.published = []
        self.after_publish = lambda: None
        self.open(store or FakeStore(FAMILIES))
        monkeypatch.setattr(expire, "stream_info", self.info)
        monkeypatch.setattr(expire, "next_message", self.next_message)
        self.next_kept = None

    def open(self, store):
        self.store = store
        self.recorder = Recorder(Record(store), "all")
        if not self.recorder.synced.created:
            self.recorder.adopt("made")
        self.owned = set(range(PARTITIONS))
        js = SimpleNamespace(publish=self.publish)
        log = SimpleNamespace(info=lambda *_, **__: None)
        shell = SimpleNamespace(nc=SimpleNamespace(jetstream=lambda: js), log=log)
        self.expire = Expire(shell, 1, self.recorder, self.work, self.work, self.keeps, self.reached, "salt")
        self.read()

    def keeps(self, tenant):
        return partition_of(tenant) in self.owned

    async def work(self, body):
        return body()

    async def info(self, nc, stream):
        return {"ts": NOW_TEXT, "state": {"last_seq": len(self.memory)}}

    async def next_message(self, nc, stream, seq):
        return self.next_kept

    async def reached(self, seq, wait_s):
        if self.reads:
            self.read()
        return self.recorder.synced.seq >= seq

    async def publish(self, subject, body, timeout):
        _, tenant, kind, agent, session = subject.split(".")
        if self.acks != "refused":
            self.memory.append(said(len(self.memory) + 1, body, tenant=tenant, kind=kind, agent=agent, session=session))
            self.published.append((tenant, msgspec.json.decode(body)))
        self.after_publish()
        if self.acks is not True:
            raise nats.errors.TimeoutError
        return SimpleNamespace(seq=len(self.memory))

    def say(self, *bodies, tenant="acme"):
        for body in bodies:
            self.memory.append(said(len(self.memory) + 1, body, tenant=tenant))
        self.read()

    def read(self):
        self.recorder.apply([each for each in self.memory if each.seq > self.recorder.synced.seq])

    def once(self):
        return asyncio.run(self.expire.once())

    def ids(self, tenant="acme"):
        live = self.recorder.record.of_tenant(tenant)
        return [self.recorder.record.entry(partition_of(tenant), rseq).id for rseq, *_ in live]

    def rows(self):
        return [expiring.due_of(key)[1] for key, _ in self.store.scan("meta", expiring.EXPIRES)]


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def event(id_, expires_at=None, **more):
    return {"id": id_, "text": "words"} | ({} if expires_at is None else {"expires_at": expires_at}) | more


def test_what_is_past_its_time_is_forgotten_and_nothing_else(bench):
    before = metrics.expired._value.get()
    bench.say(event("never"), event("past", NOW - 1), event("now", NOW), event("later", NOW + 1))
    assert bench.rows() == ["past", "now", "later"]
    assert bench.once() == 2
    assert bench.ids() == ["never", "later"] and bench.rows() == ["later"]
    ((tenant, command),) = bench.published
    assert tenant == "acme" and command.pop("id").startswith("expired:")
    assert command == {"ids": ["past", "now"], "reason": "expired"}
    assert metrics.expired._value.get() - before == 2
    assert bench.once() == 0 and len(bench.published) == 1


def test_of_nothing_that_expires_the_broker_hears_nothing(bench, monkeypatch):
    monkeypatch.setattr(expire, "stream_info", None)
    bench.say(event("never"))
    assert bench.once() == 0


@pytest.mark.parametrize("at", [946_684_800_000, "2000-01-20T00:00:00Z", AT - 1])
def test_what_is_past_when_it_is_recorded_goes_with_the_next_round_and_stays_away(bench, at):
    """Before `ts`, too: nobody but the sender knows why; the id is kept, so that a late repeat changes nothing."""
    bench.say(event("old", at, ts=AT))
    assert bench.ids() == ["old"]
    assert bench.once() == 1
    bench.say(event("old", at, ts=AT))
    assert bench.ids() == [] and bench.rows() == []
    assert bench.once() == 0


def test_a_correction_and_what_it_corrects_go_each_at_its_own_time(bench):
    bench.say(event("wrong", NOW - 1), event("right", NOW + 1, supersedes="wrong"))
    bench.say(event("wrong2"), event("right2", NOW - 1, supersedes="wrong2"))
    bench.once()
    assert bench.ids() == ["right", "wrong2"]


def test_the_row_goes_with_the_event(bench):
    bench.say(event("one", NOW + 1), event("two", NOW + 2))
    bench.memory.append(said(3, {"ids": ["one"]}, kind="forget"))
    bench.read()
    assert bench.rows() == ["two"]


def test_many_are_at_most_so_many_a_command_and_tenants_take_turns(bench, monkeypatch):
    monkeypatch.setattr(limits, "FORGET_IDS_MAX", 3)
    bench.say(*(event(f"e{n}", NOW - 100 + n) for n in range(8)))
    bench.say(event("other", NOW), tenant="zoo")
    assert bench.once() == 9
    order = [(tenant, len(command["ids"])) for tenant, command in bench.published]
    first = sorted([("acme", 3), ("zoo", 1)], key=lambda each: partition_of(each[0]))
    assert order == [*first, ("acme", 3), ("acme", 2)]
    assert bench.ids() == [] and bench.ids("zoo") == []


def test_only_what_is_ours_is_forgotten(bench):
    bench.say(event("mine", NOW))
    bench.say(event("theirs", NOW), tenant="zoo")
    bench.owned = {PART}
    assert bench.once() == 1
    assert [tenant for tenant, _ in bench.published] == ["acme"] and bench.rows() == ["theirs"]


def test_of_a_partition_that_was_given_away_meanwhile_no_row_is_dropped(bench):
    """Its rows may be on their way to another store."""
    bench.say(event("one", NOW))
    (row,) = bench.store.scan("meta", expiring.EXPIRES)
    bench.memory.append(said(2, {"ids": ["one"]}, kind="forget"))
    bench.read()
    batch = bench.store.batch()
    batch.put("meta", *row)
    bench.store.write(batch, sync=True)
    due = bench.expire._due(expiring.EXPIRES, NOW)
    assert due.stale
    bench.owned = set()
    bench.expire._drop(due)
    assert bench.rows() == ["one"]
    bench.owned = {PART}
    bench.expire._drop(due)
    assert bench.rows() == []


def test_the_process_works_off_what_is_noted_of_a_partition_while_it_rides(bench, tmp_path):
    """Parked, it is copied as it is, and whoever has it then forgets and purges."""
    bench.say(event("gone"), event("one", NOW))
    bench.memory.append(said(3, {"ids": ["gone"]}, kind="forget"))
    bench.read()
    persist = Persist(Shell("persist", Common(data=str(tmp_path)), broker=NatsBroker()), PersistSettings(), bench.store)

    def noted():
        return persist.expire._due(expiring.EXPIRES, NOW) is not None, len(persist.purge._unpurged())

    persist.shares.own(dict.fromkeys(range(PARTITIONS), 0))
    assert noted() == (True, 1)
    persist.shares.park(PART)
    assert noted() == (False, 0)


def test_published_but_not_acknowledged_it_is_applied_once(bench):
    bench.say(event("one", NOW))
    bench.acks = False
    with pytest.raises(Retryable):
        bench.once()
    bench.acks = True
    assert bench.rows() == ["one"]
    assert bench.once() == 0, "it is read before anything is published"
    assert len(bench.published) == 1 and bench.ids() == []


def test_refused_it_is_published_again(bench):
    bench.say(event("one", NOW))
    bench.acks = "refused"
    with pytest.raises(Retryable):
        bench.once()
    bench.acks = True
    assert bench.once() == 1


def test_what_is_read_late_is_waited_for(bench):
    bench.say(event("one", NOW))
    bench.reads, bench.next_kept = False, Stored(2, "", {}, b"")
    bench.memory.append(said(2, event("two", NOW)))
    with pytest.raises(Retryable):
        bench.once()
    assert bench.published == []
    bench.next_kept = None  # erased, it will never be read
    with pytest.raises(Retryable):
        bench.once()
    assert len(bench.published) == 1, "of what is recorded, and then it waits to be read"


def test_the_same_command_has_the_same_id_and_another_store_another(bench):
    due = expire.Due("acme", ["one", "two"], [], b"", b"")
    others = [due._replace(tenant="zoo"), due._replace(ids=["one"]), due._replace(ids=["onetwo"])]
    told = [bench.expire._id(each) for each in [due, due, *others]]
    assert told[0] == told[1] and len(set(told)) == 4
    bench.expire._salt = b"another"
    assert bench.expire._id(due) not in told


def test_killed_after_any_message_it_is_forgotten_all_the_same(bench):
    """The store as a power failure leaves it: the row is there as long as the event is."""
    bench.say(event("one", NOW), event("two", NOW + 1))
    bench.after_publish = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.once()
    bench.after_publish = lambda: None
    bench.open(bench.store.after_power_failure())
    assert bench.once() == 0
    assert len(bench.published) == 1 and bench.ids() == ["two"] and bench.rows() == ["two"]


def older(store, *, from_rseq=0):
    """The store as a version leaves it that knows no rows: it notes none of its own, and takes none away."""
    batch = store.batch()
    for key, _ in store.scan("meta", expiring.LISTED):
        batch.delete("meta", key)
        if from_rseq:
            batch.put("meta", key, keys.u64(from_rseq))
    for key, _ in store.scan("meta", expiring.EXPIRES):
        if not from_rseq:
            batch.delete("meta", key)
    store.write(batch, sync=True)


def test_what_an_older_version_recorded_is_listed_in_turns(bench, monkeypatch):
    monkeypatch.setattr(expire, "_LOOK_ENTRIES", 2)
    bench.say(event("one", NOW + 1), event("two"), event("three", NOW), event("four", NOW + 2), event("five", NOW + 3))
    bench.memory.append(said(6, {"ids": ["four"]}, kind="forget"))
    bench.read()
    older(bench.store)
    assert bench.rows() == []
    bench.say(event("six", NOW + 4))
    assert bench.rows() == ["six"] and expiring.listed(bench.store, PART) == 0, "the list has a hole"
    assert bench.once() == 1
    assert bench.rows() == ["one", "five", "six"]
    assert expiring.listed(bench.store, PART) == bench.recorder.heads[PART].rseq == 8
    bench.say(event("seven", NOW + 5))
    assert expiring.listed(bench.store, PART) == 9, "from then on each write lists"


def test_long_ones_are_looked_through_in_slices(bench, monkeypatch):
    monkeypatch.setattr(expire, "_LOOK_BYTES", 1)
    bench.say(event("one", NOW + 1), event("two", NOW + 2))
    older(bench.store)
    assert [bench.expire._list_some() for _ in range(3)] == [True, True, False]
    assert bench.rows() == ["one", "two"]


def test_gone_back_to_an_older_version_and_returned_nothing_is_missed_and_nothing_asked_for_ever(bench):
    bench.say(event("one", NOW), event("two", NOW))
    kept = list(bench.store.scan("meta", expiring.row_key("acme", NOW, "one")))
    bench.memory.append(said(3, {"ids": ["one"]}, kind="forget"))
    bench.say(event("three", NOW))
    batch = bench.store.batch()
    batch.put("meta", *kept[0])  # the older one erased the event alone, …
    batch.delete("meta", expiring.row_key("acme", NOW, "three"))  # … recorded without a row, …
    batch.put("meta", expiring.LISTED + keys.partition(PART), keys.u64(2))  # … and noted nothing
    bench.store.write(batch, sync=True)
    assert bench.once() == 2
    assert sorted(bench.published[0][1]["ids"]) == ["three", "two"]
    assert bench.rows() == []


def test_rows_go_with_their_partition_and_are_dropped_with_it(bench):
    bench.say(event("mine", NOW))
    bench.say(event("theirs", NOW), tenant="zoo")
    rows, _ = slice_of(bench.store, PART, *BEGINNING)
    told = {key for source, key, _ in rows if copying.family_of(source) == "meta"}
    assert {expiring.row_key("acme", NOW, "mine"), expiring.LISTED + keys.partition(PART)} <= told
    end = BEGINNING
    while end is not None:
        end = drop_some(bench.store, PART, end)
    assert bench.rows() == ["theirs"] and expiring.listed(bench.store, PART) == 0


@pytest.mark.parametrize(
    "body", [b'{"text":"a"}', b'{"text":"a","expires_at":1e300}', b'{"expires_at":1767225600}', b"no"]
)
def test_what_cannot_be_read_as_a_time_expires_never(body):
    assert expiring.expires_at(Entry(1, 1, AT, "event", "acme", "a", "s", "x", AT, body)) is None


def test_an_escaped_name_is_the_name():
    body = b'{"text":"a","\\u0065xpires_at":1767225600005}'
    assert expiring.expires_at(Entry(1, 1, AT, "event", "acme", "a", "s", "x", AT, body)) == 1767225600005
    assert expiring.expires_at(Entry(1, 1, AT, "run", "acme", "a", "s", "x", AT, body)) is None


@pytest.mark.parametrize("tenant", ["acme", "a", "x" * 64])
def test_a_row_says_whose_it_is_when_and_which(tenant):
    key = expiring.row_key(tenant, -5, "a.b:c")
    prefix, name = expiring.tenant_of(key)
    assert (name, expiring.due_of(key)) == (tenant, (-5, "a.b:c"))
    assert key.startswith(prefix) and prefix.endswith(b"\0")


def test_in_partition_zero_too():
    tenant = next(name for name in (f"t{n}" for n in range(10_000)) if partition_of(name) == 0)
    assert expiring.tenant_of(expiring.row_key(tenant, 1, "x"))[1] == tenant
