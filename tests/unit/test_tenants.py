"""Tenants in memory: loading beside writing, putting away, names; and how jobs for embed are chosen."""

import threading

import pytest

from harness.index_stage import Stage, event, forgot
from jetmem.adapters.embed_asker import choose
from jetmem.index.lacking import Lacking
from jetmem.index.rows import FAMILIES
from jetmem.index.tenants import Tenant
from jetmem.runtime import limits
from jetmem.runtime.models import QUIET_S, Models, Verdict
from jetmem.testing.encoder import FakeSplitter
from jetmem.testing.store import FakeStore


@pytest.fixture
def stage(tmp_path):
    held = Stage(FakeStore(FAMILIES), tmp_path, splitter=FakeSplitter(), shelves_max=2)
    yield held
    held.close()


def shelf_of(stage, tenant="acme"):
    return stage.tenants.shelf(stage.tenants.get(tenant))


def test_loading_one_tenant_keeps_nobody_waiting_and_misses_nothing(stage):
    stage.apply(*(event(n, f"word{n}") for n in range(1, 6)), event(1, "other", tenant="zoo"))
    stage.embed("acme")
    tenant = stage.tenants.get("acme")
    reading, go_on = threading.Event(), threading.Event()

    def slow(name):
        shelf = stage.tenants._load_shelf(name)
        reading.set()
        go_on.wait(30)
        return shelf

    loader = threading.Thread(target=tenant.opened, args=(slow,))
    loader.start()
    assert reading.wait(30)
    stage.embed("zoo")
    assert shelf_of(stage, "zoo").count == 1
    stage.apply(event(6, "word6"), forgot(7, [event(2, "")]))
    stage.embed("acme")
    go_on.set()
    loader.join()
    held = tenant.shelf
    assert sorted(held.columns["rseq"][: held.count][held.alive[: held.count]].tolist()) == [1, 3, 4, 5, 6]


def test_a_failed_load_is_tried_again(stage):
    tenant = Tenant("acme", stage.rows.tenant("acme"))

    def broken(_):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        tenant.opened(broken)
    assert tenant.opened(stage.tenants._load_shelf).count == 0


def test_the_longest_unasked_vectors_are_put_away(stage):
    names = [f"tenant{n}" for n in range(5)]
    for name in names:
        stage.apply(event(1, "harbour", tenant=name))
        stage.embed(name)
        shelf_of(stage, name)
    stage.apply(event(2, "again", tenant="tenant4"))
    assert [name for name, _ in stage.tenants.shelves()] == ["tenant3", "tenant4"]
    assert shelf_of(stage, "tenant0").count == 1


def test_numbers_of_rows_rise_over_a_reload(stage):
    stage.apply(*(event(n, f"word{n}") for n in range(1, 4)))
    stage.embed("acme")
    assert shelf_of(stage).live_numbers().tolist() == [0, 1, 2]
    stage.apply(forgot(4, [event(3, "")]))
    stage.tenants.get("acme").put_away()
    assert shelf_of(stage).live_numbers().tolist() == [0, 1]
    stage.apply(event(5, "word5"))
    stage.embed("acme")
    assert shelf_of(stage).live_numbers().tolist() == [0, 1, 3]


def test_a_name_goes_with_its_last_event(stage):
    stage.apply(event(1, "a word", author="Ann Bell"), event(2, "b word", author="Ben", session="s2"))
    tenant = stage.tenants.get("acme")
    assert tenant.named_in("Bell") == {0}
    stage.apply(forgot(3, [event(1, "")]))
    assert tenant.named_in("Bell") == set()
    assert set(tenant.authors) == {"Ben"}
    assert set(tenant.sessions) == {("alice", "s2")}
    stage.apply(event(4, "c word", author="Ann Bell"))
    assert tenant.named_in("Bell") == {2}, "a number is never given twice"


def test_jobs_go_on_where_the_last_one_ended(stage):
    count = limits.JOB_TEXTS + 10
    stage.apply(*(event(n, f"word{n}") for n in range(1, count + 1)), event(count + 1, "word1"))
    lacking = Lacking(stage.indexer)
    first = choose(lacking, "acme", b"", frozenset())
    second = choose(lacking, "acme", first.next, frozenset(text.key for text in first.texts))
    assert [text.text for text in [*first.texts, *second.texts]] == [f"word{n}" for n in range(1, count + 1)]
    assert len(first.texts) == limits.JOB_TEXTS
    out = frozenset(text.key for text in [*first.texts, *second.texts])
    assert choose(lacking, "acme", second.next, out).texts == choose(lacking, "acme", b"", out).texts == []


def test_answered_texts_are_not_read_again(stage):
    stage.apply(*(event(n, f"word{n}") for n in range(1, 10)))
    digests = [digest for _, _, digest in stage.rows.pending("acme", b"")]
    stage.store_vectors("acme", digests[:5])
    pieces = stage.indexer.pieces
    assert pieces.first_pending("acme").rseq == 6
    assert pieces.start("acme") > b""
    job = choose(Lacking(stage.indexer), "acme", b"", frozenset())
    assert [text.text for text in job.texts] == [f"word{n}" for n in range(6, 10)]
    stage.store_vectors("acme", digests[5:])
    assert pieces.first_pending("acme") is None
    stage.apply(event(10, "word10"), forgot(11, [event(10, "")]), event(12, "word12"))
    assert pieces.first_pending("acme").rseq == 12


def test_a_text_that_is_gone_or_split_otherwise_is_not_asked_for(stage):
    stage.apply(event(1, "word1"), event(2, "word2"))
    lacking = Lacking(stage.indexer)
    (place, key), (_, other) = lacking.lacking("acme", b"")
    assert lacking.text_at("acme", place, key) == "word1"
    assert lacking.text_at("acme", place, other) is None
    assert lacking.text_at("acme", place[:8] + b"\7", key) is None
    stage.apply(forgot(3, [event(1, "")]))
    assert lacking.text_at("acme", place, key) is None


class Clock:
    now = 0.0

    def now_ms(self):
        return 0

    def monotonic(self):
        return self.now


def test_two_models_at_once_do_not_take_turns():
    clock = Clock()
    models = Models(clock)
    assert models.judge("", "a") is Verdict.CHANGE
    for _ in range(10):
        clock.now += QUIET_S / 2
        assert models.judge("a", "b") is Verdict.REFUSE
        assert models.judge("a", "a") is Verdict.STORE
    clock.now += QUIET_S
    assert models.judge("a", "b") is Verdict.CHANGE
    assert models.judge("b", "a") is Verdict.REFUSE
