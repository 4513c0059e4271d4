"""What runs at the very same task, and by the same agent, tell of the next one."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.learn_record import START, TENANT, Record, Stage
from jetmem.domain.procedures import difficulty, prediction, repeats
from jetmem.domain.procedures.kernels import Situations
from jetmem.domain.procedures.prediction import Sample
from jetmem.domain.procedures.repeats import AGENT_RUNS, LEAST, MOST, TASK_RUNS
from jetmem.domain.procedures.run import Ran
from jetmem.learn.board import WEIGHED_MAX
from jetmem.learn.estimating import Learnt
from jetmem.learn.sample import sampled
from jetmem_schemas.procedures import Recommend


def ran(number, procedure, task, agent, success):
    return Ran(
        id=f"r{number}", seq=number + 1, at_ms=START, procedure=procedure, success=success, agent=agent, task=task
    )


def asked(stage, model, task, **fields):
    ask = Recommend(task=task, **fields)
    return stage.answers.recommend(TENANT, ask, stage.vector(task), "", Learnt(model))


def studied(stage):
    async def ask():
        found = await stage.study("model")
        await stage.studies.close()
        return found.found

    return asyncio.run(ask())


def many(rate, count=2_000, seed=1, tasks=40, agents=40):
    """Runs of five procedures, at tasks and by agents in turn by chance; `rate(procedure, task, agent)`."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        which, task, agent = rng.integers(5), rng.integers(tasks), rng.integers(agents)
        success = rng.random() < rate(which, task, agent)
        found.append(ran(number, f"p{which}", f"t{task}", f"a{agent}", bool(success)))
    return found


def test_a_coin_that_is_tossed_again_tells_little_and_what_never_changes_all():
    coin = repeats.worths(many(lambda p, t, a: 0.3 + 0.1 * p))
    assert coin.task > 15 and coin.agent > 15
    fixed = repeats.worths(many(lambda p, t, a: float((t * 7 + p) % 3 == 0)))
    assert fixed.task == LEAST and fixed.agent > 15
    skilled = repeats.worths(many(lambda p, t, a: float(a % 2)))
    assert skilled.agent == LEAST and skilled.task > 15


def test_the_worth_is_that_of_the_beta_binomial_that_made_the_runs():
    rng = np.random.default_rng(5)
    own = rng.beta(0.5 * 4, 0.5 * 4, (400, 5))
    found = repeats.worths(many(lambda p, t, a: own[t, p], count=12_000, tasks=400))
    assert found.task == pytest.approx(4.0, rel=0.25)


def test_an_agent_that_keeps_to_its_tasks_is_not_taken_for_them():
    """Each task is one agent's: of one agent, tasks do not matter."""
    runs = many(lambda p, t, a: 0.85 if t % 10 < 5 else 0.15)
    kept = [ran(n, r.procedure, r.task, f"a{int(r.task[1:]) % 10}", r.success) for n, r in enumerate(runs)]
    assert repeats.worths(runs).task < 3
    assert repeats.worths(kept).task > 15


@pytest.mark.parametrize("runs", [[], [ran(0, "", "t", "a", True)], [ran(0, "p", "t", "a", True)]])
def test_where_nothing_came_again_what_is_believed_stays(runs):
    told = repeats.worths(runs)
    assert (told.task, told.agent) == pytest.approx((TASK_RUNS, AGENT_RUNS))


def test_a_procedure_of_one_task_tells_nothing_of_tasks():
    told = repeats.worths([ran(n, "p", "t", "a", n % 2 == 0) for n in range(100)])
    assert (told.task, told.agent) == pytest.approx((TASK_RUNS, AGENT_RUNS))


@given(st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("tuv"), st.sampled_from("ab"), st.booleans())))
def test_worths_are_bounded_and_the_same_for_every_order(rows):
    runs = [ran(n, *row) for n, row in enumerate(rows)]
    told, turned = repeats.worths(runs), repeats.worths(runs[::-1])
    assert LEAST <= told.task <= MOST and LEAST <= told.agent <= MOST and 0 < told.near <= 1
    assert (turned.task, turned.agent) == pytest.approx((told.task, told.agent))


def test_an_agent_moves_a_chance_by_how_its_runs_differ_from_the_rate():
    chance, rate = np.array([0.5, 0.5, 0.98]), np.array([0.5, 0.5, 0.9])
    told = repeats.with_agent(chance, rate, np.array([0.0, 10.0, 0.0]), np.array([0.0, 10.0, 0.0]), 1.0)
    assert told[0] == 0.5 and told[1] > 0.9 and told[2] == 0.98


def test_what_a_task_owes_to_itself_is_what_a_fit_without_it_lacks():
    rng = np.random.default_rng(3)
    points = rng.standard_normal((30, 4))
    gram = np.exp(-0.5 * np.square(points[:, None] - points[None]).sum(-1))
    group = np.array([n // 3 if n < 9 else n for n in range(30)])  # three of three, the rest alone
    found = difficulty.Ease(np.ones(1), rng.standard_normal(30), rng.uniform(0.5, 3.0, 30))
    noise = 2.0
    smoother = difficulty.Smoother(gram, found)
    with_own, own = gram @ smoother.weights(noise), smoother.own(noise, group)
    for each in (0, 1, 12):
        rest, out = np.flatnonzero(group != group[each]), np.flatnonzero(group == group[each])
        held = difficulty.Ease(found.care, found.raw[rest], found.worth[rest])
        fresh = gram[np.ix_(out, rest)] @ difficulty.Smoother(gram[np.ix_(rest, rest)], held).weights(noise)
        assert np.allclose(with_own[out] - own[out], fresh)


def test_a_model_does_not_answer_from_the_very_task_by_heart():
    """At the one task that went otherwise it says what it would have said before it was tried there."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"task {n} of kind {n % 2}" for n in range(60)]
    runs = np.full((60, 3), 4.0)
    won = np.where((np.arange(60) % 2 == 0)[:, None], 4.0, 1.0) * np.ones((60, 3))
    other = won.copy()
    other[10] = 0.0
    situations = Situations(texts, vectors, [{}] * 60)
    asked = situations.take(np.array([10]))
    fits = [prediction.fit(Sample(situations, each, runs)) for each in (won, other)]
    told = [fit.predict(asked, "factors")[0] for fit in fits]
    assert np.abs(told[0] - told[1]).max() < 0.1


def test_an_answer_follows_what_happened_at_the_very_task_though_rates_do_best_elsewhere():
    record = Record()
    rng = np.random.default_rng(0)
    for n in range(200):
        record.ran("good", bool(rng.random() < 0.95), f"chore {n} number {n * 7}")
        record.ran("bad", bool(rng.random() < 0.4), f"chore {n} number {n * 7}")
    for _ in range(12):
        record.ran("good", False, "rotate the keys")
        record.ran("bad", True, "rotate the keys")
    stage = Stage(record)
    stage.settle()
    model = studied(stage)
    best = asked(stage, model, "rotate the keys").procedures[0]
    assert best.id == "bad" and best.probability > 0.9 and best.why.how == "neighbours"
    assert asked(stage, model, "something else").procedures[0].id == "good"
    assert model.worths.task < 1.0


def _long(number):
    return f"chore {number} number {number * 7} " * 400


def test_a_long_task_is_known_to_a_model_by_the_name_that_it_was_studied_under(monkeypatch):
    """Else what came of it counts twice: in the model, and as runs at the very same task."""
    record = Record()
    for n in range(200):
        record.ran(("good", "bad")[n % 2], n % 2 == 0 or n % 4 == 1, _long(n // 4))
    stage = Stage(record)
    stage.settle()
    model, heard = studied(stage), []

    def predict(it, situations, how=None):
        heard.extend(situations.texts)
        return np.full((1, 2), 0.5)

    monkeypatch.setattr(prediction.Fitted, "predict", predict)
    model.fitted.how = "factors"
    asked(stage, model, _long(7))
    assert set(heard) <= {run.task for run in sampled(stage.rows, TENANT, 1_000).runs}
    assert heard


def test_a_chance_is_of_the_agent_that_asks():
    record = Record()
    for n in range(200):
        record.ran("p", n % 2 == 0 or n % 20 == 1, f"chore {n // 2 % 50}", agent=("strong", "weak")[n % 2])
    stage = Stage(record)
    stage.settle()
    model = studied(stage)
    agents = ("strong", "weak", "new", None)
    strong, weak, new, nobody = (asked(stage, model, "chore", agent=a).procedures[0].probability for a in agents)
    assert strong > 0.9 > 0.2 > weak
    assert new == nobody == pytest.approx(0.55, abs=0.2)


def test_what_was_tried_at_the_very_task_alone_is_weighed_among_many_that_do_better_elsewhere():
    record = Record()
    for n in range(WEIGHED_MAX + 20):
        for success in (True, True, False):
            record.ran(f"fine {n}", success, f"chore {n} number {n * 7}")
    for n in range(5):
        record.ran("seldom", False, f"something else {n}")
    for _ in range(3):
        record.ran("seldom", True, "rotate the keys")
    stage = Stage(record)
    stage.settle()
    assert asked(stage, None, "rotate the keys").procedures[0].id == "seldom"


def test_who_made_all_the_runs_is_told_what_nobody_in_particular_is():
    record = Record()
    for n in range(3):
        record.ran("p", True, f"chore {n}", agent="alice")
    for n in range(20):
        record.ran("q", n % 2 == 0, f"errand {n}", agent="alice")
    stage = Stage(record)
    stage.settle()
    told = [asked(stage, None, "another", agent=agent).procedures for agent in ("alice", None)]
    assert [each.id for each in told[0]] == [each.id for each in told[1]]
    assert [each.probability for each in told[0]] == pytest.approx([each.probability for each in told[1]], abs=1e-6)
