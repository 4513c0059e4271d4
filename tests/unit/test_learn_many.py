"""More procedures and tasks than are held in memory: what is held, what is told of the rest, what is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.learn_record import START, TENANT, Record, Stage
from harness.stores import Touching
from jetmem.domain.procedures.decay import Decayed
from jetmem.domain.procedures.statistics import Statistics
from jetmem.learn import ranks
from jetmem.learn.board import WEIGHED_MAX, Board
from jetmem.learn.boards import Boards
from jetmem.learn.rows import FAMILIES, ProcedureRow, Totals, hashed
from jetmem.runtime import metrics
from jetmem_schemas.events import TS_MAX_MS, TS_MIN_MS

DAY = 86_400_000
MOST = 5


def learnt(record, most=MOST, **more):
    stage = Stage(record, procedures_max=most, **more)
    stage.settle()
    return stage


def listed(stage, **asked):
    return [each.id for each in stage.procedures(sort="name", limit=100, **asked)[0]]


def held(stage):
    return {name for name in stage.boards.get(TENANT).standing(0).names if name}


def test_a_name_for_each_run_drives_out_neither_what_is_used_nor_the_latest():
    record = Record()
    for week in range(4):
        record.ran("weekly", True, ts=START + 7 * week * DAY)
    for n in range(300):
        record.ran(f"plan-{n}", n % 2 == 0, f"task {n}", ts=START + 28 * DAY + n)
    stage = learnt(record)
    assert listed(stage) == ["plan-296", "plan-297", "plan-298", "plan-299", "weekly"]
    board = stage.boards.get(TENANT)
    assert (board.left_out, len(board._row), len(board._names)) == (296, MOST, MOST)
    record.ran("plan-7", True, ts=START + 29 * DAY)
    stage.settle()
    assert listed(stage) == ["plan-297", "plan-298", "plan-299", "plan-7", "weekly"], "run again, it comes back"
    assert len(board._names) <= MOST + 1, "places are given on"


def test_what_is_left_out_answers_to_its_name_and_where_it_was_tried():
    record = Record()
    for n in range(40):
        record.ran(f"plan-{n}", True, f"quite another task {n * 7919}", ts=START + n, id_=f"x{n}")
    few, all_ = learnt(record), learnt(record, 100)
    assert "plan-3" not in held(few)
    for stage in (few, all_):
        found = stage.recommend(f"quite another task {3 * 7919}", k=1)
        (first,) = found.procedures
        assert (first.id, first.why.how, first.why.runs, found.similar[0].run) == ("plan-3", "neighbours", 1, "x3")
        told = stage.predict(f"quite another task {3 * 7919}", "plan-3")
        assert (told.why.runs, told.cold, told.why.neighbours[0].run) == (1, False, "x3")
        assert stage.procedure("plan-3").lift == pytest.approx(40 / 40 / (41 / 42)), "over all runs of the tenant"
        assert stage.predict("anything", "nobody").cold


def test_one_run_wins_no_list():
    record = Record()
    record.ran("lucky", True)
    for n in range(40):
        record.ran("sure", n > 1, f"task {n}")
    stage = learnt(record)
    for sort in ("rate", "lift"):
        found, _ = stage.procedures(sort=sort)
        assert [each.id for each in found] == ["sure", "lucky"] and found[0].lift < found[1].lift


def test_a_board_of_many_reads_what_it_holds():
    record = Record()
    for n in range(200):
        record.ran(f"plan-{n}", True, f"task {n}", ts=START + n)
    store = Touching(FAMILIES)
    stage = Stage(record, store=store, procedures_max=MOST, tasks_max=7)
    stage.settle()
    scanned = []
    scan = store.scan

    def counted(family, prefix, **how):
        for row in scan(family, prefix, **how):
            scanned.append(family)
            yield row

    store.scan = counted
    store.touched.clear()
    boards = Boards(stage.rows, stage.settings)
    board = boards.compared(TENANT)
    boards.close()
    assert (len(board._row), board.tasks, board.complete) == (MOST, 7, True)
    assert store.touched["procedures"] == MOST
    assert store.touched["vectors"] == 7
    assert {family: scanned.count(family) for family in set(scanned)} == {"ranks": MOST + 1, "arrivals": 8}
    newest = np.frombuffer(stage.vector("task 193"), dtype=np.float32)
    assert board.near(newest, 1, 0.99).tasks == [hashed("task 193")]


def test_what_was_defined_and_never_run_gives_way_to_all_that_was_run():
    record = Record()
    for n in range(3):
        record.ran(f"old-{n}", False, ts=START - 3_000 * DAY + n)
    for n in range(9):
        record.defined(f"new-{n}", description="what it is")
    stage = learnt(record)
    assert {name for name in listed(stage) if name.startswith("old")} == {"old-0", "old-1", "old-2"}
    assert len(listed(stage)) == MOST
    stage.boards.observe()
    assert metrics.procedures_left_out._value.get() == 12 - MOST


def test_of_equal_procedures_the_same_are_likeliest_wherever_they_stand():
    found = [(hashed(f"p{n}"), ProcedureRow(f"p{n}", Statistics())) for n in range(3 * WEIGHED_MAX)]
    likeliest = []
    for order in (found, found[::-1]):
        board = Board(9)
        board.open(order, Totals())
        standing = board.standing(START)
        likeliest.append({standing.names[row] for row in standing.likeliest.tolist()})
    assert likeliest[0] == likeliest[1]
    assert len(likeliest[0]) == WEIGHED_MAX


def test_ranks_are_in_order_from_year_1_to_year_9999():
    def place(at_ms, runs):
        return ranks.place_of(b"p", ProcedureRow("p", Statistics(runs=1, decayed_runs=Decayed(runs, at_ms))))

    places = [place(TS_MIN_MS, 5e-324), place(TS_MIN_MS, 1.0), place(START, 1.0), place(START, 2.0)]
    places += [place(START + 31 * DAY, 1.0), place(TS_MAX_MS, 1e300)]
    never = place(TS_MAX_MS, 0.0)
    assert [never, *places] == sorted({never, *places})


def test_of_tasks_that_were_loaded_the_oldest_gives_way_first():
    record = Record()
    for n in range(4):
        record.ran("p", True, f"task {n}")
    stage = learnt(record, tasks_max=3)
    board = stage.boards.compared(TENANT)
    stage.boards.close()
    for n in range(4, 6):
        record.ran("p", True, f"task {n}")
        stage.settle()
        known = [hashed(f"task {each}") for each in range(n + 1)]
        assert list(board.vectors(known)) == known[-3:]


def test_places_that_were_left_are_cleared_away():
    record = Record()
    for n in range(3):
        record.ran(f"p{n}", True, ts=START + n)
    stage = learnt(record)
    board = stage.boards.get(TENANT)
    for n in range(1_000):
        record.ran("once" if n == 500 else "p0", True, ts=START + 10 * n * DAY)
        stage.read()
        assert len(board._least) <= 3 * len(board._row) + 257
    assert len(board._row) == 4


runs = st.tuples(
    st.just("run"), st.integers(0, 14), st.sampled_from([0, 1, 5 * DAY, 40 * DAY, -3 * DAY]), st.booleans()
)
steps = st.lists(
    st.one_of(
        runs, runs, runs, st.tuples(st.just("define"), st.integers(0, 14)),
        st.tuples(st.just("forget"), st.sets(st.integers(0, 12), min_size=1, max_size=6)),
        st.tuples(st.just("ask")), st.tuples(st.just("restart")), st.tuples(st.just("recount")),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(steps)
def test_the_same_are_held_whichever_way_they_came(history):
    record, now = Record(), START
    stage = Stage(record, procedures_max=MOST, at_once=2)
    for n in range(10):
        record.ran(f"p{n}", True, f"task {n % 4}", ts=START + n)
    stage.settle()  # the first vectors put boards away
    stage.boards.get(TENANT)
    for kind, *what in history:
        if kind == "run":
            n, later, success = what
            now += max(0, later)
            record.ran(f"p{n}", success, f"task {n % 4}", ts=now + min(0, later))
        elif kind == "define":
            record.defined(f"p{what[0]}", description="what it is")
        elif kind == "forget":
            known = record.runs()[::-1]  # the latest first: those are on the board
            record.forget({known[n].id for n in what[0] if n < len(known)}, 2)
        elif kind == "ask":
            stage.boards.get(TENANT)
        elif kind == "recount":
            stage.it.recount()
        else:
            stage.open()
        stage.read()
    stage.settle()
    again = learnt(record)
    wanted = [ranks.procedure_of(each) for each in ranks.ranked(again.rows, TENANT)]
    assert {hashed(name) for name in held(stage)} == {hashed(name) for name in held(again)} == set(wanted[:MOST])
    board = stage.boards.get(TENANT)
    assert (board.left_out, board.totals) == (max(0, len(wanted) - MOST), ranks.totals(again.rows, TENANT))
    assert board.totals.procedures == len(wanted)
    for task in ("task 1", "something else"):
        told = [each.recommend(task, k=9) for each in (stage, again)]
        chances = [{each.id: each.probability for each in one.procedures} for one in told]
        assert chances[0] == pytest.approx(chances[1], abs=1e-9), "sums over places, whose order differs"
        assert told[0].similar == told[1].similar
    assert stage.procedures(sort="last") == again.procedures(sort="last")


def test_ranks_are_written_seldom_where_a_procedure_is_run_often():
    record = Record()
    for n in range(1_000):
        record.ran("often", True, ts=START + n * 60_000)
    stage = Stage(record)
    places = set()
    for _ in range(1_000):
        stage.read(1)
        places |= set(ranks.ranked(stage.rows, TENANT))
    assert len(places) < 50
    assert len(stage.held()["ranks"]) == 2
