"""Nodes leave the index when their time is over, counted from the arrival of what they were made of."""

import pytest

from harness.index_stage import AT, Stage, event, forgot, node
from jetmem.index import retention
from jetmem.index.arrivals import HOUR_MS, Arrivals
from jetmem.index.core import leaves_at
from jetmem.index.retention import Rehearsal
from jetmem.index.rows import FAMILIES, nodes_of, prefix
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import FindRequest
from jetmem_schemas.retention import LevelRetention
from jetmem_schemas.subjects import partition_of
from jetmem_schemas.tenants import OFFERED, Retention

DAY_MS = 86_400_000
SEGMENT, OTHER = "toc:segment:2026-01-15:s1", "toc:segment:2026-01-15:s2"
DAY, WEEK, MONTH, YEAR = "toc:day:2026-01-15", "toc:week:2026-W03", "toc:month:2026-01", "toc:year:2026"
SPACE = nodes_of("acme")
#: On the hour, so that what came then is known to have come within it.
NOON = AT // HOUR_MS * HOUR_MS


@pytest.fixture
def stage(tmp_path):
    made = Stage(FakeStore(FAMILIES), tmp_path)
    yield made
    made.close()


def found(stage, query="cargo", mode="text", target="nodes"):
    vector = stage.vector("x") if mode == "vector" else b""
    return sorted(
        hit.id for hit in stage.finder.find(FindRequest("acme", query, mode, 100, vector, "fake", target=target))
    )


def every_level(came=NOON):
    said = event(1, "cargo", came=came)
    return said, *(
        node(2 + n, id_, "the cargo boat", came=came + 3 * DAY_MS, sources=[(1, 1)])
        for n, id_ in enumerate((SEGMENT, DAY, WEEK, MONTH, YEAR))
    )


def test_the_limit_counts_from_the_arrival():
    assert leaves_at(30, NOON) == NOON + 30 * DAY_MS
    assert leaves_at(0, NOON) is None
    assert leaves_at(30, 0) is None, "of a store made before arrivals were noted"


def test_arrivals_are_known_to_the_hour_also_within_a_batch_and_by_the_next_process():
    store = FakeStore(FAMILIES)
    arrivals, batch = Arrivals(store), store.batch()
    came = {1: NOON, 2: NOON + 1, 3: NOON + HOUR_MS, 4: NOON - 1, 5: NOON - 1, 7: NOON + 9 * HOUR_MS}
    arrivals.note(batch, 3, [event(rseq, "x", came=at) for rseq, at in came.items()])
    expected = {rseq: at // HOUR_MS * HOUR_MS + HOUR_MS for rseq, at in came.items()}
    assert {rseq: arrivals.of(3, rseq) for rseq in came} == expected
    store.write(batch, sync=False)
    assert len(list(store.scan("arrivals", b""))) == 4
    for again in (arrivals, Arrivals(store)):
        batch = store.batch()
        again.note(batch, 3, [event(8, "x", came=NOON + 9 * HOUR_MS)])
        assert not len(batch), "the same hour"
        assert {rseq: again.of(3, rseq) for rseq in came} == expected
        assert again.of(3, 8) == expected[7]
        assert (again.of(3, 0), again.of(4, 7)) == (0, 0), "not noted"


def test_each_level_leaves_in_its_own_time_and_months_and_years_never(stage):
    stage.apply(*every_level())
    stage.embed(SPACE)
    stage.retain("acme", segment=30, day=365, week=1826)
    left = sorted((SEGMENT, DAY, WEEK, MONTH, YEAR))
    for days, leaves in ((0, None), (30, SEGMENT), (365, DAY), (1826, WEEK), (36_500, None)):
        stage.clock.ms = NOON + days * DAY_MS + HOUR_MS - 1
        assert stage.sweep() == 0
        stage.clock.ms += 1
        assert stage.sweep() == bool(leaves), days
        left = [id_ for id_ in left if id_ != leaves]
        assert found(stage, mode="vector") == left
        assert found(stage) == left, "before its words are gone, too"
        stage.indexer.commit()
        assert found(stage) == left
    assert stage.text.words_held(partition_of("acme"), SPACE, "cargo") >= 2
    assert found(stage, target="events") == ["e1"], "it is about nodes alone"
    held = stage.rows.tenant(SPACE)
    assert (held.docs, held.out) == (2, 3)


def test_nothing_leaves_unless_the_tenant_sets_it(stage):
    stage.apply(*every_level(), event(1, "cargo", tenant="zoo", came=NOON), node(2, SEGMENT, "cargo", tenant="zoo"))
    stage.clock.ms += 10_000 * DAY_MS
    stage.retain("zoo", segment=1)
    assert stage.rows.tenant(nodes_of("zoo")).out == 1
    assert len(found(stage)) == 5


def test_what_is_made_again_keeps_its_time_and_what_hears_more_has_a_new_one(stage):
    stage.apply(*every_level())
    stage.retain("acme", segment=30)
    stage.clock.ms = NOON + 40 * DAY_MS
    stage.apply(node(7, SEGMENT, "the zanzibar boat", came=stage.clock.ms, sources=[(1, 1)]))
    assert found(stage, "zanzibar") == [], "nothing new is in it"
    stage.apply(event(8, "late cargo", came=stage.clock.ms))
    stage.apply(node(9, SEGMENT, "the kinshasa boat", came=stage.clock.ms, sources=[(1, 1), (8, 8)]))
    assert found(stage, "kinshasa") == [SEGMENT]
    assert stage.sweep() == 0


def test_pinned_nodes_stay(stage):
    stage.apply(event(1, "cargo"), node(2, SEGMENT, "cargo", pinned=True), node(3, OTHER, "cargo"))
    stage.clock.ms += 400 * DAY_MS
    stage.retain("acme", segment=30)
    assert found(stage) == [SEGMENT]


@pytest.mark.parametrize("later", [{}, {"segment": 365}])
def test_what_left_comes_back_with_its_words_and_vectors(stage, later):
    stage.apply(event(1, "cargo"), node(2, SEGMENT, "cargo alpha"), node(3, OTHER, "cargo beta"))
    stage.embed(SPACE)
    stage.clock.ms += 40 * DAY_MS
    stage.retain("acme", segment=30)
    assert (found(stage), found(stage, mode="vector")) == ([], [])
    assert not list(stage.store.scan("vectors", prefix(SPACE)))
    stage.apply(event(4, "x", came=stage.clock.ms), node(5, DAY, "cargo gamma", sources=[(4, 4)]))
    first = stage.indexer.pieces.first_pending(SPACE)
    assert first.rseq == 5
    stage.retain("acme", **later)
    assert found(stage) == sorted((SEGMENT, OTHER, DAY))
    assert stage.indexer.pieces.first_pending(SPACE).rseq == 2, "what came back is waited for and asked for"
    stage.embed(SPACE)
    assert found(stage, mode="vector") == sorted((SEGMENT, OTHER, DAY))


def test_a_forget_reaches_what_is_out(stage):
    told = node(2, SEGMENT, "cargo zanzibar")
    stage.apply(event(1, "x"), told, node(3, OTHER, "cargo"))
    stage.clock.ms += 40 * DAY_MS
    stage.retain("acme", segment=30)
    stage.apply(forgot(4, [told]))
    assert not [raw for family in FAMILIES for _, raw in stage.store.scan(family, b"") if b"zanzibar" in raw]
    while not stage.indexer.purge_step():
        pass
    stage.indexer.purged()
    stage.retain("acme")
    assert found(stage) == [OTHER]
    assert stage.rows.tenant(SPACE).out == 0


def test_a_sweep_works_in_turns_and_begins_anew_where_it_ended(stage, monkeypatch):
    monkeypatch.setattr(retention, "TURN", 3)
    ids = [f"toc:segment:2026-01-15:s{n}" for n in range(7)]
    stage.apply(event(1, "x"), *(node(2 + n, id_, "cargo") for n, id_ in enumerate(ids)))
    stage.clock.ms += 40 * DAY_MS
    stage.indexer.limits.put({"acme": OFFERED})
    sweep = stage.indexer.sweep
    assert sweep.due([partition_of("acme") + 1]) == [], "another process has it"
    sweep.begin(["acme"])
    assert [sweep.step(), sweep.step()] == [3, 3]
    sweep.begin(sweep.due([partition_of("acme")]))
    assert [sweep.step() for _ in range(4)] == [0, 0, 1, None]
    stage.indexer.limits.put({"acme": Retention()})
    assert sweep.due([]) == ["acme"], "it has nodes out"


def test_a_dry_run_counts_and_changes_nothing(stage, monkeypatch):
    monkeypatch.setattr(retention, "PAGE", 4)
    stage.apply(*every_level(), node(7, OTHER, "pinned", sources=[(1, 1)], pinned=True))
    stage.clock.ms = NOON + 40 * DAY_MS
    stage.retain("acme", segment=30)
    before = {(f, k): v for f in FAMILIES for k, v in stage.store.scan(f, b"")}

    def told(**days):
        rehearsal = Rehearsal(stage.rows, "acme", Retention(**days), stage.clock.ms)
        assert [rehearsal.some(), rehearsal.some()] == [True, False]
        return rehearsal.levels

    arrived = NOON + HOUR_MS
    levels = told(segment=60, day=20, week=1826)
    assert list(levels) == ["year", "month", "week", "day", "segment"]
    assert levels["segment"] == LevelRetention(60, 1, 1, 0, 1, arrived + 60 * DAY_MS)
    assert levels["day"] == LevelRetention(20, 1, 0, 1, 0, None)
    assert levels["week"] == LevelRetention(1826, 1, 0, 0, 0, arrived + 1826 * DAY_MS)
    assert levels["month"] == levels["year"] == LevelRetention(0, 1, 0, 0, 0, None)
    assert told()["segment"] == LevelRetention(0, 1, 1, 0, 1, None)
    assert before == {(f, k): v for f in FAMILIES for k, v in stage.store.scan(f, b"")}


def test_another_log_has_arrivals_of_its_own(stage):
    part = partition_of("acme")
    stage.apply(*every_level())
    stage.indexer.reset(part)
    stage.apply(*every_level(NOON + 3 * DAY_MS))
    assert stage.rows.node(SPACE, SEGMENT).node.arrived == NOON + 3 * DAY_MS + HOUR_MS
    stage.indexer.reset(part)
    stage.apply(event(1, "cargo", came=NOON + 6 * DAY_MS), forgot(2, [], came=NOON + 9 * DAY_MS))
    assert [stage.indexer.arrivals.of(part, rseq) for rseq in (1, 2)] == [
        NOON + days * DAY_MS + HOUR_MS for days in (6, 9)
    ]
