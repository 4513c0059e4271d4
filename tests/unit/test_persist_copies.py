"""What of a killed broker's work is trusted: messages that are gone, and those of which nobody knows."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import msgspec
import pytest

from harness.messages import AT, said
from jetmem.adapters.nats_streams import Stored
from jetmem.persist import copies, purge
from jetmem.persist.copies import Copies
from jetmem.persist.handler import Recorder
from jetmem.persist.purge import Purge
from jetmem.persist.record import (
    FAMILIES,
    TRIMMED,
    TRIMMING,
    Due,
    Record,
    Trimming,
    copy_key,
    due,
    due_row,
    letter_key,
)
from jetmem.persist.settings import PersistSettings
from jetmem.runtime.errors import Retryable
from jetmem.testing.store import FakeStore
from jetmem_schemas import subjects

AT_TEXT = "2025-10-09T08:53:20Z"
encode = msgspec.msgpack.encode


class Compacted(FakeStore):
    compactions = 0

    def compact(self):
        self.compactions += 1
        self.meanwhile()

    def meanwhile(self):
        """What happens while files are rewritten."""


class Broker:
    """MEMORY and DEAD as far as erasing goes; `dies` ends it after so many more tombstones, before their bytes."""

    def __init__(self, monkeypatch):
        self.server = "first"
        self.there = {subjects.MEMORY: set(range(1, 10)), subjects.DEAD: {1, 2}}
        self.first = 1
        self.created = "made"
        self.dies = False
        self.asked = []
        self.purged = []
        self.before = lambda: None
        self.on_look = lambda: None
        for module in (copies, purge):
            monkeypatch.setattr(module, "next_message", self.next_message)
            monkeypatch.setattr(module, "ensure", self.info)
        monkeypatch.setattr(copies, "server_id", lambda nc: self.server)
        monkeypatch.setattr(copies, "stream_info", self.info)
        monkeypatch.setattr(copies, "overwrite", self.overwrite)
        monkeypatch.setattr(copies, "api", self.api)

    async def info(self, nc, stream, common=None):
        seqs = self.there[stream]
        return {"created": self.created, "state": {"first_seq": self.first, "last_seq": 9, "messages": len(seqs)}}

    async def next_message(self, nc, stream, seq, subject=">"):
        self.on_look()
        later = [each for each in self.there[stream] if each >= seq]
        headers = {"Jetmem-Seq": "7", "Jetmem-Time": str(AT), "Jetmem-Subject": "mem.acme.event.alice.s1"}
        return Stored(min(later), AT_TEXT, headers, b"") if later else None

    async def overwrite(self, nc, stream, seq):
        self.before()
        self.asked.append((stream, seq))
        was = seq in self.there[stream]
        self.there[stream].discard(seq)
        if self.dies:
            raise Retryable("the broker went away")
        return was

    async def api(self, nc, subject, body):
        self.purged.append((subject, body))


class Bench:
    def __init__(self, monkeypatch):
        self.broker = Broker(monkeypatch)
        self.store = Compacted(FAMILIES)
        self.recorder = Recorder(Record(self.store), "all")
        self.recorder.adopt("made")
        self.warned = []
        log = SimpleNamespace(warning=lambda text, **fields: self.warned.append(fields))
        self.shell = SimpleNamespace(nc=None, common=None, log=log)
        self.outbox = SimpleNamespace(settled=self._settled, silent=self._silent)
        self.given, self.shared = set(), set()
        self.on_settled = lambda: None
        self.start()

    def start(self):
        args = (self._run, self._run)
        self.copies = Copies(self.shell, self.recorder, *args, self.outbox.silent)
        self.purge = Purge(
            self.shell,
            PersistSettings(),
            self.recorder,
            *args,
            self.outbox,
            lambda tenant: tenant not in self.given,
            lambda tenant: tenant in self.shared,
        )

    async def _run(self, work):
        return work()

    async def _settled(self):
        self.on_settled()

    @asynccontextmanager
    async def _silent(self):
        yield

    def put(self, key, value, family="purge"):
        batch = self.store.batch()
        batch.put(family, key, value)
        self.store.write(batch, sync=True)

    def erase(self):
        return asyncio.run(self.copies.erase())

    def killed_between(self, *keys):
        """The broker notes that they are gone, and is killed before it overwrites them."""
        for key in keys:
            if self.store.get("purge", key) is None:
                self.put(key, due("acme"))
        self.broker.dies = True
        with pytest.raises(Retryable):
            self.erase()
        self.broker.dies, self.broker.server = False, "second"

    def rows(self):
        return {key: due_row(raw) for key, raw in self.store.scan("purge", b"")}


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


KEY = copy_key(3, AT)


def test_what_is_acknowledged_is_done_and_was_noted_before_it_was_asked_for(bench):
    bench.put(KEY, due("acme"))
    seen = []
    bench.broker.before = lambda: seen.append(due_row(bench.store.after_power_failure().get("purge", KEY)))
    assert bench.erase() == set()
    assert seen == [Due("acme", "first")]
    assert bench.broker.asked == [(subjects.MEMORY, 3)] and bench.rows() == {}


def test_what_is_gone_though_nobody_asked_is_done(bench):
    bench.put(copy_key(20, AT), due("acme"))
    bench.put(copy_key(4, AT + 1), due("acme"))  # another message has that sequence
    assert bench.erase() == set() and bench.rows() == {} and bench.broker.asked == []


def test_what_is_gone_in_the_process_that_was_asked_is_done(bench):
    bench.killed_between(KEY)
    bench.broker.server = "first"  # only the answer was lost
    assert bench.erase() == set() and bench.rows() == {}


def test_what_is_gone_in_another_process_than_was_asked_is_held_until_its_file_goes(bench):
    bench.killed_between(KEY)
    assert bench.erase() == {"acme"}
    assert bench.rows() == {KEY: Due("acme", "first", held=True)}
    assert [(w["tenant"], w["seq"]) for w in bench.warned] == [("acme", 3)]
    bench.broker.first = 9  # trimmed, but in a file that what is kept is in too
    writes = bench.store.writes
    assert bench.erase() == {"acme"} == bench.erase()
    assert bench.store.writes == writes and len(bench.warned) == 1 == len(bench.broker.asked)
    bench.put(TRIMMED, (3).to_bytes(8), "meta")
    assert bench.erase() == {"acme"}
    bench.put(TRIMMED, (4).to_bytes(8), "meta")
    assert bench.erase() == set() and bench.rows() == {}


def test_what_the_next_process_still_has_is_erased_by_it(bench):
    bench.killed_between(KEY)
    bench.broker.there[subjects.MEMORY].add(3)
    assert bench.erase() == set() and bench.rows() == {}


def test_rows_of_older_stores_hold_nobody(bench):
    old, oldest = copy_key(3, AT), (4).to_bytes(8)
    bench.put(old, b"")
    bench.put(oldest, b"")
    assert bench.erase() == set() and bench.rows() == {}
    bench.put(copy_key(5, AT), b"")
    bench.killed_between(copy_key(5, AT))
    assert bench.erase() == set()


def test_a_broker_started_again_while_it_is_asked_what_is_gone_is_asked_again(bench):
    bench.put(copy_key(20, AT), due("acme"))
    bench.broker.on_look = lambda: setattr(bench.broker, "server", "second")
    with pytest.raises(Retryable):
        bench.erase()
    assert len(bench.rows()) == 1
    assert bench.erase() == set() and bench.rows() == {}


def test_what_went_in_a_trim_that_a_kill_ended_is_held(bench):
    bench.broker.there[subjects.MEMORY] -= {3, 6}
    bench.put(TRIMMING, encode(Trimming("zeroth", 5)), "meta")
    bench.put(copy_key(3, AT), due("acme"))
    bench.put(copy_key(6, AT), due("zoo"))
    assert bench.erase() == {"acme"}


def test_letters_are_held_until_dead_is_empty(bench):
    letter = letter_key(1)
    bench.put(letter, encode(Due("acme", stream="made")))
    bench.killed_between(letter)
    assert bench.erase() == {"acme"} and bench.broker.purged == []
    bench.broker.there[subjects.DEAD].clear()
    assert bench.erase() == set() and bench.rows() == {}
    assert bench.broker.purged == [("$JS.API.STREAM.PURGE.DEAD", {"seq": 10})]


def test_letters_went_with_a_dead_that_was_made_anew(bench):
    bench.put(letter_key(1), encode(Due("acme", "zeroth", stream="made before")))
    bench.put(letter_key(2), encode(Due("acme", "zeroth", held=True, stream="made before")))
    assert bench.erase() == set() and bench.rows() == {} and bench.broker.asked == []


def test_a_memory_made_anew_leaves_letters_and_nothing_else(bench):
    for key in (KEY, letter_key(1)):
        bench.put(key, due("acme"))
    bench.put(TRIMMED, (4).to_bytes(8), "meta")
    bench.put(TRIMMING, encode(Trimming("zeroth", 5)), "meta")
    bench.recorder.adopt("made again")
    assert list(bench.rows()) == [letter_key(1)]
    assert (bench.recorder.record.trimmed(), bench.recorder.record.trimming()) == (0, Trimming())


def apply_forgets(bench):
    """MEMORY 3 of acme and 4 of zoo, forgotten."""
    at_three = [said(3, {"text": "x", "id": "a"}), said(4, {"text": "x", "id": "b"}, tenant="zoo")]
    forgets = [
        said(5, {"ids": ["a"]}, kind="forget", agent="_", session="_"),
        said(6, {"ids": ["b"]}, kind="forget", agent="_", session="_", tenant="zoo"),
    ]
    bench.recorder.apply(at_three + forgets)


def once(bench):
    return asyncio.run(bench.purge.once())


def test_only_forgets_of_the_tenant_wait_and_the_files_are_rewritten_once(bench):
    bench.broker.there[subjects.DEAD].clear()
    bench.killed_between(KEY)
    apply_forgets(bench)
    bench.put(KEY, encode(Due("acme", "first")))  # as it was: asked for, after the forget
    assert once(bench) == 1
    assert bench.purge.counts("acme")["purging"] == 1 and bench.purge.counts("zoo")["purging"] == 0
    writes = bench.store.writes
    assert once(bench) == 0 == once(bench)
    assert (bench.store.compactions, bench.store.writes) == (1, writes)
    bench.start()  # a new process: it cannot know that the files were rewritten
    assert once(bench) == 0 and bench.store.compactions == 2
    bench.put(TRIMMED, (9).to_bytes(8), "meta")
    assert once(bench) == 1 and bench.purge.counts("acme")["purging"] == 0
    assert bench.store.compactions == 2


def test_letters_are_noted_before_any_is_erased(bench):
    bench.broker.there[subjects.DEAD] = {1, 2}
    apply_all = said(8, {"all": True}, kind="forget", agent="_", session="_")
    bench.recorder.apply([apply_all])
    bench.broker.dies = True
    with pytest.raises(Retryable):
        once(bench)
    assert {letter_key(1), letter_key(2), copy_key(7, AT)} == set(bench.rows())
    bench.broker.dies, bench.broker.server = False, "second"
    assert once(bench) == 0
    assert bench.rows() and all(row.held for row in bench.rows().values())


def test_a_letter_that_is_still_on_its_way_is_waited_for_and_erased_too(bench):
    bench.broker.there[subjects.DEAD].clear()
    bench.on_settled = lambda: bench.broker.there[subjects.DEAD].add(1)
    bench.recorder.apply([said(8, {"all": True}, kind="forget", agent="_", session="_")])
    assert once(bench) == 1
    assert sorted(bench.broker.asked) == [(subjects.DEAD, 1), (subjects.MEMORY, 7)]


def test_what_was_refused_after_a_forget_is_not_covered_by_it(bench):
    bench.recorder.apply([said(6, {"all": True}, kind="forget", agent="_", session="_")])
    assert once(bench) == 1
    assert bench.broker.asked == [] and bench.broker.there[subjects.DEAD] == {1, 2}


def test_that_a_copy_was_asked_for_is_not_forgotten_when_its_letter_is_noted(bench):
    copy = copy_key(7, AT)
    bench.killed_between(copy)
    assert bench.erase() == {"acme"}
    bench.recorder.apply([said(8, {"all": True}, kind="forget", agent="_", session="_")])
    assert once(bench) == 0
    assert bench.rows()[copy].held and bench.purge.counts("acme")["purging"] == 1


def test_what_another_store_may_still_hold_is_not_purged_and_files_are_rewritten_once(bench):
    bench.broker.there[subjects.DEAD].clear()
    bench.shared = {"acme"}
    apply_forgets(bench)
    assert once(bench) == 1 and once(bench) == 0
    assert (bench.purge.counts("acme")["purging"], bench.purge.counts("zoo")["purging"]) == (1, 0)
    assert bench.store.compactions == 1
    bench.shared.clear()
    assert once(bench) == 1 and bench.purge.counts("acme")["purging"] == 0


@pytest.mark.parametrize("which", ["given", "shared"])
def test_of_a_partition_that_moves_while_files_are_rewritten_nothing_is_called_purged(bench, which):
    bench.broker.there[subjects.DEAD].clear()
    apply_forgets(bench)
    bench.store.meanwhile = lambda: getattr(bench, which).add("acme")
    once(bench)
    assert (bench.purge.counts("acme")["purging"], bench.purge.counts("zoo")["purging"]) == (1, 0)
