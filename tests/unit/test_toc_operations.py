"""Zones, pauses, schedules and nodes made again, over a record and a store in memory."""

from datetime import date

import msgspec
import pytest

from harness.toc_record import PART, TENANT, Killed, Record, Stage
from jetmem.adapters.tantivy_text import analyze
from jetmem.summarize.handler import Summarizer
from jetmem.summarize.rehearsal import Rehearsal
from jetmem_schemas import tenants
from jetmem_schemas.tenants import EVERYONE

DAY_1 = 1_767_607_200_000  # Monday 2026-01-05, 10:00 in UTC
HOUR = 3_600_000
DAY = 24 * HOUR


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def stage(record):
    return Stage(record, jitter=0.0)


def work(stage):
    """Read, make and publish what is due now."""
    for _ in range(20):
        while stage.read():
            continue
        stage.make()
        if not stage.publish() and not stage.read():
            return


def days(record):
    return sorted(name.removeprefix("toc:day:") for name in record.nodes() if name.startswith("toc:day:"))


def said(record, days_apart=3):
    for n in range(4):
        record.say(f"Rain number {n} over the harbour.", DAY_1 + 10 * HOUR + n * days_apart * DAY)


def rehearsed(stage, first=None):
    it = stage.it
    before = stage.store.writes
    rehearsal = Rehearsal(it.rows, it.maker, stage.clock, TENANT, first, it.tenants.zone)
    while rehearsal.some(1.0):
        continue
    assert stage.store.writes == before
    return rehearsal.levels


def test_days_move_with_the_tenants_zone_while_it_runs(record, stage):
    said(record)
    work(stage)
    assert days(record) == ["2026-01-05", "2026-01-08", "2026-01-11", "2026-01-14"]
    stage.set(timezone="Asia/Tokyo")
    work(stage)
    assert days(record) == ["2026-01-06", "2026-01-09", "2026-01-12", "2026-01-15"]
    assert record.nodes()["toc:year:2026"].events == 4
    assert stage.it.waiting.count() == 0
    stage.set(timezone="")
    work(stage)
    assert days(record)[0] == "2026-01-05"


def test_a_move_that_was_killed_anywhere_is_finished_on_the_next_start(record):
    for writes in range(40):
        stage = Stage(record := Record(), jitter=0.0)
        said(record)
        work(stage)
        stage.store.left = writes
        try:
            stage.set(timezone="Asia/Tokyo")
            work(stage)
        except Killed:
            pass
        stage.store.left = None
        stage.open()
        if not writes:
            stage.set(timezone="Asia/Tokyo")  # it was never noted: the bucket tells it again
        stage.settle()
        assert days(record)[0] == "2026-01-06"
        assert len(days(record)) == 4
        assert not list(stage.store.scan("meta", b"sweep:"))


def test_the_last_known_zone_outlives_the_bucket(record, stage):
    stage.set(timezone="Asia/Tokyo")
    stage.set(tenant="other", timezone="Asia/Seoul")
    stage.open()  # and nobody tells it anything
    said(record)
    work(stage)
    assert days(record)[0] == "2026-01-06"
    assert stage.it.tenants.values() == {TENANT: b'{"timezone":"Asia/Tokyo"}'}, "only of its own partitions"


def test_zones_of_the_setting_of_old_are_what_tenants_set(record, stage):
    batch = stage.store.batch()
    batch.put("meta", b"zones", msgspec.msgpack.encode({"": "UTC", TENANT: "Asia/Tokyo"}))
    stage.store.write(batch, sync=True)
    stage.open()
    assert str(stage.it.tenants.zone(TENANT)) == "Asia/Tokyo"
    assert stage.it.tenants.values() == {TENANT: b'{"timezone":"Asia/Tokyo"}'}
    assert not list(stage.store.scan("meta", b"zones"))


def test_while_paused_nothing_is_made_and_what_is_behind_says_so(record, stage):
    said(record)
    work(stage)
    before = record.nodes()
    stage.set(toc_paused=True)
    record.say("a storm", DAY_1 + 2 * DAY)
    stage.clock.now += 3600
    work(stage)
    stage.close()
    work(stage)
    assert record.nodes() == before
    assert stage.it.waiting.since(TENANT) is not None
    assert len(list(stage.store.scan("segments", b""))) == 5, "segments are cut all the same"
    stage.open()
    work(stage)
    assert record.nodes() == before, "after a restart too"
    stage.set(toc_paused=False)
    work(stage)
    assert record.nodes()["toc:year:2026"].events == 5
    assert stage.it.waiting.count() == 0


def test_a_pause_of_everyone_and_one_of_a_tenant_are_two(record, stage):
    stage.set(tenant=EVERYONE, toc_paused=True)
    stage.set(toc_paused=True)
    record.say("rain", DAY_1)
    work(stage)
    stage.set(tenant=EVERYONE, toc_paused=False)
    work(stage)
    assert record.nodes() == {}
    stage.set(toc_paused=False)
    work(stage)
    assert len(record.nodes()) == 5


def test_a_forget_does_not_wait_for_a_pause(record, stage):
    said(record)
    record.say("zanzibarian secrets", DAY_1 + 10 * HOUR + 1, name="x1")
    work(stage)
    stage.set(toc_paused=True)
    record.say("a storm", DAY_1 + 2 * DAY)
    work(stage)
    assert stage.it.waiting.count()
    record.forget({"x1"})
    work(stage)
    assert record.nodes()["toc:day:2026-01-05"].events == 1
    assert "zanzibar" not in str(record.nodes())
    assert stage.it.purgeable()
    for family in ("events", "nodes", "outbox"):
        assert not any(b"zanzibar" in raw for _, raw in stage.store.scan(family, b""))


def test_days_wait_for_the_schedule_and_what_is_above_comes_with_them(record):
    stage = Stage(record, jitter=0.0, rollup_schedule="0 * * * *", rollup_jitter_s=0.0)
    stage.clock.now = 600.0
    said(record)
    work(stage)
    assert {name.split(":")[1] for name in record.nodes()} == {"segment"}
    assert stage.it.waiting.since(TENANT) is not None
    stage.clock.now = 3_599.0
    work(stage)
    assert days(record) == []
    stage.clock.now = 3_600.0
    work(stage)
    assert len(days(record)) == 4
    stage.clock.now += 10
    work(stage)
    assert record.nodes()["toc:year:2026"].events == 4
    assert stage.it.waiting.count() == 0
    record.say("a storm", DAY_1 + 2 * DAY)
    work(stage)
    assert len(days(record)) == 4
    stage.clock.now = 7_200.0
    work(stage)
    assert len(days(record)) == 5


def test_a_firing_that_passes_while_nobody_runs_is_made_up_for_and_none_is_made_too_early(record):
    stage = Stage(record, jitter=0.0, rollup_schedule="0 * * * *", rollup_jitter_s=0.0)
    said(record)
    work(stage)
    stage.clock.now = 1_800.0
    stage.open()
    work(stage)
    assert days(record) == []
    stage.clock.now = 4_000.0
    stage.open()
    work(stage)
    assert len(days(record)) == 4


def test_a_schedule_that_is_changed_to_an_earlier_one_is_followed(record):
    stage = Stage(record, jitter=0.0, rollup_schedule="0 0 1 1 *", rollup_jitter_s=0.0)
    said(record)
    work(stage)
    again = Stage(record, store=stage.store, clock=stage.clock, rollup_schedule="0 * * * *", rollup_jitter_s=0.0)
    again.clock.now = 3_599.0
    work(again)
    assert days(record) == []
    again.clock.now = 3_600.0
    work(again)
    assert len(days(record)) == 4


def test_neither_a_forget_nor_a_command_waits_for_the_schedule(record):
    stage = Stage(record, jitter=0.0, rollup_schedule="0 0 1 1 *", rollup_jitter_s=0.0)
    said(record)
    work(stage)
    stage.it.remake(TENANT, None)
    work(stage)
    assert len(days(record)) == 4
    record.forget({record.events()[0].id})
    work(stage)
    assert len(days(record)) == 3
    assert record.nodes()["toc:year:2026"].events == 3


def test_what_is_made_again_and_says_the_same_is_not_published_again(record, stage):
    said(record)
    work(stage)
    before = (stage.published, len(record.entries))
    assert rehearsed(stage) == {"year": (1, 0), "month": (1, 0), "week": (2, 0), "day": (4, 0), "segment": (4, 0)}
    stage.it.remake(TENANT, None)
    assert stage.it.sweeps.running(TENANT)
    work(stage)
    assert (stage.published, len(record.entries)) == before
    assert not stage.it.sweeps.running(TENANT)
    assert stage.it.waiting.asked(TENANT) == stage.it.waiting.count() == 0


def test_what_is_wrong_is_made_right_from_a_day_on(record, stage):
    said(record)
    work(stage)
    right = record.nodes()
    batch = stage.store.batch()
    for depth in range(5):
        for key, row in stage.it.rows.nodes(TENANT, depth):
            spoilt = msgspec.structs.replace(row, summary=msgspec.structs.replace(row.summary, title="x"), digest=b"x")
            stage.it._put_node(batch, key, spoilt)
    stage.store.write(batch, sync=True)
    stage.it._nodes.clear()
    levels = rehearsed(stage, date(2026, 1, 11))
    assert levels == {"year": (1, 1), "month": (1, 1), "week": (2, 2), "day": (2, 2), "segment": (2, 2)}
    assert rehearsed(stage)["segment"] == (4, 4)
    published = stage.published
    stage.it.remake(TENANT, date(2026, 1, 11))
    work(stage)
    assert stage.published - published == 8
    assert record.nodes()["toc:day:2026-01-14"].title == right["toc:day:2026-01-14"].title
    stage.it.remake(TENANT, None)
    work(stage)
    now = record.nodes()
    assert {name: msgspec.structs.replace(node, version=0, seq=0) for name, node in now.items()} == {
        name: msgspec.structs.replace(node, version=0, seq=0) for name, node in right.items()
    }


def test_a_command_that_was_killed_goes_on_and_two_are_the_wider(record, stage):
    said(record)
    work(stage)
    stage.it.remake(TENANT, date(2026, 1, 11))
    stage.it.remake(TENANT, date(2026, 1, 14))
    assert stage.it.sweeps._first[TENANT] == date(2026, 1, 11)
    stage.open()
    assert stage.it.sweeps.running(TENANT)
    stage.it.remake(TENANT, None)
    stage.open()
    assert stage.it.sweeps._first == {TENANT: None}
    stage.it.sweeps.some(1.0)
    assert stage.it.waiting.asked(TENANT) == 12
    stage.open()
    assert stage.it.waiting.asked(TENANT) == 12, "rows, not memory"
    work(stage)
    assert stage.it.waiting.count() == 0


def test_of_a_tenant_that_is_another_shards_by_now_nothing_is_made_or_told(record, stage):
    said(record)
    work(stage)
    stage.set(timezone="Asia/Tokyo")
    stage.it.reset(PART)
    other = Summarizer(stage.it.rows, stage.settings, [PART + 1], analyze, stage.clock)
    assert not other.some(1.0)
    assert not other.sweeps.running(TENANT)
    assert other.tenants.values() == {}, "what was set since only its shard has heard"


def test_another_log_leaves_what_tenants_set(record, stage):
    stage.set(timezone="Asia/Tokyo")
    said(record)
    work(stage)
    stage.it.reset(PART)
    work(stage)
    assert days(record)[0] == "2026-01-06"
    assert tenants.decode(stage.it.tenants.values()[TENANT]).timezone == "Asia/Tokyo"
