"""What a forget leaves to be counted anew, in turns of the writer."""

import asyncio

import pytest

from harness.learn_record import PART, TENANT, Killed, Record, Stage
from jetmem.learn import handler, recounting
from jetmem.learn.exporting import Exports
from jetmem.learn.fresh import Fresh
from jetmem.learn.rows import hashed
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import Head
from jetmem_schemas.sharing import ExportRequest

RUNS = 20


def stage_of(count=RUNS, at_once=3):
    record = Record()
    for n in range(count):
        record.ran("huge", n % 2 == 0, f"task {n % 4}", id_=f"x{n}", failure=f"broke {n}", context={"lang": "c"})
    record.ran("small", True, id_="y")
    stage = Stage(record, at_once=at_once)
    stage.settle()
    return stage


def begun(turns):
    """A run is forgotten, and the others are counted anew for so many turns."""
    stage = stage_of()
    stage.record.forget({"x3"})
    stage.read()
    for _ in range(turns):
        stage.it.recount()
    return stage


def rows(stage):
    return {family: held for family, held in stage.held().items() if family not in ("tasks", "arrivals")}


def same_as_learnt_at_once(stage):
    again = Stage(stage.record)
    again.settle()
    return rows(stage) == rows(again)


def test_rows_stay_until_all_that_remains_is_counted_and_nobody_is_told_it_is_done():
    stage = stage_of()
    fresh, last = Fresh(stage.it), stage.it.at[PART]
    fresh.applied(PART)
    before = stage.rows.procedure(TENANT, hashed("huge"))
    stage.record.forget({"x3", "y"})
    stage.read()
    fresh.applied(PART)
    turns = 0
    while stage.it.recounts.waiting(TENANT):
        assert stage.rows.procedure(TENANT, hashed("huge")) == before
        assert fresh.runs(PART, TENANT) == fresh.passed(PART) == fresh.tasks(PART, TENANT) == last
        assert fresh.runs(PART, "zoo") == stage.it.at[PART], "others are not concerned"
        assert stage.it.purgeable() == {}
        stage.it.recount()
        turns += 1
    assert turns > RUNS / 3
    assert fresh.runs(PART, TENANT) == fresh.passed(PART) == stage.it.at[PART]
    assert stage.it.purgeable() == {TENANT: stage.it.at[PART].rseq}
    assert (stage.procedure("huge").runs, stage.procedure("small")) == (RUNS - 1, None)
    assert same_as_learnt_at_once(stage)


def test_what_comes_meanwhile_is_counted_and_a_second_forget_begins_again():
    stage = begun(1)
    stage.record.ran("huge", True, "task 1", id_="late")
    stage.record.defined("huge", description="new")
    stage.read()
    stage.it.recount()
    stage.record.forget({"x1", "x17", "late"}, at_once=2)
    stage.read()
    assert stage.it.recounts.since(TENANT) == RUNS + 2, "the first forget"
    stage.settle()
    assert (stage.procedure("huge").runs, stage.procedure("huge").description) == (RUNS - 3, "new")
    assert same_as_learnt_at_once(stage)


@pytest.mark.parametrize("writes", range(4))
def test_a_process_that_dies_begins_again(writes):
    stage = stage_of()
    stage.record.forget({"x2", "x3"}, at_once=1)
    stage.store.left = writes
    try:
        stage.read()
        while stage.it.recounts.waiting():
            stage.it.recount()
    except Killed:
        pass
    stage.store.left = None
    stage.open()
    stage.settle()
    assert same_as_learnt_at_once(stage)


def test_a_procedure_of_which_everything_goes():
    stage = stage_of()
    stage.record.forget({f"x{n}" for n in range(RUNS)}, at_once=4)
    stage.settle()
    assert stage.procedure("huge") is None
    assert same_as_learnt_at_once(stage)
    assert not stage.held()["recounts"]


def test_studies_made_with_the_rows_as_they_were_are_void_when_those_are_replaced():
    stage = begun(0)
    told = []
    stage.boards.tell = lambda tenant, news: told.append((tenant, news.erased, len(news.procedures)))
    stage.settle()
    assert told == [(TENANT, True, 1)]


def test_a_partition_that_begins_again_has_nothing_to_count():
    stage = begun(0)
    assert stage.it.recounts.waiting() == 1
    stage.it.reset(PART)
    assert (stage.it.recounts.waiting(), stage.it.recounts.since(TENANT)) == (0, None)
    assert Fresh(stage.it).runs(PART, TENANT) == Head()


def test_the_first_forget_that_is_not_done_with_is_told_of_several_procedures_also_after_a_restart():
    stage = stage_of()
    for n in range(RUNS):
        stage.record.ran("more", True, id_=f"m{n}")
    stage.settle()
    stage.record.forget({"x3"})
    stage.read()
    first = stage.it.at[PART].rseq
    stage.record.forget({"m3"})
    stage.read()
    assert stage.it.recounts.waiting(TENANT) == 2
    assert stage.it.recounts.since(TENANT) == first
    stage.it.recount()
    assert stage.it.recounts.since(TENANT) == first
    stage.open()
    assert (stage.it.recounts.waiting(TENANT), stage.it.recounts.since(TENANT)) == (2, first)


def test_two_passes_that_would_end_in_one_turn_take_two():
    """The second reads what the first wrote."""
    stage = begun(1)
    stage.record.forget({"x1"})
    stage.read()
    stage.it.recounts.at_once = 1_000
    stage.it.recount()
    assert stage.it.recounts.waiting() == 1
    stage.it.recount()
    assert stage.it.recounts.waiting() == 0
    assert same_as_learnt_at_once(stage)


def test_what_is_being_counted_is_not_counted_at_once_beside():
    """The pass under way would bring back what the other left out."""
    stage = begun(1)
    stage.it.recounts.at_once = 1_000
    stage.record.forget({"x1"})
    stage.read()
    assert stage.it.recounts.waiting() == 1
    stage.settle()
    assert same_as_learnt_at_once(stage)


def test_a_forget_counts_so_many_runs_at_once_over_all_procedures():
    stage = stage_of(0, at_once=3)
    for n in range(12):
        stage.record.ran(f"p{n % 4}", True, id_=f"x{n}")
    stage.settle()
    stage.record.forget({f"x{n}" for n in range(4)})
    stage.read()
    assert stage.it.recounts.waiting(TENANT) == 3
    stage.settle()
    assert same_as_learnt_at_once(stage)


def test_a_forget_of_what_is_not_counted_yet_and_of_rows_that_are_not_made_begins_a_second_pass():
    stage = stage_of()
    for n in range(2):
        stage.record.ran("huge", True, "another", id_=f"b{n}", agent="bob", context={"os": "bsd"})
    stage.settle()
    stage.record.forget({"x3"})
    stage.read()
    stage.it.recount()
    stage.record.forget({"b0"})
    stage.settle()
    assert same_as_learnt_at_once(stage)


def test_what_only_erased_runs_had_tried_is_gone_before_anything_is_counted():
    stage = stage_of()
    stage.record.ran("huge", True, "only once", id_="lone")
    stage.settle()
    before = len(stage.held()["tried"])
    stage.record.forget({"lone"})
    stage.read()
    assert stage.it.recounts.waiting() == 1
    assert len(stage.held()["tried"]) == before - 1


@pytest.mark.parametrize("counted", [True, False])
def test_a_forget_of_what_is_not_counted_yet_takes_no_time_again(counted):
    stage = begun(3)
    stage.record.forget({"x7" if counted else "x19"})
    stage.read()
    turns = 0
    while stage.it.recounts.waiting():
        stage.it.recount()
        turns += 1
    assert (turns > RUNS / 3 - 1) is counted
    assert stage.procedure("huge").runs == RUNS - 2
    assert same_as_learnt_at_once(stage)


def test_who_forgets_again_and_again_does_not_hold_up_others():
    stage = stage_of()
    for n in range(RUNS):
        stage.record.ran("theirs", True, tenant="zoo", id_=f"z{n}")
    stage.settle()
    stage.record.forget({"x0"})
    stage.record.forget({"z0"}, tenant="zoo")
    stage.read()
    for n in range(1, RUNS - 5):
        stage.it.recount()
        stage.record.forget({f"x{n}"})
        stage.read()
    assert stage.it.recounts.waiting(TENANT)
    assert not stage.it.recounts.waiting("zoo")
    assert stage.rows.procedure("zoo", hashed("theirs")).counts.runs == RUNS - 1


def test_who_forgets_what_is_counted_faster_than_it_is_counted_is_behind_by_two_passes_at_most():
    """Each turn of the writer brings a forget of one of the oldest runs that are left."""
    runs, at_once = 60, 3
    stage = stage_of(runs, at_once)
    per_pass = runs // at_once + 1
    forgot: list[int] = []
    for n in range(3 * per_pass - 8):
        stage.record.forget({f"x{n}"})
        stage.read()
        forgot.append(stage.it.at[PART].rseq)
        stage.it.recount()
        waits = stage.it.recounts.since(TENANT)
        behind = sum(rseq >= waits for rseq in forgot) if waits is not None else 0
        assert behind <= 2 * per_pass, n
        counted = stage.rows.procedure(TENANT, hashed("huge")).counts.runs
        assert counted <= runs - (len(forgot) - behind), "what is done with is out of the counts"
    assert behind < len(forgot), "passes ended meanwhile"
    stage.open()
    stage.settle()
    assert same_as_learnt_at_once(stage)


def test_what_a_pass_counted_and_what_it_makes_is_made_again_by_the_next():
    """A row that the second forget empties is not brought back by the pass that the first began."""
    stage = stage_of()
    stage.record.ran("huge", True, "only once", id_="lone", context={"lang": "c", "run": "1"})
    stage.record.ran("huge", True, "only once", id_="twin", context={"lang": "c", "run": "1"})
    stage.settle()
    stage.record.forget({"x0", "twin"})
    stage.read()
    for _ in range(4):
        stage.it.recount()
    stage.record.forget({"x1", "lone"})
    stage.read()
    assert len(stage.held()["recounts"]) > 4, "two passes are noted"
    stage.settle()
    assert stage.procedure("huge").runs == RUNS - 2
    assert same_as_learnt_at_once(stage)


def test_a_forget_of_much_is_so_many_entries_a_write(monkeypatch):
    monkeypatch.setattr(handler, "_FORGOT_AT_ONCE", 2)
    stage = stage_of()
    stage.record.forget({f"x{n}" for n in range(RUNS)} - {"x7"}, at_once=3)
    read: list[int] = []
    runs_at = stage.rows.runs_at
    stage.rows.runs_at = lambda tenant, procedure, rseqs: read.append(len(rseqs)) or runs_at(tenant, procedure, rseqs)
    stage.settle()
    assert read == [6, 6, 6, 1]
    assert stage.procedure("huge").runs == 1
    assert same_as_learnt_at_once(stage)


def test_rows_are_made_so_many_a_pass_and_procedures_counted_so_many_at_once(monkeypatch):
    monkeypatch.setattr(recounting, "TOUCHED_MAX", 3)
    monkeypatch.setattr(recounting, "ACTIVE_MAX", 2)
    stage = stage_of()
    for n in range(5 * RUNS):
        stage.record.ran(f"p{n % 5}", n % 2 == 0, f"task {n % 7}", id_=f"p{n}", context={"run": str(n)})
    stage.settle()
    stage.record.forget({f"x{n}" for n in range(9)} | {f"p{n}" for n in range(30)})
    stage.read()
    most = 0
    while stage.it.recounts.waiting():
        stage.it.recount()
        works = list(stage.it.recounts._works.values())
        most = max(most, sum(work.left is not None for work in works))
        assert all(len(work.notes) <= 3 for work in works)
    assert most == 2
    assert same_as_learnt_at_once(stage)


def test_of_a_procedure_of_which_everything_goes_no_row_stays_that_a_later_pass_makes(monkeypatch):
    """The first pass erases the procedure, what it was run in is more than one pass takes."""
    monkeypatch.setattr(recounting, "TOUCHED_MAX", 3)
    stage = stage_of()
    for n in range(RUNS):
        stage.record.ran("wide", True, f"task {n % 4}", id_=f"w{n}", context={"customer": f"secret {n}"})
    stage.settle()
    stage.record.forget({f"w{n}" for n in range(RUNS)})
    stage.settle()
    assert same_as_learnt_at_once(stage)
    assert not any(b"secret" in raw for held in stage.held().values() for raw in held.values())


class Process:
    """Threads of a process, one after the other; `meanwhile` comes between the reader's work and the writer's."""

    def __init__(self, meanwhile):
        self.meanwhile = meanwhile

    def part_of(self, tenant):
        return PART

    async def in_reader(self, work):
        work()
        self.meanwhile()

    async def in_writer(self, work):
        return work()


def test_counts_that_hold_what_a_forget_erased_are_not_exported():
    stage = stage_of()

    def forgotten():
        stage.record.forget({"x3"})
        stage.read()

    def export(meanwhile):
        at, since = stage.it.at.__getitem__, stage.it.recounts.since
        exports = Exports(Process(meanwhile), stage.rows, stage.boards, at, lambda tenant: since(tenant) is not None)
        return asyncio.run(exports.answer(PART, ExportRequest(TENANT, "us")))

    assert export(lambda: None).procedures == [("huge", RUNS, RUNS / 2), ("small", 1, 1)]
    with pytest.raises(RequestFailed, match="counted anew"):
        export(forgotten)
    stage.settle()
    assert export(lambda: None).procedures == [("huge", RUNS - 1, RUNS / 2), ("small", 1, 1)]
