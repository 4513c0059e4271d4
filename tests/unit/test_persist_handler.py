"""What one batch does to the store, and in which order."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from harness.fake_stages import FakeClock
from harness.messages import AT, said
from harness.stores import Counting
from jetmem.adapters.nats_reader import Delivered
from jetmem.persist import answers
from jetmem.persist.app import Persist
from jetmem.persist.handler import Recorder
from jetmem.persist.record import FAMILIES, LastForget, OutboxRow, Record, copy_key
from jetmem.runtime import limits
from jetmem.runtime.health import Health
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import ActivityRequest, Forgotten, Head, ScanRequest, decode_entry
from jetmem_schemas.subjects import partition_of

PART = partition_of("acme")


class Watched(FakeStore):
    """Calls `before_sync` when what was written is visible and not yet durable."""

    def __init__(self, families):
        super().__init__(families)
        self.before_sync = lambda: None

    def sync(self):
        self.before_sync()
        super().sync()


def recorder_on(store):
    made = Recorder(Record(store), "all")
    if not made.synced.created:
        made.adopt("made")
    return made


def outbox(store):
    return [msgspec.msgpack.decode(v, type=OutboxRow) for _, v in store.scan("outbox", b"")]


def test_one_batch_is_one_synced_write_whatever_is_in_it():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    before = store.writes, store.syncs
    batch = [said(n, {"text": "x", "id": f"e{n % 90}"}) for n in range(1, 100)] + [said(100, b"no")]
    applied = recorder.apply(batch)
    assert (store.writes, store.syncs) == (before[0] + 1, before[1] + 1)
    assert applied.recorded == 90 and applied.outbox
    assert len(outbox(store)) == 1


def test_nothing_is_shown_before_it_is_synced():
    store = Watched(FAMILIES)
    recorder = recorder_on(store)
    seen = []

    def look():
        head = recorder.heads.get(PART, Head())
        shown = answers.scan(recorder.record, PART, ScanRequest(0, 0), head, recorder.synced.seq)
        seen.append((recorder.synced.seq, len(shown.entries), len(list(store.scan("log", b"")))))

    store.before_sync = look
    recorder.apply([said(n, {"text": "x"}) for n in (1, 2, 3)])
    recorder.apply([said(4, {"text": "x"})])
    assert seen == [(0, 0, 3), (3, 3, 4)]
    assert recorder.synced.seq == 4 and recorder.heads[PART] == Head(4, 4)


def test_a_forget_cut_between_its_entries_is_finished_on_the_next_reading():
    class PowerFails(Exception):
        pass

    store = Watched(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(n, {"text": f"w{n}"}) for n in range(1, 1202)])
    forget = said(1202, {"all": True, "id": "f"}, kind="forget", agent="_", session="_")
    left = [1, 0]

    def fail():
        left[0] -= 1
        if left[0] < 0:
            raise PowerFails

    store.before_sync = fail
    with pytest.raises(PowerFails):
        recorder.apply([forget])
    after = store.after_power_failure()
    again = recorder_on(after)
    assert again.synced.seq == 1201
    assert len(list(after.scan("time", b""))) == 701
    again.apply([forget])
    assert again.synced.seq == 1202
    assert list(after.scan("time", b"")) == []
    told = [decode_entry(v) for _, v in after.scan("log", b"") if decode_entry(v).kind == "forgot"]
    bodies = [msgspec.msgpack.decode(e.body, type=Forgotten) for e in told]
    assert [(len(b.ids), b.last) for b in bodies] == [(500, False), (500, False), (201, True)]
    assert again.apply([forget]).recorded == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "y\r\nInjected: 1"},
        {"Bad Name": "y", "X": "ok"},
        {"X": "ä\x00\x7f"},
        {f"X-{n}": "z" * 1000 for n in range(100)},
        {"X": "z" * 100_000},
        {"Jetmem-Id": "mine", "Nats-Msg-Id": "mine"},
    ],
)
def test_headers_of_a_dead_letter_are_taken_by_any_server(headers):
    store = FakeStore(FAMILIES)
    recorder_on(store).apply([said(1, b"no", headers=headers)])
    (row,) = outbox(store)
    assert sum(len(k) + len(v) + 4 for k, v in row.headers.items()) < 60_000
    for name, value in row.headers.items():
        assert name.isascii() and name.isprintable() and " " not in name and ":" not in name
        assert value.isascii() and (value.isprintable() or not value)
    assert row.headers["Jetmem-Code"] == "bad_json" and row.headers["Jetmem-Id"] == ""
    assert row.headers["Nats-Msg-Id"].startswith("dead-1-")


def test_a_forget_reaches_the_outbox_and_the_refused_copies():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(1, b'{"id":"x","text":5}'), said(2, b'{"id":"y","text":5}')])
    recorder.apply([said(3, {"ids": ["x"]}, kind="forget", agent="_", session="_")])
    assert [row.seq for row in outbox(store)] == [2]
    assert [key for key, _ in store.scan("purge", b"")] == [copy_key(1, AT)]


def test_an_unread_field_that_cannot_be_decoded_stops_nothing():
    recorder = recorder_on(FakeStore(FAMILIES))
    one, two = b'{"id":"x","text":"a","y":1e999}', b'{"id":"x", "text":"a","y":1e999}'
    assert recorder.apply([said(1, one), said(2, one), said(3, two)]).recorded == 1
    assert [row.headers["Jetmem-Code"] for row in outbox(recorder.record.store)] == ["conflict"]


def test_numbers_go_on_over_a_stream_that_was_lost_and_taken_as_lost():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(n, {"text": "x", "id": f"e{n}"}) for n in range(1, 11)])
    recorder.adopt("made again")
    assert recorder.synced.seq == 0
    recorder.apply([said(1, {"text": "x", "id": "e5"}), said(2, {"text": "x", "id": "new"})])
    assert recorder.heads[PART].rseq == 11
    assert recorder.record.covering(PART, 2) == 11
    assert recorder.record.covering(PART, 1) == 10


def forget(seq, at=AT, **selector):
    return said(seq, {"id": f"f{seq}-{at}", **selector}, kind="forget", agent="_", session="_", at=at)


def rows_of(store, family):
    return [key for key, _ in store.scan(family, b"")]


def test_copies_in_a_lost_stream_are_no_copies_in_the_next_one():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(n, {"text": "x", "id": "same"}) for n in (1, 2, 3)])
    recorder.apply([said(4, {"text": "x", "id": "b"}), forget(5, ids=["b"])])
    assert rows_of(store, "purge") == [copy_key(4, AT)]
    recorder.adopt("made again")
    assert rows_of(store, "purge") == rows_of(store, "repeats") == []
    recorder.apply([said(1, {"text": "x", "id": "same"}, at=AT + 9), forget(2, at=AT + 9, ids=["same"])])
    # the entry's own copy went with its stream; under its sequence is another message now, of another time
    assert rows_of(store, "purge") == [copy_key(1, AT), copy_key(1, AT + 9)]


def test_copies_in_a_stream_that_was_only_cut_are_still_to_be_erased():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(n, {"text": "x", "id": "same"}) for n in (1, 2)])
    recorder.apply([said(3, {"text": "x", "id": "b"}), forget(4, ids=["b"])])
    recorder.adopt("made")
    assert rows_of(store, "purge") == [copy_key(3, AT)] and len(rows_of(store, "repeats")) == 1


def test_forgets_of_two_streams_under_one_sequence_are_two():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(n, {"text": "x", "id": f"e{n}"}) for n in (1, 2)])
    recorder.apply([forget(3, all=True)])
    recorder.adopt("made again")
    assert recorder.record.forget("acme", recorder.synced.epoch, 3).erased == 2
    recorder.apply([said(1, b"no"), said(2, {"text": "x", "id": "new"}), forget(3, at=AT + 9, all=True)])
    assert [(row.epoch, row.erased) for row in (recorder.record.forget("acme", epoch, 3) for epoch in (0, 1))] == [
        (0, 2),
        (1, 1),
    ]
    assert recorder.record.last_forget("acme") == LastForget(1, 3, 5)
    assert recorder.record.last_forget("zoo") is None
    assert len(rows_of(store, "unpurged")) == 2


def test_a_letter_says_of_which_stream_it_is():
    store = FakeStore(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply([said(1, b"no")])
    recorder.adopt("made again")
    recorder.apply([said(1, b"no")])
    assert [row.headers["Jetmem-Epoch"] for row in outbox(store)] == ["0", "1"]


def agents_of(recorder):
    found = answers.activity(recorder.record, ActivityRequest("acme", 100), 0, agents=True).items
    return {a.agent: (a.events, a.first, a.last, a.sessions) for a in found}


def recounted(store):
    """Counters of agents, from nothing but what is in their sessions."""
    events = [decode_entry(v) for _, v in store.scan("log", b"")]
    found = {}
    for agent in {e.agent for e in events if e.kind == "event"}:
        mine = [e for e in events if e.kind == "event" and e.agent == agent]
        times = [e.ts for e in mine]
        found[agent] = (len(mine), min(times), max(times), len({e.session for e in mine}))
    return found


@pytest.mark.parametrize("selector", [{"author": "Ann"}, {"before": AT + 9}, {"agent": "a1"}, {"all": True}])
@pytest.mark.parametrize("fails_at", range(1, 8))
def test_counters_are_right_though_a_forget_was_cut_between_its_entries(monkeypatch, selector, fails_at):
    class PowerFails(Exception):
        pass

    monkeypatch.setattr(limits, "FORGET_IDS_MAX", 3)
    store = Watched(FAMILIES)
    recorder = recorder_on(store)
    recorder.apply(
        said(
            n,
            {"text": "x", "ts": AT + n * 7 % 19, "author": "Ann" if n % 3 else "Ben"},
            agent=f"a{n % 2}",
            session=f"s{n % 5}",
        )
        for n in range(1, 31)
    )
    left = [fails_at]

    def fail():
        left[0] -= 1
        if left[0] == 0:
            raise PowerFails

    store.before_sync = fail
    try:
        recorder.apply([forget(31, **selector)])
    except PowerFails:
        store = store.after_power_failure()
        recorder = recorder_on(store)
        recorder.apply([forget(31, **selector)])
    assert recorder.synced.seq == 31
    assert agents_of(recorder) == recounted(store)


@pytest.mark.parametrize(
    ("selector", "per_session"),
    [({"all": True}, 2), ({"author": "b0"}, 2), ({"agent": "alice"}, 2), ({"before": AT + 350}, 1000)],
)
def test_what_a_forget_reads_grows_with_what_it_erases(monkeypatch, selector, per_session):
    """It blocks everybody's recording: with the square, one tenant of many sessions would do so for minutes."""
    monkeypatch.setattr(limits, "FORGET_IDS_MAX", 10)

    def read(events):
        store = Counting(FAMILIES)
        recorder = recorder_on(store)
        sessions = -(-events // per_session)
        recorder.apply(
            said(n + 1, {"text": "x", "ts": AT + n, "author": f"b{n // sessions}"}, session=f"s{n % sessions}")
            for n in range(events)
        )
        store.passed = 0
        recorder.apply([forget(events + 1, **selector)])
        passed = store.passed
        return passed / (events - len(rows_of(store, "time")))

    assert read(400) < 1.3 * read(200)


def test_a_large_forget_reports_progress_with_every_write():
    """Or a supervisor would take persist for one that hangs, and restart it in the middle, again and again."""
    recorder = recorder_on(FakeStore(FAMILIES))
    recorder.apply([said(n, {"text": f"w{n}"}) for n in range(1, 1202)])
    clock = FakeClock()
    health = Health("persist", clock)
    health.ready = True
    told = []

    async def in_writer(work):
        clock.now += limits.PROGRESS_DEADLINE_S * 0.9  # each write is slow, all of them are slower than the deadline
        done = work()
        told.append(health.verdict()[0])
        return done

    async def announce(_, traces):
        """Nobody listens."""

    persist = Persist.__new__(Persist)
    persist.shell = SimpleNamespace(health=health, clock=clock)
    persist.recorder, persist._moved, persist.outbox = recorder, asyncio.Event(), SimpleNamespace(wake=lambda: None)
    persist.in_writer, persist._announce = in_writer, announce
    forget = said(1202, {"all": True, "id": "f"}, kind="forget", agent="_", session="_")
    asyncio.run(persist._apply([Delivered(forget.subject, forget.data, b"", forget.seq, forget.at, 0)]))
    assert len(told) == 4 and all(told)
