"""An `interval` holds the true rate of a procedure at the task asked about as often as it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.learn_record import TENANT, Record, Stage
from jetmem.domain.procedures import choosing, estimate, repeats
from jetmem.domain.procedures.repeats import MOST, TASK_RUNS, Worths
from jetmem.domain.procedures.statistics import beta_interval
from jetmem.learn import study
from jetmem.learn.estimating import Learnt
from jetmem.learn.sample import sampled

PROCEDURES = 10
TASKS = 40
#: Asked about, too, and never run.
NEW = 20
RUNS = 1_000


def learnt(said):
    record = Record()
    for procedure, success, task in said:
        record.ran(procedure, success, task)
    stage = Stage(record)
    stage.settle()
    return stage


def modelled(stage):
    """What learn finds in these runs, without its process."""
    of = sampled(stage.rows, TENANT, 20_000)
    sample, names = of.situations()
    standing = stage.boards.get(TENANT).standing(stage.clock.now_ms())
    rates = dict(zip(standing.names, standing.rate.tolist(), strict=True))
    return study.model(sample, names, rates, repeats.worths(of.runs), False)


def world(correlation, seed, tasks=TASKS, kinds=0):
    """Runs, tasks, and true rates (tasks, procedures): outcomes at one task are correlated by this much.

    Of tasks of a kind the words are nearly alike, and the rates in part.
    """
    rng = np.random.default_rng([seed, int(100 * correlation)])
    kind = rng.integers(0, kinds, tasks + NEW) if kinds else np.arange(tasks + NEW)
    rate = rng.uniform(0.1, 0.9, PROCEDURES)
    of_kind = _around(rng, np.tile(rate, (tasks + NEW, 1)), correlation / 2 if kinds else 0.0)[kind]
    own = _around(rng, of_kind, 1 - (1 - correlation) / (1 - (correlation / 2 if kinds else 0.0)))
    words = [" ".join([f"t{n}", *(f"k{each}w{m}" for m in range(9))]) for n, each in enumerate(kind.tolist())]
    task, which = rng.integers(0, tasks, RUNS), rng.integers(0, PROCEDURES, RUNS)
    won = rng.random(RUNS) < own[task, which]
    return [(f"p{p}", bool(w), words[t]) for p, w, t in zip(which, won, task, strict=True)], words, own


def _around(rng, mean, correlation):
    if not correlation:
        return mean
    worth, kept = (1 - correlation) / correlation, np.clip(mean, 0.001, 0.999)
    return rng.beta(kept * worth, (1 - kept) * worth)


def told(stage, words, model):
    """Lower and upper ends, (tasks, procedures)."""
    ends = np.full((2, len(words), PROCEDURES), np.nan)
    for row, task in enumerate(words):
        for each in stage.recommend(task, k=PROCEDURES, learnt=Learnt(model)).procedures:
            ends[:, row, int(each.id[1:])] = each.interval.low, each.interval.high
    return ends


def held(correlation, seed=1, model=modelled, **fields):
    """Share of true rates within their intervals at tasks that were run and at new ones, and mean widths of both."""
    runs, words, own = world(correlation, seed, **fields)
    stage = learnt(runs)
    low, high = told(stage, words, model(stage))
    within, tasks = (low <= own) & (own <= high), len(words) - NEW
    return within[:tasks].mean(), within[tasks:].mean(), (high - low)[:tasks].mean(), (high - low)[tasks:].mean()


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("kinds", [0, 6])
def test_true_rates_lie_in_their_intervals(correlation, kinds):
    found = [held(correlation, seed, kinds=kinds) for seed in (1, 2, 3)]
    seen, new, *widths = np.mean(found, axis=0)
    assert seen >= 0.9 and new >= 0.9, (seen, new, widths)
    if correlation <= 0.1:
        assert max(widths) < 0.6, "and they say something"


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_so_they_do_while_nobody_knows_what_a_run_at_the_very_task_tells(correlation):
    assert min(held(correlation, model=lambda stage: None)[:2]) >= 0.9


def test_where_tasks_do_not_differ_an_interval_is_nearly_that_of_all_runs():
    coins = study.Model(None, {}, {}, Worths(task=MOST))
    within, _, seen, new = held(0.0, model=lambda stage: coins)
    plain = np.mean([np.diff(beta_interval(100 * rate, 100.0)) for rate in np.linspace(0.1, 0.9, 9)])
    assert within >= 0.9 and 0.9 * plain < seen <= new < 1.3 * plain, (seen, new, plain)


def test_two_of_two_at_one_task_prove_little():
    usual = [(f"p{n}", n % 2 == 0, f"quite another thing {n} {m}") for n in range(8) for m in range(4)]
    both, half = (learnt([*usual, ("q", True, "rotate"), ("q", last, "rotate")]) for last in (True, False))
    sure, torn = (stage.predict("rotate", "q") for stage in (both, half))
    assert sure.probability > 0.8 and sure.interval.low < 0.5 and sure.interval.high > 0.98
    assert torn.interval.low < 0.2 and torn.interval.high > 0.8


@pytest.mark.parametrize("apart", [False, True], ids=["at one task", "each at another"])
def test_27_of_27_are_no_surer_than_they_are_by_themselves(apart):
    stage = learnt([("q", True, f"rotate {n if apart else ''}".strip()) for n in range(27)])
    said = stage.predict("rotate", "q")
    alone = beta_interval(27.0, 27.0)[0]
    assert said.probability > 0.95 and said.interval.high > 0.99
    assert alone - 0.2 < said.interval.low < alone + 0.03


def test_runs_that_failed_at_the_very_task_count_once():
    stage = learnt([*(("q", True, f"thing {n} {n * 7919}") for n in range(200)), *[("q", False, "rotate")] * 3])
    said = stage.predict("rotate", "q")
    assert said.interval.low < said.probability < said.interval.high and said.interval.high > 0.5


def test_a_rate_around_another_is_known_by_the_sum_of_both_variances():
    rng = np.random.default_rng(4)
    for weight, worth in ((40.0, 9.0), (3.0, 0.5), (200.0, 50.0)):
        rate = rng.beta(0.3 * weight, 0.7 * weight, 400_000)
        variance = rng.beta(rate * worth, (1 - rate) * worth).var()
        assert 0.3 * 0.7 / variance - 1 == pytest.approx(estimate.spread(np.array(weight), worth), rel=0.02)
    assert estimate.spread(np.array(1e9), TASK_RUNS) == pytest.approx(TASK_RUNS)


@given(st.floats(0.02, 0.98), st.floats(0.0, 1e6))
def test_an_interval_holds_what_is_told(probability, weight):
    each, most = (choosing.rank([choosing.Candidate("p", probability, 1.0, w)])[0] for w in (weight, 1e9))
    assert 0.0 <= each.low <= probability <= each.high <= 1.0
    assert most.high - most.low > 0.03, "rates drift"


def test_nobody_knows_a_procedure_that_nobody_ran():
    stage = learnt([("p", True, "one"), ("p", False, "two")])
    said = stage.predict("three", "q").interval
    assert (said.low, said.high) == (0.0, 1.0)


def test_context_and_agent_are_each_known_by_their_own_runs():
    """Who has none there is known no better than such rates lie around those of all."""
    record = Record()
    for n in range(60):
        record.ran("p", n % 3 > 0, f"thing {n} {n * 7919}", agent=f"a{n % 2}", context={"os": ("linux", "bsd")[n % 2]})
    stage = Stage(record)
    stage.settle()

    def width(worths=Worths(task=200.0, agent=2.0), **fields):
        model = study.Model(None, {}, {}, worths)
        found = stage.recommend("rotate the keys", learnt=Learnt(model), **fields).procedures[0]
        return found.interval.high - found.interval.low

    plain, known, unheard = (width(context=each) for each in ({}, {"os": "linux"}, {"os": "plan9"}))
    assert plain < known < unheard
    assert plain < width(agent="a1") < width(agent="nobody")
