"""What summarize makes of each entry, over a record and a store in memory."""

import random
from datetime import date

import msgspec
import pytest

from harness.stores import Touching
from harness.toc_record import PART, TENANT, Record, Stage
from jetmem.domain import calendar, summaries
from jetmem.summarize import core
from jetmem.summarize.places import segments_of
from jetmem.summarize.rows import FAMILIES, node_key, node_of, prefix
from jetmem_schemas import toc
from jetmem_schemas.internal import Head

DAY_1 = 1_767_607_200_000  # Monday 2026-01-05, 10:00 in UTC
MINUTE = 60_000
HOUR = 60 * MINUTE


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def stage(record):
    return Stage(record, jitter=0.0)


def work(stage):
    """Read, make and publish what is due now."""
    for _ in range(10):
        while stage.read():
            continue
        stage.make()
        if not stage.publish() and not stage.read():
            return


def level(record, name):
    return [node for node in record.nodes().values() if node.level == name]


def rows(stage):
    return {family: len(list(stage.store.scan(family, prefix(TENANT)))) for family in FAMILIES if family != "meta"}


def test_one_event_is_a_tree_at_once(record, stage):
    record.say("Rain over the harbour.", DAY_1, author="Ann")
    work(stage)
    assert sorted(record.nodes())[:4] == [
        "toc:day:2026-01-05", "toc:month:2026-01", next(n.id for n in level(record, "segment")), "toc:week:2026-W02"
    ]  # fmt: skip
    for node in record.nodes().values():
        assert (node.open, node.events, node.sources, node.agents) == (True, 1, [(1, 1)], ["alice"])
        assert node.bullets[0].text == "Ann: Rain over the harbour."
        assert node.bullets[0].grips == [level(record, "segment")[0].grips[0].id]
        assert (node.version, node.seq) == (1, 1) or node.level != "segment"


def test_a_segment_that_grows_is_made_again_after_its_rest(record, stage):
    record.say("rain", DAY_1)
    work(stage)
    record.say("more rain", DAY_1 + MINUTE)
    stage.clock.now += 9
    work(stage)
    assert level(record, "segment")[0].events == 1
    stage.clock.now += 1
    work(stage)
    assert level(record, "segment")[0].events == 2
    assert level(record, "year")[0].events == 2
    assert stage.it.waiting.since(TENANT) is None


def test_what_closes_a_segment_by_its_place_is_made_at_once_and_the_next_one_too(record, stage):
    record.say("rain", DAY_1)
    record.say("sun", DAY_1 + HOUR)
    work(stage)
    assert [(n.events, n.open) for n in level(record, "segment")] == [(1, False), (1, True)]


def test_quiet_closes_also_after_a_restart(record, stage):
    record.say("rain", DAY_1)
    work(stage)
    stage.clock.now = 29 * 60
    stage.close()
    work(stage)
    assert all(node.open for node in record.nodes().values())
    stage.open()
    stage.clock.now = 31 * 60
    stage.close()
    work(stage)
    assert not any(node.open for node in record.nodes().values())
    assert rows(stage)["closing"] == 0


def test_sessions_of_two_agents_do_not_mix(record, stage):
    for n in range(3):
        record.say(f"rain {n}", DAY_1 + n, agent="alice")
        record.say(f"sun {n}", DAY_1 + n, agent="bob")
    work(stage)
    assert sorted((n.agents, n.session, n.events) for n in level(record, "segment")) == [
        (["alice"], "s1", 3), (["bob"], "s1", 3)
    ]  # fmt: skip
    assert level(record, "day")[0].agents == ["alice", "bob"]


def test_no_version_is_published_twice_under_one_number(record, stage):
    """Closed before what was published is back: the content is another, the log is where it was."""
    record.say("rain", DAY_1)
    stage.read()
    stage.make()
    stage.publish()
    stage.clock.now += HOUR
    stage.close()
    stage.make()
    assert not stage.publish()
    stage.clock.now += 1
    work(stage)
    assert not any(node.open for node in record.nodes().values())
    assert record.dropped == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_oldest_that_is_behind_is_known_whatever_comes_and_goes(stage, seed):
    draw = random.Random(seed)
    waiting, batch = stage.it.waiting, stage.store.batch()
    nodes = [node_key(TENANT, calendar.NodeId(date(2026, 1, 5), 4, f"{n:026}")) for n in range(20)]
    held = {}
    for _ in range(2_000):
        key, since = draw.choice(nodes), Head(draw.randrange(50), 7)
        if draw.random() < 0.6 if len(held) < 10 else draw.random() < 0.3:
            waiting.want(batch, key, since)
            held.setdefault(key, since)
        elif key in held and draw.random() < 0.5:
            waiting.send(key, 1)
            waiting.made(batch, key, 0.0) if key in waiting.wanted else None
        elif key in held and key not in waiting.wanted:
            assert waiting.back(batch, key) == held.pop(key)
        assert waiting.since(TENANT) == min(held.values(), default=None, key=lambda head: head.rseq)
        assert len(waiting._by_age.get(TENANT, ())) <= 64 + 2 * len(held) + 1
    assert waiting.count(TENANT) == len(held)


def test_equal_content_is_not_published_again(record, stage):
    record.say("rain", DAY_1)
    work(stage)
    count = stage.published
    for key, _ in list(stage.store.scan("nodes", b"")):
        batch = stage.store.batch()
        stage.it.waiting.want(batch, key, stage.it.at[PART])
        stage.store.write(batch, sync=True)
    stage.clock.now += 100
    work(stage)
    assert stage.published == count
    assert rows(stage)["dirty"] == 0


def test_a_late_event_reopens_the_right_segment(record, stage):
    record.say("rain", DAY_1)
    record.say("sun", DAY_1 + 3 * 24 * HOUR)
    work(stage)
    record.say("hail", DAY_1 + MINUTE)
    stage.clock.now += 100
    work(stage)
    assert [(n.events, n.open) for n in level(record, "segment")] == [(2, False), (1, True)]


def test_what_is_too_late_has_a_segment_of_its_own(record):
    stage = Stage(record, lateness_days=1.0)
    record.say("rain", DAY_1)
    record.say("sun", DAY_1 + 3 * 24 * HOUR)
    record.say("hail", DAY_1 + MINUTE)
    stage.settle()
    assert sorted((n.start, n.events) for n in level(record, "segment")) == [
        (DAY_1, 1), (DAY_1 + MINUTE, 1), (DAY_1 + 3 * 24 * HOUR, 1)
    ]  # fmt: skip
    assert len(level(record, "day")) == 2


def test_forgetting_the_newest_of_a_session_reaches_what_was_let_go(record):
    """Of a long session only the last days are in memory: all of these are erased, what is before them stays."""
    stage = Stage(record, lateness_days=1.0)
    record.say("rain", DAY_1, name="old")
    work(stage)
    record.say("sun", DAY_1 + 30 * 24 * HOUR, name="new")
    work(stage)
    record.say("wind", DAY_1 + 60 * 24 * HOUR, name="newest")
    work(stage)
    record.forget({"newest"})
    stage.settle()
    record.forget({"new"})
    stage.settle()
    assert [n.grips[0].first for n in level(record, "segment")] == ["old"]
    assert rows(stage)["sessions"] == rows(stage)["segments"] == rows(stage)["events"] == 1
    record.forget({"old"})
    stage.settle()
    assert record.nodes() == {}
    assert set(rows(stage).values()) == {0}


def test_a_node_that_is_erased_with_its_neighbours_comes_back(record, stage, monkeypatch):
    """Its ranges hold an event of somebody else, so it is erased with that, though nothing of it changed."""
    monkeypatch.setattr(core, "SOURCES_MAX", 1)
    record.say("rain", DAY_1, name="a")
    record.say("sun", DAY_1, name="b", session="s2")
    record.say("hail", DAY_1 + 1, name="c")
    work(stage)
    mine = next(node for node in level(record, "segment") if node.session == "s1")
    assert mine.sources == [(1, 3)]
    record.forget({"b"})
    assert mine.id not in record.nodes()
    work(stage)
    again = record.nodes()[mine.id]
    assert again.version > mine.version
    assert again.bullets == mine.bullets
    assert level(record, "year")[0].events == 2


def test_a_node_on_its_way_when_others_are_forgotten_is_published_again(record, stage):
    record.say("rain", DAY_1, name="a")
    stage.read()
    record.say("sun", DAY_1 + 48 * HOUR, name="b", session="s2")
    record.forget({"b"})
    stage.make()
    stage.publish()
    record.record()
    assert record.dropped == 5, "made without knowing of the forget"
    assert record.nodes() == {}
    stage.clock.now += 1
    work(stage)
    assert len(record.nodes()) == 5


def test_a_forget_waits_for_no_rest_and_no_row_keeps_the_words(record, stage):
    record.say("rain", DAY_1, name="a")
    record.say("zanzibar", DAY_1 + 1, name="b")
    work(stage)
    record.forget({"b"})
    stage.read()
    assert stage.it.purgeable() == {}, "nodes still tell of it"
    work(stage)
    assert stage.it.purgeable() == {TENANT: record.forgot}
    held = b"".join(value for family in FAMILIES for _, value in stage.store.scan(family, b""))
    assert b"rain" in held
    assert b"zanzibar" not in held
    stage.it.purged(stage.it.purgeable())
    assert stage.it.erased == {}
    stage.open()
    assert stage.it.erased == {}


@pytest.mark.parametrize("behind", [False, True])
def test_no_rollup_is_made_of_words_that_were_forgotten(record, stage, behind):
    """One that is due already, or is asked for first, comes before the segments below it."""
    for n in range(3):
        record.say("zanzibar", DAY_1 + n * 48 * HOUR, name=f"z{n}", session=f"s{n}")
    record.say("rain", DAY_1 + 1, name="rain")
    work(stage)
    if behind:
        record.say("sun", DAY_1 + 2, name="sun")
        stage.read()
    record.forget({"z0", "z1", "z2"})
    while stage.read():
        continue
    kept = [family for family in FAMILIES for _, value in stage.store.scan(family, b"") if b"zanzibar" in value]
    assert kept == [], "in the write that forgets, before anything is made"
    stage.clock.now += 60
    work(stage)
    assert all("zanzibar" not in bullet.text for node in record.nodes().values() for bullet in node.bullets)
    assert level(record, "year")[0].events == (2 if behind else 1)


def touched_by_forgetting(count, *, made, at_once=10):
    """Rows touched when all of so many sessions are forgotten, for each of them."""
    record = Record()
    stage = Stage(record, store=Touching(FAMILIES))
    for n in range(count):
        record.say("zanzibar", DAY_1 + n * HOUR, name=f"z{n}", session=f"s{n}")
    stage.read()
    if made:
        stage.make()
    if made == "recorded":
        stage.publish()
    record.forget({event.id for event in record.events()}, at_once=at_once)
    stage.store.touched.clear()
    stage.read()
    touched = stage.store.touched.total()
    kept = [family for family in FAMILIES for _, value in stage.store.scan(family, b"") if b"zanzibar" in value]
    assert kept == []
    stage.settle()
    assert record.nodes() == {}
    return touched / count


@pytest.mark.parametrize("made", ["", "on their way", "recorded"])
def test_a_forget_empties_each_node_once_however_many_entries_it_has(made):
    few, many = touched_by_forgetting(40, made=made), touched_by_forgetting(400, made=made)
    assert many < 1.3 * few


@pytest.mark.parametrize("restarts", [False, True])
def test_what_is_made_between_two_entries_of_a_forget_is_emptied_by_the_second(record, stage, restarts):
    """What is made there is made of what the later ones erase."""
    words = ["zanzibar", "quagmire", "xylophone"]
    said = [record.say(word, DAY_1 + n, name=f"z{n}", session=f"s{n}") for n, word in enumerate(words)]
    work(stage)
    record.forget({"z0", "z1", "z2"}, at_once=1)
    while stage.read(1):
        left = stage.it.rows.events(TENANT, [entry.rseq for entry in said])
        gone = [word for word, row in zip(words, left, strict=True) if row is None]
        if restarts:
            stage.open()
        held = b"".join(value for family in FAMILIES for _, value in stage.store.scan(family, b""))
        assert not [word for word in gone if word.encode() in held]
        stage.clock.now += 1
        stage.make()
        if gone == words[:1]:
            assert b"quagmire" in b"".join(value for _, value in stage.store.scan("outbox", b""))
    stage.settle()
    assert record.nodes() == {}


def test_a_restart_publishes_what_has_not_come_back(record, stage):
    record.say("rain", DAY_1)
    stage.read()
    stage.make()
    assert rows(stage)["outbox"] == 5
    stage.open()
    assert stage.publish()
    stage.open()
    assert stage.publish(), "nobody knows whether the first was taken"
    while stage.read():
        continue
    assert rows(stage)["outbox"] == 0
    assert len(record.nodes()) == 5
    assert stage.it.waiting.count() == 0


def test_what_the_record_did_not_take_is_given_up(record, stage):
    record.say("rain", DAY_1)
    stage.read()
    stage.make()
    stage.publish()
    record.pending.clear()
    assert stage.it.refused() == 0, "the record did not come so far"
    record.say("sun", DAY_1 + 1)
    stage.read()
    assert stage.it.refused() == 5
    assert rows(stage)["outbox"] == 0
    stage.settle()
    assert level(record, "year")[0].events == 2


def test_a_node_of_another_life_that_nothing_makes_any_more_goes(record, stage):
    record.say("rain", DAY_1)
    work(stage)
    stale = toc.Node(id="toc:year:1999", version=stage.at, level="year", title="none", sources=[(1, 1)])
    record.publish(msgspec.json.encode(stale))
    work(stage)
    assert "toc:year:1999" not in record.nodes()
    assert record.versions("toc:year:1999")[-1].gone


def test_what_another_life_made_otherwise_is_made_again(record, stage):
    record.say("rain", DAY_1)
    work(stage)
    year = level(record, "year")[0]
    record.publish(msgspec.json.encode(msgspec.structs.replace(year, version=stage.at, title="other")))
    stage.clock.now += 100
    work(stage)
    assert level(record, "year")[0].title == year.title


def test_derived_entries_that_are_no_nodes_are_passed_over(record, stage):
    record._add("derived", "_", "node", "x", 0, 0, b'{"id":"something:else","version":3}')
    record._add("derived", "_", "node", "x", 0, 0, b"not json")
    record._add("novelty", "_", "_", "x", 0, 0, b"")
    stage.read()
    assert stage.at == 3


def test_another_log_begins_from_nothing(record, stage):
    record.say("rain", DAY_1)
    work(stage)
    stage.it.reset(PART)
    assert set(rows(stage).values()) == {0}
    assert stage.it.at[PART].rseq == 0
    assert stage.it.purgeable() == {TENANT: 0}, "the files may hold what the other log had erased"
    before = {name: node.version for name, node in record.nodes().items()}
    work(stage)
    assert {name: node.version for name, node in record.nodes().items()} == before


def test_days_move_with_the_default_zone_unless_a_tenant_has_its_own(record, stage):
    record.say("rain", DAY_1 + 10 * HOUR)
    work(stage)
    assert "toc:day:2026-01-05" in record.nodes()
    moved = Stage(record, store=stage.store, clock=stage.clock, timezone="Asia/Tokyo")
    moved.settle()
    assert "toc:day:2026-01-06" in record.nodes()
    assert "toc:day:2026-01-05" not in record.nodes()
    assert len(level(record, "segment")) == 1
    assert level(record, "year")[0].events == 1
    moved.set(timezone="UTC")
    moved.settle()
    assert "toc:day:2026-01-05" in record.nodes()
    again = Stage(record, store=stage.store, clock=stage.clock, timezone="Asia/Seoul")
    again.settle()
    assert "toc:day:2026-01-05" in record.nodes()
    assert again.published == 0


def told(record):
    """A stage with an endpoint that has told everything there is."""
    stage = Stage(record, jitter=0.0, endpoint_url="http://localhost", endpoint_tokens_hour=10**9)
    for _ in range(6):
        stage.settle(hours=24)
        stage.tell()
    stage.settle()
    assert {node.by for node in record.nodes().values()} == {"endpoint"}
    return stage


def untold(stage):
    return sorted(node.level for _, node in (node_of(key) for key, _ in stage.store.scan("untold", b"")))


@pytest.mark.parametrize(
    ("zone", "moves", "asked"),
    [
        ("Europe/Amsterdam", False, set()),  # every event stays in its day
        ("Pacific/Kiritimati", True, {"day"}),  # all are in the next one, of the same week
        ("Pacific/Pago_Pago", True, {"day", "week", "month", "year"}),  # one is in the week before
    ],
)
def test_a_move_of_days_asks_again_only_for_what_changed(record, zone, moves, asked):
    for n in range(2):
        record.say(f"The violin number {n} broke in Lisbon.", DAY_1 + 3 * n * HOUR, session=f"s{n}")
    stage = told(record)
    days = {node.id for node in level(record, "day")}
    for there, levels in ((zone, asked), ("UTC", asked)):
        stage.set(timezone=there)
        stage.settle()
        assert ({node.id for node in level(record, "day")} != days) == (moves and there == zone)
        assert {node.by for node in level(record, "segment")} == {"endpoint"}
        assert set(untold(stage)) <= levels


def test_ranges_join_what_is_nearest(monkeypatch):
    assert core.ranges([(5, 5), (1, 2), (3, 3), (9, 9)]) == [(1, 3), (5, 5), (9, 9)]
    monkeypatch.setattr(core, "SOURCES_MAX", 2)
    assert core.ranges([(1, 1), (3, 3), (10, 10), (12, 13)]) == [(1, 3), (10, 13)]
    monkeypatch.setattr(core, "SOURCES_MAX", 1)
    assert core.ranges([(1, 1), (3, 3), (10, 10)]) == [(1, 10)]


def test_a_day_of_thousands_of_segments_is_chosen_from_fewer_bullets(record, stage, monkeypatch):
    for n in range(30):
        record.say(f"Rain number {n} over the harbour. And a lantern {n} in the meadow.", DAY_1 + n, session=f"s{n}")
    work(stage)
    children = [row for _, row in stage.it.rows.children(TENANT, core.calendar.parse("toc:day:2026-01-05"))]
    total = sum(len(each.summary.bullets) for each in children)
    assert sum(len(s.bullets) for s in core.trimmed(children)) == total
    monkeypatch.setattr(core, "CANDIDATES_MAX", 10)
    trimmed = core.trimmed(children)
    assert len(trimmed) == 30
    assert sum(len(s.bullets) for s in trimmed) == 10
    row = core.rollup_row(children, summaries.roll_up(trimmed, {}, str.split))
    assert row.events == 30


def quoted(record):
    """Events that bullets are of, anywhere in the tree."""
    nodes = record.nodes().values()
    grips = {grip.id: grip.first for node in nodes for grip in node.grips}
    return {grips[grip] for node in nodes for bullet in node.bullets for grip in bullet.grips}


def test_no_bullet_is_of_what_a_later_day_corrects(record, stage):
    record.say("Felix has his dentist on Monday.", DAY_1, name="old")
    record.say("Rain over the harbour.", DAY_1 + MINUTE, name="rain")
    stage.settle()
    assert quoted(record) == {"old"}
    new = record.say(
        "Felix has his dentist on Friday.", DAY_1 + 40 * 24 * HOUR, name="new", agent="bob", session="s9",
        supersedes="old",
    )  # fmt: skip
    stage.settle()
    assert quoted(record) == {"rain", "new"}
    assert not any("Monday" in str(node.bullets) + node.title + node.summary for node in record.nodes().values())
    first = min(level(record, "segment"), key=lambda node: node.start)
    assert (first.events, first.sources) == (2, [(1, 2), (new.rseq, new.rseq)]), "it was made of what corrects it too"
    assert "monday" in first.terms, "a walk for the old statement still leads to it"
    record.forget({"new"})
    stage.settle()
    assert quoted(record) == {"old"}
    assert rows(stage)["corrects"] == rows(stage)["corrected"] == 0


def test_of_two_corrections_the_last_recorded_stays_until_it_is_forgotten(record, stage):
    record.say("Monday it is.", DAY_1, name="old")
    record.say("Tuesday it is.", DAY_1 + 24 * HOUR, name="new", supersedes="old")
    record.say("Friday it is.", DAY_1 + 48 * HOUR, name="newest", supersedes="old")
    stage.settle()
    assert quoted(record) == {"new", "newest"}
    record.forget({"newest"})
    stage.settle()
    assert quoted(record) == {"new"}
    record.forget({"new"})
    stage.settle()
    assert quoted(record) == {"old"}


def test_a_correction_may_be_recorded_before_what_it_corrects(record, stage):
    record.say("Friday it is.", DAY_1 + 24 * HOUR, name="new", supersedes="old")
    stage.settle()
    record.say("Monday it is.", DAY_1, name="old")
    stage.settle()
    assert quoted(record) == {"new"}
    only = min(level(record, "segment"), key=lambda node: node.start)
    assert (only.bullets, only.title, only.events) == ([], "1 message", 1), "all that it says is corrected"
    record.say("The rain has stopped.", DAY_1 + 2, name="self", supersedes="self", session="s2")
    stage.settle()
    assert quoted(record) == {"new", "self"}, "nothing corrects itself"


def test_what_two_segments_hold_is_corrected_in_both(record, stage):
    for n in range(16):
        record.say(f"{n}: {'rain over the harbour, ' * 70}", DAY_1 + n, name=f"e{n}")
    stage.settle()
    shared = [e.id for e in record.events() if sum(toc.met(n.sources, [e.rseq]) for n in level(record, "segment")) > 1]
    assert shared
    for id_ in shared:
        record.say("No.", DAY_1 + 48 * HOUR, supersedes=id_)
    stage.settle()
    assert not quoted(record) & set(shared)


def test_a_store_that_knows_no_corrections_is_made_anew(record, stage):
    record.say("Monday it is.", DAY_1, name="old")
    record.say("Friday it is.", DAY_1 + 24 * HOUR, name="new", supersedes="old")
    stage.settle()
    batch = stage.store.batch()
    for family in ("ids", "corrects", "corrected"):
        for key, _ in list(stage.store.scan(family, b"")):
            batch.delete(family, key)
    batch.delete("meta", b"corrected")
    stage.store.write(batch, sync=True)
    published = stage.published
    stage.open()
    assert stage.at == 0
    stage.settle()
    assert stage.published == published, "and quietly"
    assert rows(stage)["ids"] == 2
    assert rows(stage)["corrected"] == 2, "by its id, and by its id and number"
    stage.open()
    assert stage.at == len(record.entries)


def places(stage, *rseqs, tenant=TENANT):
    return segments_of(stage.it.rows, stage.it.maker.zone, tenant, rseqs)


def test_each_event_is_in_one_segment_of_its_own(record, stage):
    """By overlap it may be in the next one, too."""
    long = "rain over the harbour, " * 400
    said = [record.say(long, DAY_1 + n * MINUTE) for n in range(4)]
    said.append(record.say("much later", DAY_1 + 9 * HOUR))
    said.append(record.say("elsewhere", DAY_1, session="s2"))
    stage.settle()
    segments = {node.id: node for node in level(record, "segment")}
    found = dict(zip([e.rseq for e in said], places(stage, *(e.rseq for e in said)), strict=True))
    assert set(found.values()) == set(segments) and len(segments) > 3
    for entry in said:
        assert toc.met(segments[found[entry.rseq]].sources, [entry.rseq])
        assert segments[found[entry.rseq]].session == entry.session
    starts = [segments[found[e.rseq]].start for e in said[:4]]
    assert starts == sorted(starts), "the event that two segments hold is the earlier one's"


def test_late_events_are_in_segments_too(record, stage):
    record.say("now", DAY_1 + 30 * 24 * HOUR)
    late = record.say("long ago", DAY_1)
    stage.settle()
    assert places(stage, late.rseq)[0].startswith("toc:segment:2026-01-05:")


def test_an_event_is_in_no_segment_before_its_node_is_recorded_or_when_it_is_erased(record, stage):
    entry = record.say("rain", DAY_1)
    stage.read()
    assert places(stage, entry.rseq, 99) == ["", ""]
    stage.settle()
    assert places(stage, entry.rseq)[0] in record.nodes()
    assert places(stage, entry.rseq, tenant="zoo") == [""]
    record.forget([entry.id])
    stage.settle()
    assert places(stage, entry.rseq) == [""]


@pytest.mark.parametrize(
    ("zone", "ts"), [("America/New_York", -62_135_596_800_000), ("Asia/Tokyo", 253_402_300_799_000)]
)
def test_events_at_the_ends_of_the_calendar_are_told(record, zone, ts):
    """The zero time of Go and .NET comes by mere accident."""
    stage = Stage(record, timezone=zone)
    record.say("rain", ts)
    stage.settle()
    assert len(record.nodes()) == 5


def test_a_node_that_cannot_be_made_is_set_aside_and_tried_again(record, stage, monkeypatch):
    real = summaries.summarize

    def fails(events, *rest):
        if events[0].text == "poison":
            raise IndexError("a fault of ours")
        return real(events, *rest)

    monkeypatch.setattr(summaries, "summarize", fails)
    record.say("poison", DAY_1, session="s2")
    record.say("rain", DAY_1)
    work(stage)
    assert [node.bullets[0].text for node in level(record, "segment")] == ["rain"]
    assert len(stage.it.maker.aside) == 1
    monkeypatch.setattr(summaries, "summarize", real)
    stage.settle()
    assert len(level(record, "segment")) == 2
    assert not stage.it.maker.aside
