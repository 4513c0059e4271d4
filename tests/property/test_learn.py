"""Whatever is run, forgotten, embedded and killed: the rows are those of the runs that remain."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.learn_record import PART, START, TENANT, Killed, Record, Stage, edges_of
from jetmem.domain.procedures import contagion
from jetmem.domain.procedures.crystals import Rules
from jetmem.domain.procedures.decay import Decayed
from jetmem.learn import study
from jetmem.learn.core import Latest, Tally
from jetmem.learn.rows import FAMILIES, TriedRow, decode_tried, encode_tried, latest_of, sums_of
from jetmem.learn.sample import sampled

DAY = 86_400_000
#: So that a handful of runs crystallise a procedure, and dissolve it.
RULES = Rules(
    runs_min=2, agents_min=1, lower_min=0.1, last=2, last_min=0.5, dissolve_last=3, dissolve_below=0.4, alarm=1.0
)
NAMES = st.sampled_from(["plan", "code", "test", ""])
STEPS = st.lists(st.sampled_from(["read", "edit", "check"]), max_size=4)
TASKS = st.sampled_from(["fix the parser", "fix the lexer", "write a poem", "cook rice"])

runs = st.tuples(
    st.just("run"), NAMES, st.booleans(), TASKS, st.sampled_from(["alice", "bob"]),
    st.sampled_from([0, 0, 500, DAY, -DAY]), st.sampled_from([{}, {"lang": "python"}, {"lang": "c", "os": 1}]),
    STEPS, st.none() | st.floats(0, 1),
)  # fmt: skip
defines = st.tuples(st.just("define"), st.sampled_from(["plan", "code", "spare"]), st.text(max_size=5), STEPS)
does = st.tuples(st.sampled_from(["read", "read", "embed", "restart", "kill", "ask", "recount"]), st.integers(0, 5))
#: So that a forget leaves most procedures to be counted in slices.
AT_ONCE = 2
forgets = st.tuples(
    st.just("forget"), st.sets(st.integers(0, 30), min_size=1, max_size=6), st.sampled_from([1, 2, 500])
)
histories = st.lists(st.one_of(runs, runs, runs, defines, does, forgets), min_size=1, max_size=30)


def play(history):
    record = Record()
    stage = Stage(record, rules=RULES, at_once=AT_ONCE)
    now = START
    for step in history:
        try:
            if step[0] == "run":
                _, name, success, task, agent, later, context, steps, reward = step
                now += max(0, later)
                fields = {"reward": reward} if reward is not None else {}
                record.ran(
                    name, success, task, agent=agent, ts=now + min(0, later), context=context,
                    steps=[{"tool": each} for each in steps], failure="" if success else "timeout", **fields,
                )  # fmt: skip
            elif step[0] == "define":
                record.defined(step[1], description=step[2], steps=[{"tool": each} for each in step[3]])
            elif step[0] == "forget":
                known = record.runs()
                names = {known[n % len(known)].id for n in step[1]} if known else {"nobody"}
                record.forget(names, step[2])
            elif step[0] == "read":
                stage.read(step[1] + 1)
            elif step[0] == "embed":
                stage.embed(step[1] + 1)
            elif step[0] == "recount":
                stage.it.recount()
            elif step[0] == "ask":
                stage.recommend("fix the parser")
            elif step[0] == "kill":
                stage.store.left = step[1]
                stage.read(3)
                stage.embed(2)
                stage.it.recount()
                stage.store.left = None
            else:
                stage.open()
        except Killed:
            stage.open()
    stage.settle()
    return record, stage


def fresh(record):
    """What is learnt at once of what is left."""
    stage = Stage(record, rules=RULES)
    stage.settle()
    return stage


@settings(max_examples=150)
@given(histories)
def test_rows_are_those_of_what_remains(history):
    record, stage = play(history)
    again = fresh(record)
    found, wanted = plain(stage), plain(again)
    for family in FAMILIES:
        assert found.get(family) == wanted.get(family), family


@settings(max_examples=60)
@given(histories)
def test_answers_are_those_of_what_remains(history):
    """Also of what was in memory all along."""
    record, stage = play(history)
    again = fresh(record)
    for task in ("fix the parser", "something else"):
        for context in ({}, {"lang": "python"}):
            told = [each.recommend(task, context=context, agent="bob", k=9) for each in (stage, again)]
            assert msgspec.json.encode(told[0]) == msgspec.json.encode(told[1])
    for sort in ("name", "runs", "rate", "lift", "last"):
        assert stage.procedures(sort=sort) == again.procedures(sort=sort)
    for name in ("plan", "code", "test", "spare"):
        assert msgspec.json.encode(stage.procedure(name)) == msgspec.json.encode(again.procedure(name)), (
            "steps, crystal"
        )


def plain(stage):
    """Rows without the entry that a task came with: of two runs with it, the first may have been forgotten."""
    held = stage.held()
    held["tasks"] = {key: msgspec.msgpack.decode(raw)[:2] for key, raw in held["tasks"].items()}
    held["arrivals"] = set(held["arrivals"].values())
    return held


@settings(max_examples=60)
@given(histories, st.integers(1, 10))
def test_replay_changes_nothing(history, count):
    record, stage = play(history)
    before, boosts = stage.held(), boosted(stage)
    stage.it.apply(PART, record.entries[:count])
    assert stage.held() == before
    assert boosted(stage) == boosts


def boosted(stage):
    return study.related(sampled(stage.rows, TENANT, 1_000), spread=True).boosts


def in_two_orders(said, data, **alike):
    """What is learnt of runs of one moment in the order said and in another; `alike` says more of each by its place.

    One of their procedures is defined before them, and anew after them.
    """
    found = []
    for which in (range(len(said)), data.draw(st.permutations(range(len(said))))):
        record = Record()
        record.defined("plan", steps=[{"tool": "think"}])
        for n in which:
            _, name, success, task, agent, _, context, steps, reward = said[n]
            more = {field: of(n) for field, of in alike.items()}
            record.ran(
                name, success, task, agent=agent, context=context, id_=f"x{n}",
                steps=[{"tool": each} for each in steps], reward=reward, **more,
            )  # fmt: skip
        record.defined("plan", steps=[{"tool": "act"}])
        found.append(fresh(record))
    return found


@settings(max_examples=60)
@given(st.lists(runs, min_size=1, max_size=12), st.data())
def test_order_within_a_time_step_does_not_matter(said, data):
    found = in_two_orders(said, data)
    for task in ("fix the parser", "cook rice"):
        told = [each.recommend(task, context={"lang": "c"}, k=9) for each in found]
        assert [each.id for each in told[0].procedures] == [each.id for each in told[1].procedures]
        chances = [[each.probability for each in one.procedures] for one in told]
        assert chances[0] == pytest.approx(chances[1], abs=1e-9)
        for one, other in zip(told[0].procedures, told[1].procedures, strict=True):
            assert (one.why, one.steps, one.failures) == (other.why, other.steps, other.failures)
    for name in ("plan", "code", "test"):
        first, second = (each.procedure(name) for each in found)
        assert msgspec.json.encode(first) == msgspec.json.encode(second), "counts, crystal, parts"


@settings(max_examples=60)
@given(st.lists(runs, min_size=1, max_size=14), st.data())
def test_order_within_a_time_step_moves_no_relation_boost_pattern_or_insight(said, data):
    """Also of runs of one session in one millisecond, which FOLLOWS takes by id."""
    sessions = data.draw(st.lists(st.sampled_from(["s1", "s2"]), min_size=len(said), max_size=len(said)))
    times = data.draw(st.lists(st.sampled_from([START, START + 1]), min_size=len(said), max_size=len(said)))
    orders = in_two_orders(said, data, session=sessions.__getitem__, ts=times.__getitem__)
    found = [sampled(each.rows, TENANT, 1_000) for each in orders]
    graphs = [study.related(each, spread=True) for each in found]
    for one, other in zip(*(edges_of(each.graph) for each in graphs), strict=True):
        assert (one.source, one.target, one.kind) == (other.source, other.target, other.kind)
        assert one.strength == pytest.approx(other.strength, abs=1e-6)
    boosts = [{name: contagion.value(each, START) for name, each in one.boosts.items()} for one in graphs]
    assert boosts[0] == pytest.approx(boosts[1], abs=1e-6)
    assert all(abs(each) <= contagion.BOOST_MAX for each in boosts[0].values())
    first, second = (
        {
            steps: (row.successes, row.failures, row.agents, row.recent)
            for steps, row in study.recurring(each).rows.items()
        }
        for each in found
    )
    assert first == second
    assert study.told(found[0]) == study.told(found[1])


sums = st.builds(Decayed, st.floats(0, 1e9), st.integers(0, 2**53))
counts = st.integers(0, 2**40)
tallies = st.builds(Tally, counts, counts, counts, sums, sums, counts, counts)
latest = st.builds(Latest, counts, st.text(max_size=5), st.text(max_size=5), st.booleans())
tried_rows = st.builds(
    TriedRow,
    st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
    tallies,
    st.lists(latest, max_size=3).map(tuple),
)


@given(st.lists(tried_rows, max_size=5))
def test_rows_of_what_was_tried_come_back_whole_and_in_parts(rows):
    stored = [encode_tried(row) for row in rows]
    assert [decode_tried(raw) for raw in stored] == rows
    assert [latest_of(raw) for raw in stored] == [row.latest for row in rows]
    held = [(row.tally.decayed_successes, row.tally.decayed_runs) for row in rows]
    assert sums_of(stored).tolist() == [[won.value, won.at_ms, runs.value, runs.at_ms] for won, runs in held]
