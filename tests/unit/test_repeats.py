"""What runs at the very same task, and by the same agent, tell of the next one."""

import asyncio
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.learn_record import START, TENANT, Record, Stage
from jetmem.domain.procedures import difficulty, prediction, repeats
from jetmem.domain.procedures.kernels import Kernel, Situations
from jetmem.domain.procedures.prediction import Sample
from jetmem.domain.procedures.repeats import AGENT_RUNS, BELIEVED, LEAST, MOST, TASK_RUNS, Worths
from jetmem.domain.procedures.run import Ran
from jetmem.learn.board import WEIGHED_MAX
from jetmem.learn.estimating import Learnt
from jetmem.learn.sample import sampled
from jetmem.learn.study import Model


def ran(number, procedure, task, agent, success):
    return Ran(
        id=f"r{number}", seq=number + 1, at_ms=START, procedure=procedure, success=success, agent=agent, task=task
    )


def asked(stage, model, task, **fields):
    return stage.recommend(task, learnt=Learnt(model), **fields)


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


def one_by_one(runs, alike, other, believed):
    """The worth of what is alike in every two runs of a procedure, with the other alike and with it apart."""
    within, between, noise = BELIEVED / 2 * believed / (1 + believed), BELIEVED / 2, 0.0
    for name in {run.procedure for run in runs} - {""}:
        its = [run for run in runs if run.procedure == name]
        again = len(its) - len({getattr(run, alike) for run in its})
        pairs = {(same, with_other): [] for same in (True, False) for with_other in (True, False)}
        for one, two in combinations(its, 2):
            cell = tuple(getattr(one, what) == getattr(two, what) for what in (alike, other))
            pairs[cell].append(one.success != two.success)
        every = sum(len(pairs[True, with_other]) for with_other in (True, False))
        for with_other in (True, False):
            same, apart = pairs[True, with_other], pairs[False, with_other]
            if same and apart:
                within += again * len(same) / every * np.mean(same)
                between += again * len(same) / every * np.mean(apart)
                noise += (again * len(same) / every * np.mean(apart)) ** 2 / len(same)
    rho, error = 1 - within / between, np.sqrt(noise) / between
    if error:  # every one from 0 up, by how likely it is
        rhos = np.linspace(0, max(0, rho) + 12 * error, 200_001)
        often = np.exp(-(((rhos - rho) / error) ** 2 - min(0, rho / error) ** 2) / 2)
        rho = (rhos * often).sum() / often.sum()
    return MOST if rho <= 0 else min(MOST, max(LEAST, (1 - rho) / rho))


@given(
    st.lists(st.tuples(st.sampled_from(["p", "q", ""]), st.sampled_from("tuvw"), st.sampled_from("abc"), st.booleans()))
)
def test_worths_are_those_of_every_two_runs_looked_at_one_by_one(rows):
    runs = [ran(n, *row) for n, row in enumerate(rows)]
    told = repeats.worths(runs)
    assert told.task == pytest.approx(one_by_one(runs, "task", "agent", TASK_RUNS), rel=1e-3)
    assert told.agent == pytest.approx(one_by_one(runs, "agent", "task", AGENT_RUNS), rel=1e-3)


def test_what_agents_are_worth_is_told_where_no_task_comes_again():
    told = repeats.worths(many(lambda p, t, a: float(a % 2), tasks=10**9))
    assert told.agent == LEAST and told.task == TASK_RUNS


def test_an_agent_that_repeats_its_tasks_is_not_taken_for_better():
    """Tasks always come out alike, and whoever runs one runs it often: agents do not matter."""
    runs = many(lambda p, t, a: float(t * 7 % 5 < 2), agents=3)
    own = [f"t{(int(r.agent[1:]) * 11 + int(r.task[1:]) % 3 * 13) % 40}" for r in runs]
    runs = [
        ran(n, r.procedure, t, r.agent, int(t[1:]) * 7 % 5 < 2) for n, (r, t) in enumerate(zip(runs, own, strict=True))
    ]
    assert repeats.worths(runs).task == LEAST


def test_the_worth_of_coins_ends_at_the_most():
    """Every second pair disagrees, at one task as elsewhere: the more of them, the surer that tasks do not matter."""
    pairs = [ran(n, "p", f"t{n // 2}", f"a{n}", n % 8 in (0, 2, 3, 4)) for n in range(100_000)]
    few, some, many_ = (repeats.worths(pairs[:count]).task for count in (80, 400, 100_000))
    assert few < 10 < some < 20 and many_ == MOST


def test_a_few_pairs_that_disagree_do_not_prove_that_nothing_stays():
    runs = [ran(n, "p", f"t{n // 2}", f"a{n}", n % 2 == 0) for n in range(20)]
    assert repeats.worths(runs).task < 15


def test_runs_at_like_tasks_count_the_less_the_less_the_very_same_tells():
    assert [Worths(task=worth).near for worth in (LEAST, TASK_RUNS, 4.0, MOST)] == [1.0, 1.0, 0.25, 0.005]
    record = Record()
    for n in range(30):
        record.ran("p", True, f"quite another thing {n * 7919}")
    for n in range(6):
        record.ran("p", False, f"rotate the keys of the vault {n}")
    stage = Stage(record)
    stage.settle()
    models = [Model(None, {}, {}, Worths(task=worth)) for worth in (TASK_RUNS, MOST)]
    told = [asked(stage, model, "rotate the keys of the vault").procedures[0].probability for model in models]
    assert told[0] < told[1] - 0.1


def test_an_agent_moves_a_chance_by_how_its_runs_differ_from_the_rate():
    chance, rate = np.array([0.5, 0.5, 0.98]), np.array([0.5, 0.5, 0.9])
    told = repeats.with_agent(chance, rate, np.array([0.0, 10.0, 0.0]), np.array([0.0, 10.0, 0.0]), 1.0)
    assert told[0] == 0.5 and told[1] > 0.9 and told[2] == 0.98


def test_an_agent_that_ran_nothing_moves_nothing_however_sure_an_answer_is():
    chance, none = np.array([0.00005, 0.3, 0.99995]), np.zeros(3)
    assert repeats.with_agent(chance, np.array([0.0, 0.4, 1.0]), none, none, 1.0).tolist() == chance.tolist()


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


class Told:
    """A fit that answers 0.9 for everything, if it is asked."""

    dimensions = 32

    def __init__(self, how, judged=True):
        self.how, self.held = how, prediction.Held({"rate": 0.5} if judged else {}, {})

    def predict(self, situations, how=None):
        return np.full((1, 1), 0.9)


def test_what_did_best_on_runs_that_it_had_not_seen_answers():
    record = Record()
    record.defined("planned", description="rotate the keys")
    for n in range(30):
        record.ran("p", n % 2 == 0, f"quite another thing {n * 7919}")
    for n in range(6):
        record.ran("p", False, f"rotate the keys of the vault {n}")
    stage = Stage(record)
    stage.settle()

    def told(fitted):
        model = Model(fitted, {"p": 0}, {"p": 0.4}) if fitted else None
        found = {each.id: each for each in asked(stage, model, "rotate the keys of the vault").procedures}
        return found["p"].probability, found["p"].why.how, found["planned"].why.how

    simple = told(None)
    assert simple[0] < 0.35 and simple[1:] == ("neighbours", "none")
    assert told(Told("simple")) == told(Told("rate", judged=False)) == simple
    rate, *hows = told(Told("rate"))
    assert rate == pytest.approx(0.42, abs=0.05) and hows == ["rate", "none"]
    factors, *hows = told(Told("factors"))
    assert factors > 0.85 and hows == ["difficulty", "none"]
    model = Model(Told("factors"), {"p": 0}, {"p": 0.4})
    tasks = ("rotate the keys of the vault", "paint the fence green")
    assert [asked(stage, model, task).cold for task in tasks] == [False, True], "whatever a model makes of it"


def test_runs_at_the_very_task_and_by_the_agent_count_as_much_as_they_are_worth_and_once():
    record = Record()
    for n in range(40):
        record.ran("p", True, f"quite another thing {n * 7919}", agent="strong")
    for n in range(4):
        record.ran("p", False, f"something else {n * 7919}", agent="weak")
    for _ in range(3):
        record.ran("p", False, "rotate the keys", agent="strong")
    stage = Stage(record)
    stage.settle()

    def told(text, worths=Worths(), agent=None):
        return asked(stage, Model(None, {}, {}, worths), text, agent=agent).procedures[0].probability

    assert told("rotate the keys", Worths(task=LEAST)) < 0.15
    assert told("rotate the keys", Worths(task=MOST)) > 0.7, "they are no neighbours beside"
    plain = told("unheard of")
    few, many_ = (told("unheard of", Worths(agent=worth), "weak") for worth in (LEAST, MOST))
    assert few < 0.2 < plain - 0.1 < many_ < plain


def test_what_is_left_out_of_a_task_is_of_the_context_that_is_asked_about():
    vectors = np.eye(4, 8, dtype=np.float32)[[0, 0, 1, 2]]
    contexts = [{"os": "a"}, {"os": "b"}, {}, {}]
    situations = Situations(["one", "one", "two", "three"], vectors, contexts)
    maker = prediction.Maker(Sample(situations, np.eye(4, 2), np.ones((4, 2))), Kernel(situations))
    own = np.array([0.1, 0.3, 0.7, 0.9])
    for context, left in (({"os": "a"}, 0.1), ({"os": "b"}, 0.3)):
        parts = maker.parts(Situations(["one"], vectors[:1], [context]), np.zeros(4), own)
        assert parts.ease == pytest.approx(maker.eased(np.array([-left])))


def test_a_richer_candidate_has_to_be_better_by_a_share_of_its_standard_error():
    gain = np.array([3.0, -1.0, 2.0, 0.0])
    lost = {"rate": np.full(4, 10.0), "simple": 10.0 - gain}
    held = prediction.Held({how: float(each.sum()) / 40 for how, each in lost.items()}, lost, 40.0)
    error = float(np.sqrt(4) * np.std(gain)) / 40
    assert held.error("simple", "rate") == pytest.approx(error)
    share = 0.1 / error  # 4 of 40
    assert prediction._choose(held, share * 0.99) == "simple"
    assert prediction._choose(held, share * 1.01) == "rate"


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
