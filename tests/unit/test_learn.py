"""learn's answers and what they are made of, without a process."""

import msgspec
import numpy as np
import pytest

from harness.learn_record import MODEL, PART, START, TENANT, Record, Stage
from jetmem.domain.procedures.statistics import Statistics
from jetmem.learn import core, shares, similar
from jetmem.learn.board import WEIGHED_MAX, Board
from jetmem.learn.estimating import Estimates, Learnt
from jetmem.learn.ports import News
from jetmem.learn.rows import ProcedureRow
from jetmem.learn.sample import sampled
from jetmem_schemas.events import Step, rfc3339
from jetmem_schemas.internal import Vector, VectorsReady

DAY = 86_400_000


def learnt(*said, **settings):
    """A stage that has learnt runs of (procedure, success, fields)."""
    record = Record()
    for procedure, success, *more in said:
        record.ran(procedure, success, **(more[0] if more else {}))
    stage = Stage(record, **settings)
    stage.settle()
    return stage


def ids(found):
    return [each.id for each in found.procedures]


def test_the_likelier_procedure_comes_first_and_what_is_new_is_between():
    stage = learnt(*[("good", True)] * 8, *[("bad", False)] * 8, ("new", True, {"task": "something else"}))
    assert ids(stage.recommend("another thing")) == ["good", "new", "bad"]


@pytest.mark.parametrize("how", ["rate", "difficulty", "boosted"])
def test_only_where_nothing_was_tried_at_such_tasks_is_it_cold_whatever_answers(how):
    def estimates(near, same, context):
        one = np.ones(1)
        at = np.zeros(1, dtype=np.intp)
        return Estimates(None, at, one / 2, one, one, one * near, one * same, one * context, {}, {0: how}, {})

    told = [estimates(*runs).cold() for runs in ((0.5, 0, 0), (3, 0, 0), (0.5, 0.5, 0), (0, 0, 3))]
    assert told == [True, False, False, False]


def test_neighbours_outweigh_the_rate():
    stage = learnt(
        *[("words", True, {"task": f"translate the poem number {n}"}) for n in range(6)],
        *[("words", False, {"task": f"compile the kernel module {n}"}) for n in range(6)],
        *[("code", False, {"task": f"translate the poem number {n}"}) for n in range(6)],
        *[("code", True, {"task": f"compile the kernel module {n}"}) for n in range(6)],
    )
    assert ids(stage.recommend("translate the poem number 9")) == ["words", "code"]
    found = stage.recommend("compile the kernel module 9")
    assert ids(found) == ["code", "words"]
    assert found.procedures[0].why.how == "neighbours"
    assert all("kernel" in each.task and each.success for each in found.procedures[0].why.neighbours)


def test_a_context_is_told_from_another():
    said = [
        ("a", lang == "c", {"context": {"lang": lang}, "task": f"{lang}{n}"}) for n in range(9) for lang in ("c", "d")
    ]
    said += [
        ("b", lang == "d", {"context": {"lang": lang}, "task": f"{lang}{n}"}) for n in range(9) for lang in ("c", "d")
    ]
    stage = learnt(*said)
    assert ids(stage.recommend("quite new", context={"lang": "c"})) == ["a", "b"]
    found = stage.recommend("quite new", context={"lang": "d"})
    assert (ids(found), found.cold) == (["b", "a"], False)
    assert (found.procedures[0].why.how, found.procedures[0].why.in_context) == ("context", 9)
    assert stage.recommend("quite new", context={"lang": "e"}).cold


def test_old_runs_fade():
    said = [("old", True, {"ts": START - 200 * DAY}) for _ in range(5)] + [("old", False)] * 5
    stage = learnt(*said, *[("fair", n % 2 == 0, {"task": "x"}) for n in range(10)])
    assert stage.predict("no such thing", "old").probability < stage.predict("no such thing", "fair").probability


def test_nothing_is_known():
    stage = learnt()
    found = stage.recommend("anything")
    assert (found.procedures, found.cold) == ([], True)
    told = stage.predict("anything", "nobody")
    assert (told.probability, told.cold, told.why.how) == (0.5, True, "none")
    assert stage.procedure("nobody") is None
    assert stage.procedures() == ([], False)


def test_exploring_draws_alike_for_the_same_question_and_otherwise_differently():
    stage = learnt(*[(f"p{n}", n % 3 == 0, {"task": f"task {n}"}) for n in range(30)])
    draws = [stage.recommend("new", explore="thompson", seed=seed, k=9) for seed in ("1", "1", "2")]
    assert draws[0] == draws[1] != draws[2]
    assert all(each.drawn is not None for each in draws[0].procedures)
    assert {tuple(ids(stage.recommend("new", explore="thompson", seed=str(n), k=3))) for n in range(9)} != {
        tuple(ids(stage.recommend("new", k=3)))
    }


def test_many_procedures_are_weighed_within_bounds():
    stage = learnt(*[(f"p{n}", n == 7, {"task": f"task {n}"}) for n in range(WEIGHED_MAX + 200)])
    assert ids(stage.recommend("another", k=1)) == ["p7"]
    seldom = f"p{WEIGHED_MAX + 150}"
    near = stage.recommend(f"task {WEIGHED_MAX + 150}", k=100)
    assert near.procedures[0].why.how in ("none", "rate", "neighbours")
    told = stage.predict(f"task {WEIGHED_MAX + 150}", seldom)
    assert told.why.neighbours[0].similarity == pytest.approx(1.0)


def test_the_very_same_task_is_alike_to_one_though_its_vector_is_a_little_off():
    stage = learnt(("p", True, {"task": "mend the build"}), ("p", True, {"task": "paint the fence"}))
    vector = np.frombuffer(stage.vector("mend the build"), dtype=np.float32)
    off = vector + 0.1 * np.frombuffer(stage.vector("paint the fence"), dtype=np.float32)
    told = stage.recommend("mend the build", vector=(off / np.linalg.norm(off)).astype(np.float32).tobytes())
    assert (told.similar[0].task, told.similar[0].similarity) == ("mend the build", 1.0)


def test_a_definition_is_known_before_anybody_ran_it_and_its_newest_version_counts():
    record = Record()
    first = record.defined("plan", description="one", steps=[{"tool": "think"}], version=1)
    record.defined("plan", description="two", steps=[{"tool": "think"}, {"tool": "act"}], version="2b")
    stage = Stage(record)
    stage.settle()
    detail = stage.procedure("plan")
    assert (detail.description, detail.version, detail.steps, detail.runs) == ("two", "2b", ["think", "act"], 0)
    assert stage.recommend("x").procedures[0].why.how == "none"
    record.forget({record.entries[1].id})
    stage.settle()
    assert stage.procedure("plan").description == "one"
    record.forget({first.id})
    stage.settle()
    assert (stage.procedure("plan"), stage.procedures()) == (None, ([], False))


def test_agents_and_contexts_are_told_as_the_whole_is():
    record = Record()
    for n in range(12):
        mine = {"agent": "alice", "context": {"lang": "c"}, "duration_ms": 100.0, "cost": 0.5, "reward": 0.25}
        record.ran("p", n % 4 > 0, f"t{n}", ts=START + n, failure="" if n % 4 else "leak", lessons=["free it"], **mine)
    record.ran("p", True, "late", agent="bob", context={"lang": "c"}, ts=START - 40 * DAY, duration_ms=9_000.0)
    stage = Stage(record)
    stage.settle()
    stage.clock.now += 30 * 86_400
    detail = stage.procedure("p")
    alice, bob = detail.by_agent
    assert (alice.of, alice.runs, alice.successes, alice.latest, alice.agents) == ("alice", 12, 9, 12, 1)
    assert (alice.decayed_runs, alice.decayed_successes) == (pytest.approx(6), pytest.approx(4.5))
    assert alice.posterior.low < 0.75 < alice.posterior.high
    assert (alice.first, alice.last) == (rfc3339(START), rfc3339(START + 11))
    assert alice.recent == [True, True, False, True, True, True, False, True, True, True]
    assert alice.consistency == pytest.approx(0.8)
    assert (alice.duration_ms.p50, alice.cost.p90, alice.reward.p50) == (
        pytest.approx(100, rel=0.02), pytest.approx(0.5, rel=0.02), pytest.approx(0.25, rel=0.02),
    )  # fmt: skip
    assert [(each.text, each.runs) for each in alice.failures + alice.lessons] == [("leak", 3), ("free it", 12)]
    assert (bob.runs, bob.first, bob.cost, bob.failures) == (1, rfc3339(START - 40 * DAY), None, [])
    (there,) = detail.by_context
    assert (there.of, there.runs, there.agents, there.first) == ("lang=c", 13, 2, bob.first)
    assert there.duration_ms.p90 < 9_000 < 2 * bob.duration_ms.p50


def test_a_part_whose_runs_are_of_the_very_beginning_of_time_says_so():
    record = Record()
    record.ran("p", True, ts=0)
    stage = Stage(record)
    stage.settle()
    (alice,) = stage.procedure("p").by_agent
    assert (alice.first, alice.last) == (rfc3339(0), rfc3339(0)) == (stage.procedure("p").first,) * 2


def test_parts_are_bounded_and_those_of_most_runs_come_first(monkeypatch):
    record = Record()
    for n in range(30):
        for _ in range(1 + n % 3):
            record.ran("p", True, "t", agent=f"a{n}")
    stage = Stage(record)
    stage.settle()
    found = stage.procedure("p").by_agent
    assert len(found) == shares.SHARES
    assert [each.runs for each in found] == [3] * 10 + [2] * 10
    monkeypatch.setattr(shares, "LATEST_READ_MAX", 4)
    few = stage.procedure("p").by_agent
    assert [each.runs for each in few] == [each.runs for each in found], "counts are of all runs"
    assert sum(each.latest for each in few) <= 4
    unseen = [each for each in few if not each.latest]
    assert unseen
    for each in unseen:  # nothing is known of its last runs: that is no 0
        assert (each.consistency, each.agents, each.duration_ms) == (None, None, None)
        assert {"consistency", "agents", "recent"}.isdisjoint(msgspec.to_builtins(each))


def test_runs_without_a_procedure_are_kept_apart():
    stage = learnt(("", True), ("named", True))
    assert [each.id for each in stage.procedures()[0]] == ["named"]
    stage.record.forget({"r1"})
    stage.settle()
    assert stage.procedures()[0][0].runs == 1


def worded(stage):
    return Learnt(words=similar.worded(*similar.told(sampled(stage.rows, TENANT, 1_000)), str.split))


def ask(stage, task, *, vector=True, **learnt):
    return stage.recommend(task, vector=None if vector else b"", learnt=Learnt(**learnt))


def test_without_a_vector_words_tell_what_works():
    record = Record()
    for n in range(4):
        record.ran("sql", True, f"count all singers in table {n}", id_=f"s{n}")
        record.ran("sql", False, f"write a verse about love {n}", id_=f"v{n}")
        record.ran("muse", True, f"write a verse about love {n}", id_=f"m{n}")
        record.ran("muse", False, f"count all singers in table {n}", id_=f"c{n}")
    stage = Stage(record)
    stage.settle()
    words = worded(stage).words
    blind = ask(stage, "count all the singers in one table", vector=False)
    assert blind.cold and not blind.similar, "nothing to go by but rates"
    told = ask(stage, "count all the singers in one table", vector=False, words=words)
    first = told.procedures[0]
    assert (first.id, first.why.how, told.cold) == ("sql", "neighbours", False)
    assert {each.run for each in first.why.neighbours} <= {f"s{n}" for n in range(4)}
    assert {each.run[0] for each in told.similar} == {"s"}
    assert all(0 < each.similarity < 1 for each in told.similar)
    assert ask(stage, "a verse on love", vector=False, words=words).procedures[0].id == "muse"


def test_a_task_whose_vector_lacks_is_found_by_its_words():
    record = Record()
    record.ran("sql", True, "count all singers in the table", id_="old")
    stage = Stage(record)
    stage.read()
    words = worded(stage).words
    assert [each.run for each in ask(stage, "count singers", words=words).similar] == ["old"]
    assert ask(stage, "a poem please", words=words).similar == []
    stage.settle()
    assert ask(stage, "unlike", words=worded(stage).words).similar == [], "by vectors now"
    assert worded(Stage(Record())).words is None


def test_evidence_is_of_many_tasks_the_most_alike_first():
    record = Record()
    for n in range(9):
        for again in range(3):
            record.ran(
                "p", again < 2, f"deploy the shop to staging area {n}", id_=f"{n}.{again}", ts=START + n * 10 + again
            )
    record.ran("q", False, "deploy the shop to staging area 4", id_="q", ts=START + 900)
    stage = Stage(record)
    stage.settle()
    task = "deploy the shop to staging area 4"
    told = ask(stage, task, words=worded(stage).words)
    assert [each.run for each in told.similar][0] == "4.1", "the latest that succeeded"
    assert [each.procedure for each in told.similar][0] == "p"
    assert len({each.task for each in told.similar}) == len(told.similar) == 8
    shown = {each.id: each.why.neighbours for each in told.procedures}
    assert shown["p"][0].run == "4.2", "the latest"
    assert len({each.task for each in shown["p"]}) == len(shown["p"]) == 5
    assert [(each.run, each.procedure) for each in shown["q"]] == [("q", "")]
    few = Record()
    for again in range(3):
        few.ran("p", True, "one task", id_=f"{again}", ts=START + again)
    stage = Stage(few)
    stage.settle()
    assert [each.run for each in ask(stage, "one task").procedures[0].why.neighbours] == ["2", "1", "0"]


def test_a_task_is_embedded_once_and_goes_with_its_last_run():
    record = Record()
    for n in range(5):
        record.ran("p", True, "the same task  ", id_=f"x{n}")
    record.ran("p", True, "another", id_="y")
    stage = Stage(record)
    stage.read()
    assert stage.lacking.pending == {TENANT: 2}
    assert stage.embed() == 2
    assert stage.lacking.pending == {}
    record.forget({"x0", "x1", "x2", "x3"})
    stage.settle()
    assert len(stage.held()["vectors"]) == 2
    record.forget({"x4"})
    stage.settle()
    assert len(stage.held()["vectors"]) == len(stage.held()["tasks"]) == 1
    assert b"the same task" not in b"".join(stage.held()["tasks"].values())


def test_another_model_asks_for_every_vector_again():
    stage = learnt(("p", True, {"task": "a"}), ("p", True, {"task": "b"}))
    stage.record.ran("p", True, "c")
    stage.read()
    assert stage.embed(model="other") is None, "ours was heard of a moment ago"
    stage.clock.now += 3600
    assert stage.embed(model="other") == 1
    assert stage.rows.model() == "other"
    assert stage.lacking.pending == {TENANT: 2}
    stage.embed(model="other")
    assert stage.lacking.pending == {}
    assert stage.recommend("a").procedures[0].why.neighbours


@pytest.mark.parametrize("data", [b"", b"abc", b"\0" * 8, np.full(32, np.nan, np.float32).tobytes()])
def test_what_is_no_vector_is_not_waited_for(data):
    stage = learnt(("p", True, {"task": "a"}))
    stage.record.ran("q", True, "b")
    stage.read()
    ((_, key),) = stage.lacking.lacking(TENANT, b"")
    assert stage.lacking.store(VectorsReady(TENANT, MODEL, [Vector(key, data, "why")])) == 1
    assert stage.lacking.pending == {}
    assert {each.id for each in stage.recommend("b").procedures} == {"p", "q"}


def test_a_board_keeps_the_newest_tasks_and_gives_places_on():
    board = Board(3)
    for n in range(5):
        vector = np.zeros(4, np.float32)
        vector[n % 4] = 1.0
        board.take(News(tasks={bytes([n]): vector.tobytes()}))
    assert board.tasks == 3
    found = board.near(np.ones(4, np.float32), 9, 0.1)
    assert sorted(found.tasks) == [b"\2", b"\3", b"\4"]
    board.take(News(tasks={b"\3": None}))
    assert sorted(board.near(np.ones(4, np.float32), 9, 0.1).tasks) == [b"\2", b"\4"]
    assert len(board.near(np.array([0, 0, 0.2, 1], np.float32), 1, 0.1).tasks) == 1, "what is gone stands for none"
    board.take(
        News(procedures={b"a": ProcedureRow("a", Statistics(runs=2)), b"b": ProcedureRow("b", Statistics(runs=1))})
    )
    board.take(News(procedures={b"a": None}))
    board.take(News(procedures={b"c": ProcedureRow("c", Statistics(runs=4))}))
    standing = board.standing(0)
    assert sorted(zip(standing.names, standing.all_runs, strict=True)) == [("b", 1.0), ("c", 4.0)]
    assert board.near(np.ones(7, np.float32), 3, 0.1).tasks == [], "of another model"


def test_boards_are_put_away_when_they_are_too_much():
    record = Record()
    for tenant in ("acme", "zoo"):
        record.ran("p", True, "a task", tenant=tenant)
    stage = Stage(record, board_bytes_max=1_000_000)
    stage.read()
    first = stage.boards.get("acme")
    assert stage.boards.get("acme") is first
    first.take(
        News(procedures={bytes([n // 256, n % 256]): ProcedureRow(f"q{n}", Statistics(runs=1)) for n in range(4_000)})
    )
    stage.boards.get("zoo")
    assert stage.boards.get("acme") is not first


def test_the_board_asked_for_last_stays_and_those_before_by_when_they_were():
    record = Record()
    for tenant in ("a", "b", "c"):
        record.ran("p", True, "a task", tenant=tenant)
    stage = Stage(record, board_bytes_max=1)
    stage.read()
    alone = stage.boards.get("a")
    assert stage.boards.get("a") is alone, "too much for all, and all there is"
    two = Stage(record, store=stage.store, board_bytes_max=int(2.5 * alone.size)).boards
    boards = {tenant: two.get(tenant) for tenant in ("a", "b", "a", "c")}
    assert two.get("a") is boards["a"] and two.get("c") is boards["c"]
    assert two.get("b") is not boards["b"]


def test_what_is_written_while_a_board_is_loaded_is_in_it():
    stage = learnt(("p", True))
    seen = []

    class Slow(type(stage.rows)):
        def procedures(self, tenant):
            found = list(super().procedures(tenant))
            stage.record.ran("late", True)
            stage.read()
            seen.append(tenant)
            return iter(found)

    stage.rows.__class__ = Slow
    assert "late" in ids(stage.recommend("fix it"))
    assert seen == [TENANT]


def test_a_context_is_compared_by_words_and_names_in_order():
    told = core.context_of({"z": True, "a": 3, "m": None, "b": "x" * 300})
    assert list(told.items()) == [("a", "3"), ("b", "x" * 128), ("m", "null"), ("z", "true")]
    assert len(core.context_of({f"k{n:02}": n for n in range(64)})) == core.CONTEXT_MAX
    assert core.steps_of([Step(tool="a" * 300), Step(), Step(tool="b")]) == ("a" * 64, "b")


def test_a_forget_of_one_run_among_many_in_memory_and_store():
    stage = learnt(*[("p", n % 2 == 0, {"id_": f"x{n}", "failure": "boom" if n == 3 else "slow"}) for n in range(9)])
    assert {each.text for each in stage.recommend("fix it").procedures[0].failures} == {"boom", "slow"}
    stage.record.forget({"x3", "x4"}, at_once=1)
    stage.read()
    found = stage.recommend("fix it").procedures[0]
    assert (found.why.runs, found.why.successes, [each.text for each in found.failures]) == (7, 4, ["slow"])
    assert stage.it.erased == {TENANT: stage.it.at[PART].rseq}
    stage.it.purged(dict(stage.it.erased))
    assert stage.it.erased == {}


def test_a_partition_that_begins_again_is_empty():
    stage = learnt(("p", True), ("q", False))
    stage.it.reset(PART)
    assert all(not rows for rows in stage.held().values())
    assert (stage.recommend("x").procedures, stage.it.erased) == ([], {TENANT: 0})
    stage.settle()
    assert ids(stage.recommend("x")) == ["p", "q"]


def test_replies_are_messages():
    stage = learnt(("p", True, {"duration_ms": 5, "cost": 0.1, "lessons": ["careful"]}))
    for reply in (stage.recommend("fix it"), stage.predict("fix it", "p"), stage.procedure("p"), stage.procedures()):
        assert msgspec.json.encode(reply)
