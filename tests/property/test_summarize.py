"""Whatever is said, forgotten and killed: the recorded tree is the one that is made at once of what is left."""

from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.toc_record import PART, TENANT, Killed, Record, Stage
from jetmem.domain import calendar
from jetmem.summarize import core
from jetmem_schemas import tenants, toc

HOUR = 3_600_000
START = 1_767_000_000_000
WORDS = ["rain", "harbour", "violin", "copper", "lantern", "meadow", "ticket", "garden", "engine", "winter"]

says = st.tuples(
    st.just("say"),
    st.sampled_from(["s1", "s1", "s2"]),
    st.sampled_from(["alice", "bob"]),
    st.sampled_from([0, 1_000, 60_000, HOUR, 26 * HOUR, -HOUR, -30 * HOUR, -9 * 24 * HOUR, 40 * 24 * HOUR]),
    st.sampled_from([3, 3, 30, 900, 4_000]),
)
#: Of an event that is there, or of one that may come later.
corrects = st.tuples(
    st.just("correct"),
    st.integers(-8, 30),
    st.sampled_from(["s1", "s2"]),
    st.sampled_from(["alice", "bob"]),
    st.sampled_from([0, 60_000, 26 * HOUR, -HOUR, -9 * 24 * HOUR]),
)
works = st.tuples(st.sampled_from(["work", "work", "overtaken"]), st.integers(0, 5))
does = st.tuples(st.sampled_from(["read", "make", "publish", "restart", "kill", "close", "embed"]), st.integers(0, 5))
forgets = st.one_of(
    st.tuples(st.sampled_from(["forget", "race"]), st.sets(st.integers(0, 30), min_size=1, max_size=6)),
    st.tuples(st.just("forget last"), st.integers(1, 4)),
)
operates = st.one_of(
    st.tuples(st.just("set"), st.just("timezone"), st.sampled_from(["", "Pacific/Pago_Pago", "Pacific/Kiritimati"])),
    st.tuples(st.just("set"), st.just("toc_paused"), st.booleans()),
    st.tuples(st.just("remake"), st.sampled_from([None, 0, 10, 60])),
)


def histories(*more):
    return st.lists(st.one_of(says, says, corrects, does, works, *more), min_size=1, max_size=30)


#: At least this long, or hardly a node is made before its day is another.
operated = st.lists(
    st.one_of(says, says, says, corrects, works, works, does, forgets, operates, operates), min_size=10, max_size=30
)


def text_of(number, length):
    said = [WORDS[(number * 7 + n * n) % len(WORDS)] for n in range(length)]
    return ". ".join(" ".join(said[n : n + 9]).capitalize() for n in range(0, length, 9))


def play(history, *, vectors=True, **how):
    record = Record()
    stage = Stage(record, **how)
    if vectors:
        stage.index.at = 0
    else:
        stage.index.down = True
    now = START
    bucket = {}
    for number, step in enumerate(history):
        try:
            if step[0] in ("say", "correct"):
                now += max(0, step[4 if step[0] == "correct" else 3])
                say(record, stage, number, now, *step)
            elif step[0] == "forget last":
                record.forget({each.id for each in sorted(record.events(), key=lambda e: e.ts)[-step[1] :]}, at_once=2)
            elif step[0] in ("forget", "race"):
                said = record.events()
                if step[0] == "race":
                    stage.read()
                record.forget({said[n % len(said)].id for n in step[1]} if said else set(), at_once=2)
                if step[0] == "race":  # made before it was read, recorded after it: persist drops what is published
                    stage.make()
                    stage.publish()
            elif step[0] == "set":
                bucket[step[1]] = step[2]
                stage.set(**bucket)
            elif step[0] == "remake":
                first = None if step[1] is None else date.fromtimestamp(START / 1000) + timedelta(days=step[1])
                stage.it.remake(TENANT, first)
            else:
                act(stage, *step)
        except Killed:
            restart(stage, bucket)
        check_emptied(stage)
    stage.store.left = None
    bucket["toc_paused"] = False
    stage.set(**bucket)
    stage.index.at = None
    stage.settle()
    return record, stage


def say(record, stage, number, now, what, *step):
    named = {}
    if what == "correct":
        which, session, agent, later = step
        said = record.events()
        ahead = f"e{len(record.entries) - which}"
        named["supersedes"] = said[which % len(said)].id if which >= 0 and said else ahead
        length = 9
    else:
        session, agent, later, length = step
    at = now + min(0, later)
    text = text_of(number, length)
    record.say(text, at, session=session, agent=agent, at=stage.clock.now_ms(), author="Ann", **named)


def corrected(record):
    """Ids that another event corrects."""
    bodies = [(event.id, msgspec.json.decode(event.body)) for event in record.events()]
    return {body["supersedes"] for id_, body in bodies if body.get("supersedes", id_) != id_}


def restart(stage, bucket):
    """The bucket tells again what was not noted."""
    stage.open()
    if tenants.changed(b"", bucket) != stage.it.tenants.values().get(TENANT, b"{}"):
        stage.set(**bucket)


def act(stage, what, count):
    if what == "read":
        stage.read(count + 1)
    elif what == "make":
        stage.clock.now += count * 4
        stage.make()
    elif what == "publish":
        stage.publish(count)
    elif what == "work":
        stage.clock.now += count * 30
        stage.read()
        stage.make()
        stage.publish()
    elif what == "overtaken":  # closed before what was published is back
        stage.read()
        stage.make()
        stage.publish()
        stage.clock.now += 3600
        stage.close()
        stage.make()
        stage.publish()
    elif what == "embed":  # index has the vectors of what was said so far, but for the last few
        stage.index.at = max(stage.index.at, len(stage.record.entries) - count)
        stage.bring()
    elif what == "tell":
        stage.tell()
    elif what == "restart":
        stage.open()
    elif what == "kill":
        stage.store.left = count
    else:
        stage.clock.now += count * 600
        stage.close()


def contents(record):
    return {name: msgspec.structs.replace(node, version=0, seq=0) for name, node in record.nodes().items()}


def check_tree(record):
    nodes = record.nodes()
    covered = set()
    grips = {grip.id: grip for node in nodes.values() for grip in node.grips}
    said = {event.id: event for event in record.events()}
    wrong = corrected(record)
    for name, node in nodes.items():
        above = calendar.parent_of(calendar.parse(name))
        if above is not None:
            parent = nodes[str(above)]
            assert name in parent.children
            assert parent.start <= node.start <= node.end <= parent.end
        assert not node.open, "all were closed by time"
        for child in node.children:
            assert calendar.parent_of(calendar.parse(child)) == calendar.parse(name)
            assert child in nodes
        if node.children:
            assert node.events == sum(nodes[child].events for child in node.children)
            assert node.start == min(nodes[child].start for child in node.children)
            assert node.end == max(nodes[child].end for child in node.children)
        for bullet in node.bullets:
            for grip in bullet.grips:
                assert toc.segment_of(grip) in nodes
                assert grips[grip].excerpt in said[grips[grip].first].body.decode()
                assert grips[grip].first not in wrong
        if node.level == "segment":
            if core.SOURCES_MAX > 100:
                assert sum(last - first + 1 for first, last in node.sources) >= node.events
            covered |= {e.id for e in said.values() if toc.met(list(node.sources), [e.rseq])}
            of_session = {
                e.agent for e in said.values() if node.start <= e.ts <= node.end and e.session == node.session
            }
            assert set(node.agents) <= of_session
            assert len(node.agents) == 1
    assert covered == set(said)
    assert sum(n.events for n in nodes.values() if n.level == "year") == len(said)


def check_rebuilt(record, *, zone="", **how):
    """From nothing, over the same record: the same tree, and nothing is published, whether vectors come or not."""
    before = contents(record)
    again = Stage(record, **how)
    again.set(timezone=zone)
    again.clock.now = 10**7
    again.index.down = True
    again.settle()
    assert contents(record) == before
    assert again.published == 0
    again.index.down, again.index.at = False, None
    again.settle()
    assert contents(record) == before
    assert again.published == 0


def check_vectors(record, stage):
    """With vectors all there, the tree that is made at once is the one that came bit by bit."""
    held = dict(stage.store.scan("vectors", b""))
    again = Stage(record)
    again.clock.now = 10**7
    again.index.at = None
    again.settle()
    assert dict(again.store.scan("vectors", b"")) == held


def check_emptied(stage):
    """What the next entry of a forget passes over holds no words, and is made again without them."""
    waiting, store = stage.it.waiting, stage.store
    full = set(waiting.full(TENANT))
    assert full <= set(waiting.keys_of(TENANT))
    for key in set(waiting.keys_of(TENANT)) - full:
        row = stage.it.rows.node(key)
        assert row is None or (row.summary is None and row.grips == [])
        assert not any(store.get(family, key) for family in ("theirs", "vectors", "topic_vectors", "unplaced"))
        assert waiting.wanted[key].urgent and not waiting.on_its_way(key)


def check_nothing_left(stage, record):
    """Rows are of what is left, and of nothing else."""
    said = record.events()
    assert len(list(stage.store.scan("events", b""))) == len(list(stage.store.scan("ids", b""))) == len(said)
    assert len(list(stage.store.scan("sessions", b""))) == len({(e.agent, e.session) for e in said})
    assert list(stage.store.scan("outbox", b"")) == list(stage.store.scan("dirty", b"")) == []
    assert {key[0] for key, _ in stage.store.scan("nodes", b"")} <= {PART}
    assert len(list(stage.store.scan("nodes", b""))) == len(record.nodes())
    assert len(list(stage.store.scan("published", b""))) == len(record.nodes())
    assert list(stage.store.scan("lacking", b"")) == list(stage.store.scan("theirs", b"")) == []
    assert len(list(stage.store.scan("vectors", b""))) == len(record.nodes())


@pytest.fixture(autouse=True, params=[2, 128], ids=["coarse sources", "fine sources"])
def sources(request, monkeypatch):
    """With coarse ones a node is erased with events that it was not made from."""
    monkeypatch.setattr(core, "SOURCES_MAX", request.param)


SLOW = settings(max_examples=150, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))


@SLOW
@given(histories())
def test_late_events_restarts_and_kills_change_nothing(history):
    record, stage = play(history)
    check_tree(record)
    check_nothing_left(stage, record)
    check_rebuilt(record)
    check_vectors(record, stage)


@SLOW
@given(histories(forgets))
def test_forgets_restarts_and_kills_change_nothing(history):
    """Lateness apart: what was too late beside an erased event may not be beside what is left."""
    record, stage = play(history, lateness_days=10_000)
    check_tree(record)
    check_nothing_left(stage, record)
    check_rebuilt(record, lateness_days=10_000)


@SLOW
@given(histories(forgets, st.tuples(st.just("tell"), st.just(0))))
def test_what_an_endpoint_told_is_kept_and_not_asked_again(history):
    how = {"lateness_days": 10_000, "endpoint_url": "http://localhost", "endpoint_tokens_hour": 10**9}
    record, stage = play(history, **how)
    check_tree(record)
    check_rebuilt(record, **how)
    stage.tell()
    stage.settle()
    check_tree(record)
    assert {node.by for node in record.nodes().values() if node.level == "segment" and node.bullets} <= {"endpoint"}
    check_rebuilt(record, **how)


@SLOW
@given(histories(forgets))
def test_with_late_events_and_forgets_the_tree_is_whole(history):
    record, stage = play(history)
    check_tree(record)
    check_nothing_left(stage, record)


@SLOW
@given(operated, st.sampled_from(["", "*/30 * * * *"]))
def test_zones_pauses_schedules_and_rebuilds_change_nothing_but_the_days(history, schedule):
    record, stage = play(history, lateness_days=10_000, rollup_schedule=schedule)
    check_tree(record)
    check_nothing_left(stage, record)
    check_rebuilt(record, lateness_days=10_000, zone=str(stage.it.tenants.zone(TENANT)))
