"""Topics over a record and a store in memory: segments come, go, change; what is forgotten is nowhere."""

import pytest

from harness.stores import Touching
from harness.toc_record import PART, TENANT, Killed, Record, Stage
from harness.topic_stage import Topical, everything, stored_vectors, talk
from jetmem.domain.topics import HALF_LIFE_MS, Regrouped
from jetmem.summarize.rows import FAMILIES
from jetmem.summarize.topic_loops import moves
from jetmem.summarize.topics import Found

DAY_1 = 1_767_607_200_000  # Monday 2026-01-05, 10:00 in UTC
DAY = 24 * 3_600_000


@pytest.fixture
def line():
    found = Topical(Stage(Record(), jitter=0.0))
    found.stage.clock.now = DAY_1 / 1000
    return found


def three(line, *, cake=8):
    talk(line.stage, "sea", 10, start=DAY_1)
    talk(line.stage, "cake", cake, start=DAY_1)
    talk(line.stage, "band", 4, start=DAY_1)
    line.settle(100)


def by_kind(line):
    return {sessions[0].rstrip("0123456789"): name for name, sessions in line.ids().items()}


def test_closed_segments_become_topics(line):
    three(line)
    found = line.list()
    assert [(t.segments, t.events) for t in found] == [(10, 20), (8, 16), (4, 8)]
    assert all(len({s.rstrip("0123456789") for s in sessions}) == 1 for sessions in line.ids().values())
    assert "harbour" in found[0].title.lower() or "lighthouse" in found[0].title.lower()
    assert "ann" not in " ".join([found[0].title, *found[0].keywords]).lower()
    assert (found[0].first, found[0].last, found[0].agents) == (DAY_1, DAY_1 + 9 * 3_600_000, ["alice"])
    opened = line.open(found[0].id, limit=3)
    assert [s.session for s in opened.segments] == ["sea9", "sea8", "sea7"]
    assert [s.session for s in line.open(found[0].id, last=opened.cursor).segments][0] == "sea6"
    assert line.topics.count(TENANT) == 0


def test_an_open_segment_is_in_no_topic(line):
    talk(line.stage, "sea", 25, start=DAY_1)
    line.stage.read()
    line.stage.make()
    line.place()
    assert line.topics.unplaced == {} and stored_vectors(line.stage) == {}
    line.settle(100)
    assert [t.segments for t in line.list()] == [25]


def test_while_a_tenant_is_paused_only_what_a_forget_causes_is_done(line):
    three(line)
    talk(line.stage, "sea", 1, start=DAY_1 + DAY, first=10)
    line.stage.settle()
    line.stage.set(toc_paused=True)
    line.place()
    assert line.topics.count(TENANT) == 1
    assert line.topics.waiting() == []
    line.stage.record.forget({"sea0a", "sea0b"})
    line.settle()
    assert [t.segments for t in line.list()] == [9, 8, 4]
    line.stage.set(toc_paused=False)
    line.settle()
    assert [t.segments for t in line.list()] == [10, 8, 4]


def test_a_new_segment_joins_at_once_and_a_stranger_waits(line):
    three(line)
    before = by_kind(line)
    talk(line.stage, "sea", 1, start=DAY_1, first=20)
    line.stage.record.say("quarterly invoices of the tax office", DAY_1 + 30 * 3_600_000, session="tax")
    line.stage.settle(100)
    line.place()
    line.make()
    assert "sea20" in line.ids()[before["sea"]]
    assert line.topics.tallies[TENANT].strays == 1
    assert line.topics.due() == []
    talk(line.stage, "band", 25, start=DAY_1, first=20)
    line.settle(200)
    assert by_kind(line) == before, "grouped again, and called as before"


def test_importance_is_as_of_now_and_filters_ask_for_a_segment(line):
    three(line)
    first = line.list()[0].importance
    line.stage.clock.now += HALF_LIFE_MS / 1000
    assert line.list()[0].importance == pytest.approx(first / 2, abs=1e-3)
    assert [t.segments for t in line.list(since=DAY_1 + 9 * 3_600_000)] == [10]
    assert [t.segments for t in line.list(until=DAY_1 + 1)] == [10, 8, 4]
    assert line.list(agent="bob") == []
    assert [t.segments for t in line.list(limit=1)] == [10]
    assert [t.segments for t in line.list(limit=1, last=line.list()[0].id)] == [8]
    assert [t.segments for t in line.list(start=2, last="topic:gone")] == [4]


def test_without_index_topics_stand_still_and_go_on_after(line):
    line.index.down = True
    three(line)
    assert line.place() is True
    assert line.list() == []
    assert line.topics.at(TENANT, line.stage.it.at[PART]).rseq < line.stage.at
    line.index.down = False
    line.settle()
    assert len(line.list()) == 3
    assert line.topics.at(TENANT, line.stage.it.at[PART]).rseq == line.stage.at


def test_a_segment_waits_until_all_of_it_has_vectors_or_gets_none(line):
    talk(line.stage, "sea", 2, start=DAY_1)
    line.stage.settle(100)
    line.index.until = 3
    line.place()
    assert len(stored_vectors(line.stage)) == 1
    assert line.topics.count(TENANT) == 1
    line.index.until = 10**9
    line.stage.clock.now += 10
    line.place()
    assert len(stored_vectors(line.stage)) == 2
    line.stage.record.say("", DAY_1 + 50 * DAY, session="mute", kind="session_start")
    line.stage.settle(2_000)
    line.place()
    assert (len(stored_vectors(line.stage)), line.topics.count(TENANT)) == (2, 0)


def forget(line, kinds, *numbers):
    line.stage.record.forget({f"{kind}{n}{place}" for kind in kinds for n in numbers for place in "ab"})
    while line.stage.read():
        continue


def test_a_forget_takes_words_and_centroid_in_its_own_write(line):
    three(line)
    name = by_kind(line)["cake"]
    kept = line.topics.rows.topic(TENANT, by_kind(line)["sea"])
    assert b"cake3xa" in everything(line.stage)
    forget(line, ["cake"], 3)
    row = line.topics.rows.topic(TENANT, name)
    assert (row.title, row.keywords, row.centroid, row.agents) == ("", [], b"", [])
    assert line.topics.rows.topic(TENANT, by_kind(line)["sea"]) == kept
    assert b"cake3x" not in everything(line.stage)
    assert len(stored_vectors(line.stage)) == 21
    line.settle()
    found = {t.id: t for t in line.list()}
    assert found[name].segments == 7 and found[name].title
    assert line.topics.remake == {}


def test_a_topic_that_is_behind_is_emptied_by_any_forget(line):
    """Its words may be of a segment that has another cut by now."""
    three(line)
    name = by_kind(line)["sea"]
    batch = line.stage.store.batch()
    line.topics._want(batch, TENANT, name)
    line.stage.store.write(batch, sync=False)
    forget(line, ["cake"], 3)
    assert line.topics.rows.topic(TENANT, name).title == ""
    line.settle()
    assert {t.id: bool(t.title) for t in line.list()}[name]


def test_a_topic_without_segments_is_gone_and_of_nothing_nothing_stays(line):
    three(line)
    name = by_kind(line)["band"]
    forget(line, ["band"], *range(4))
    line.settle()
    assert name not in line.ids() and line.open(name).topic is None
    forget(line, ["sea", "cake"], *range(10))
    line.settle()
    for family in ("topics", "members", "placed", "vectors", "unplaced", "remake", "tallies"):
        assert list(line.stage.store.scan(family, b"")) == [], family


def test_a_topic_is_emptied_once_however_many_entries_a_forget_has():
    line = Topical(Stage(Record(), store=Touching(FAMILIES), jitter=0.0))
    line.stage.clock.now = DAY_1 / 1000
    three(line)
    line.stage.record.forget({f"cake{n}{place}" for n in range(8) for place in "ab"}, at_once=2)
    line.stage.store.touched.clear()
    while line.stage.read(1):
        continue
    assert line.stage.store.touched["topics"] == 2, "read and written"
    assert b"lemon" not in everything(line.stage)
    assert [row.title for _, row in line.topics.rows.topics(TENANT)].count("") == 1
    line.make()
    line.settle(200)
    assert [t.segments for t in line.list()] == [10, 4]


def test_vectors_that_were_fetched_before_a_forget_are_not_stored_after_it(line):
    talk(line.stage, "cake", 4, start=DAY_1)
    line.stage.settle(100)
    waiting = line.topics.wanted(TENANT, frozenset(), 100)
    vector = line.index.encoder.encode(["cake"])[0]
    forget(line, ["cake"], 3)
    found = [Found(each.key, each.digest, vector) for each in waiting]
    assert line.topics.place(TENANT, "fake", found) == 3
    assert len(stored_vectors(line.stage)) == 3


def test_a_merged_topic_leads_to_the_one_it_is_in(line, monkeypatch):
    three(line)
    names = by_kind(line)
    plan = Regrouped(
        [names["cake"] if m.topic == names["band"] else m.topic for m in line.topics.snapshot(TENANT).members],
        {names["band"]: names["cake"]},
    )
    snapshot = line.topics.snapshot(TENANT)
    line.topics.move(TENANT, list(moves(snapshot, plan)))
    line.topics.grouped(TENANT, snapshot.tally, plan)
    line.make()
    assert line.open(names["band"]).topic.id == names["cake"]
    assert {t.id: t.segments for t in line.list()} == {names["sea"]: 10, names["cake"]: 12}
    forget(line, ["cake", "band"], *range(10))
    line.settle()
    assert line.open(names["band"]).topic is None
    assert [name for name, _ in line.topics.rows.topics(TENANT)] == [names["sea"]]


def test_another_model_begins_anew(line):
    three(line)
    line.index.model = "other"
    talk(line.stage, "sea", 1, start=DAY_1, first=30)
    line.settle(200)
    assert line.topics.tallies[TENANT].model == "other"
    assert [t.segments for t in line.list()] == [11, 8, 4]


def test_a_store_of_before_topics_gets_them(line):
    three(line)
    batch = line.stage.store.batch()
    batch.delete("meta", b"topics")
    for family in ("topics", "members", "placed", "vectors", "tallies"):
        for key, _ in list(line.stage.store.scan(family, b"")):
            batch.delete(family, key)
    line.stage.store.write(batch, sync=True)
    line.stage.open()
    assert line.topics.count(TENANT) == 22
    line.settle()
    assert [t.segments for t in line.list()] == [10, 8, 4]


def test_killed_at_any_write_it_ends_with_the_same_topics():
    whole = Topical(Stage(Record(), jitter=0.0))
    three(whole)
    for left in range(200):
        line = Topical(Stage(Record(), jitter=0.0))
        talk(line.stage, "sea", 10, start=DAY_1)
        talk(line.stage, "cake", 8, start=DAY_1)
        talk(line.stage, "band", 4, start=DAY_1)
        line.stage.settle(100)
        line.stage.store.left = left
        try:
            line.settle()
            done = True
        except Killed:
            done = False
        line.stage.store.left = None
        line.stage.open()
        line.settle()
        assert line.ids() == whole.ids(), left
        assert line.list() == whole.list()
        if done:
            break
    assert 5 < left < 199, "it was killed in between"
