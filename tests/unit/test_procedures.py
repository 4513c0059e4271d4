"""The rules of learning: examples, edges and refusals."""

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_array

from jetmem.domain.procedures import (
    choosing,
    contagion,
    crystals,
    decay,
    difficulty,
    estimate,
    federation,
    insights,
    patterns,
    prediction,
    relations,
    retrieval,
    sketch,
    stacking,
    statistics,
)
from jetmem.domain.procedures.kernels import Kernel, Situations
from jetmem.domain.procedures.relations import Edge
from jetmem.domain.procedures.run import Ran
from jetmem.evaluation import procedures_simulation

DAY = int(decay.DAY_MS)


def ran(number, success, *, at_ms=None, agent="a", **more):
    at = number * 1_000 if at_ms is None else at_ms
    return Ran(id=f"r{number}", seq=number, at_ms=at, procedure="p", success=success, agent=agent, **more)


def situations(texts, vectors=None, contexts=None):
    made = np.eye(len(texts), 8, dtype=np.float32) if vectors is None else vectors
    return Situations(texts, made, contexts or [{} for _ in texts])


def test_decayed_counts_halve_in_thirty_days():
    row = statistics.recomputed([ran(1, True, at_ms=0), ran(2, False, at_ms=30 * DAY)])
    assert statistics.decayed(row, 60 * DAY) == pytest.approx((0.75, 0.25))


def test_a_row_tells_what_failed_and_which_steps_work():
    runs = [ran(n, n % 3 > 0, steps=("plan", "code"), failure="" if n % 3 else "timeout") for n in range(1, 10)]
    row = statistics.recomputed(runs)
    assert statistics.failures(row) == [("timeout", 3)]
    assert statistics.steps(row) == ("plan", "code")
    assert row.distinct_agents == 1
    assert statistics.consistency(row) == pytest.approx(6 / 9)


def test_steps_are_those_that_two_runs_at_least_took_or_the_only_one():
    def said(*of):
        return statistics.steps(statistics.recomputed([ran(n, True, steps=each) for n, each in enumerate(of, 1)]))

    assert said(("plan",)) == ("plan",)
    assert said(("plan",), ("code",)) == said(("plan",), ()) == said(()) == ()
    assert said(("b",), ("a",), ("b",), ()) == ("b",)
    assert said(("b",), ("a",), ("b",), ("a",)) == ("a",)


def test_what_seldom_fails_tells_its_failures_too():
    """Of 1,000 runs 20 failed: a sample of all would hold one of them."""
    runs = [
        ran(n, n % 50 > 0, failure="" if n % 50 else ("timeout", "typo")[n % 100 // 50], lessons=("ask",))
        for n in range(1, 1_001)
    ]
    row = statistics.recomputed(runs)
    assert statistics.failures(row) == [("timeout", 10), ("typo", 10)]
    assert statistics.lessons(row) == [("ask", 1_000)]
    assert len(row.told) == statistics.SAMPLE_MAX + 20
    most = statistics.recomputed([ran(n, False, failure="timeout" if n % 4 else "typo") for n in range(1, 1_001)])
    (first, timeouts), (second, typos) = statistics.failures(most)
    assert (first, second, timeouts + typos) == ("timeout", "typo", 1_000)
    assert timeouts == pytest.approx(750, abs=200)


def test_a_lesson_that_one_run_tells_twice_is_of_one_run():
    row = statistics.recomputed([ran(1, True, lessons=("ask", "ask", "look")), ran(2, True, lessons=("look",))])
    assert statistics.lessons(row) == [("look", 2), ("ask", 1)]


def test_many_agents_are_estimated():
    row = statistics.recomputed([ran(n, True, agent=f"agent-{n}") for n in range(1, 1_001)])
    assert len(row.agents) == statistics.AGENTS_MAX
    assert 650 < row.distinct_agents < 1_500


def test_a_sketch_is_bounded_and_takes_what_is_no_number():
    made = sketch.Sketch()
    for value in (None, float("nan"), float("inf"), -5.0, 0.0, 1e-9, 1e300, 7.0):
        made = sketch.add(made, value)
    assert made.size == 5
    assert sketch.quantile(made, 0.5) == 0.0
    assert sketch.quantile(sketch.Sketch(), 0.5) is None
    assert all(-sketch.BUCKETS_MAX < bucket < sketch.BUCKETS_MAX for bucket in made.counts)


@pytest.mark.parametrize("value", [d * 10.0**e for d in range(1, 10) for e in range(-5, 11)])
def test_round_values_are_told_as_they_are(value):
    made = sketch.add(sketch.add(sketch.Sketch(), value), value)
    assert sketch.quantile(made, 0.9) == pytest.approx(value, rel=1e-12)


def test_estimates_go_from_general_to_near():
    rate = estimate.shrunk(np.array([90.0]), np.array([100.0]), np.array([0.5]), 4.0)
    assert 0.85 < rate[0] < 0.9
    known = estimate.table(np.array([[5.0], [2.0]]), np.array([[50.0], [2.0]]))  # in this context, at such a task
    there, near = estimate.simple(known, rate, np.array([[-1.0, 1.0]]), np.array([[1.0, 0.0]]))
    assert there[0, 0] < 0.3
    assert near[0, 0] > 0.8


def test_the_table_tells_what_the_chain_tells_of_one():
    won, had = np.array([[3.0], [0.0]]), np.array([[4.0], [2.0]])
    cosine, same = np.array([[0.9, 0.1]]), np.array([[1.0, 0.0]])
    general = estimate.prior(won.sum(0), had.sum(0))
    _, near = estimate.simple(estimate.table(won, had), estimate.rates(won.sum(0), had.sum(0)), cosine, same)
    weight = estimate.near(cosine)[0]
    rate = (3 + general.runs * general.mean) / (6 + general.runs)
    there = (3 + estimate.CONTEXT_RUNS * rate) / (4 + estimate.CONTEXT_RUNS)
    told = (weight @ won[:, 0] + estimate.NEAR_PRIOR * there) / (weight @ had[:, 0] + estimate.NEAR_PRIOR)
    assert near[0, 0] == pytest.approx(told, rel=1e-6)


def test_the_prior_is_strong_where_procedures_are_alike():
    rng = np.random.default_rng(1)
    runs = np.full(50, 200.0)
    alike = rng.binomial(200, 0.4, 50).astype(float)
    apart = rng.binomial(200, rng.beta(1, 1, 50)).astype(float)
    assert estimate.prior(alike, runs).runs > 20
    assert estimate.prior(apart, runs).runs < 4
    assert estimate.prior(alike[:3], runs[:3]).runs == estimate.RATE_RUNS
    assert estimate.prior(np.zeros(3), np.zeros(3)) == estimate.Prior()


def test_what_is_run_most_does_not_stand_for_all():
    runs = np.array([10_000.0, *[20.0] * 9])
    general = estimate.prior(runs * np.array([0.9, *[0.2] * 9]), runs)
    assert general.mean < 0.35


def world(seed, *, signal):
    """60 clusters of two near-equal tasks; ease depends on the first axis of the vectors, or on nothing."""
    rng = np.random.default_rng(seed)
    ease = np.repeat(rng.normal(0, 1, 60), 2)
    noise = np.repeat(rng.normal(0, 1, (60, 8)), 2, axis=0) + rng.normal(0, 0.05, (120, 8))
    noise[:, 0] = 3 * ease if signal else noise[:, 0]
    vectors = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(np.linspace(-1, 1, 6)[None, :] + 2.5 * np.sign(ease)[:, None] * signal)))
    runs = (rng.random(chance.shape) < 0.9) * 1.0
    successes = (rng.random(chance.shape) < chance) * runs
    return prediction.Sample(situations([f"task {n}" for n in range(120)], vectors), successes, runs)


def test_difficulty_is_learnt_where_there_is_any_and_left_where_there_is_none():
    learnt = prediction.fit(world(3, signal=True), boost=True)
    assert learnt.how != "rate"
    assert learnt.held.loss[learnt.how] < learnt.held.loss["rate"] - 0.05
    for seed in range(3):
        nothing = prediction.fit(world(seed, signal=False))
        assert nothing.held.loss[nothing.how] <= nothing.held.loss["rate"]


def test_a_fit_is_the_same_each_time_and_clipped():
    sample = world(5, signal=True)
    asked = sample.situations.take(np.arange(3))
    first, second = (prediction.fit(sample).predict(asked) for _ in range(2))
    assert (first == second).all()
    assert first.shape == (3, 6)
    assert first.min() >= estimate.LEAST
    assert first.max() <= 1 - estimate.LEAST


def test_little_data_is_answered_by_rates():
    sample = world(7, signal=True).take(np.arange(10))
    fitted = prediction.fit(sample)
    assert fitted.how == "rate"
    told = fitted.predict(sample.situations)
    assert (told == told[0]).all()


def test_cares_are_found_with_runs_missing():
    rng = np.random.default_rng(2)
    z, care = rng.normal(0, 0.2, 300), np.array([0.2, 1.0, 1.6])
    runs = (rng.random((300, 3)) < 0.7) * 20.0
    successes = runs * np.clip(0.5 + z[:, None] * care, 0, 1)
    found = difficulty.ease(successes, runs, np.full(3, 0.5))
    assert found.care[0] < found.care[1] < found.care[2]
    seen = found.worth > 0
    assert np.corrcoef(found.raw[seen], z[seen])[0, 1] > 0.95
    assert (found.raw[~seen] == 0).all()


def test_a_ridge_logistic_without_penalty_is_the_rate():
    x, n = np.ones((4, 1)), np.ones(4)
    weights = stacking.ridge_logistic(x, np.array([1.0, 0, 0, 0]), n, np.zeros(1), np.full(1, 1e-9))
    assert float(estimate.sigmoid(weights)[0]) == pytest.approx(0.25, abs=1e-6)


def test_likeness_is_symmetric_and_highest_to_itself():
    known = situations(["count the rows", "how many rows", ""], contexts=[{"db": "x"}, {"db": "x"}, {}])
    gram = Kernel(known).to(known)
    assert gram == pytest.approx(gram.T)
    assert (gram.argmax(1) == np.arange(3)).all()
    assert np.linalg.eigvalsh(gram).min() > -1e-9


def test_tasks_of_which_none_has_a_word_are_compared_by_all_else():
    known = situations(["?!", "...", "\N{GRINNING FACE}" * 3], contexts=[{"db": "x"}, {"db": "x"}, {}])
    gram = Kernel(known).to(known)
    assert np.isfinite(gram).all()
    assert gram == pytest.approx(gram.T)
    assert gram[0, 1] > gram[0, 2], "one context"


def test_paraphrases_are_found_by_words():
    words = retrieval.Wording(["list all airlines", "count the singers", "delete the logs"], str.split)
    likeness = words.likeness("how to count singers")
    assert likeness.argmax() == 1
    assert likeness[0] == 0.0 < likeness[1] < 1.0
    assert words.likeness("count the singers")[1] == pytest.approx(1.0)
    assert not words.likeness("?!").any(), "nothing in common, not even words"
    assert words.of(["count the singers", "new"]).shape == words.known[:2].shape
    assert retrieval.stretched(np.array([1.0, 0.1])) == pytest.approx([1.0, 0.4])


def test_products_are_those_of_sparse_rows():
    words = retrieval.Wording(["list all airlines", "count the singers", "delete the logs the"], str.split)
    texts = ["count the the logs", "", "list new singers"]
    every = words.of([*texts, "delete the logs the", "list all airlines"])
    assert words.products(texts, [2, 0]) == pytest.approx((every @ every.T).toarray())
    assert words.products([], [1]) == pytest.approx(np.array([[retrieval.STEMS + retrieval.WORDS]]))
    assert words.products(["?"], []) == pytest.approx(np.zeros((1, 1)))


def test_of_many_long_texts_the_beginnings_are_compared(monkeypatch):
    monkeypatch.setattr(retrieval, "CHARS_MAX", 40)
    words = retrieval.Wording(["list all airlines", "count every single singer"], str.split)
    assert words.likeness("count every single dancer")[1] < 1.0
    words = retrieval.Wording(["list all airlines", "count every single singer", "delete logs"], str.split)
    assert words.likeness("count every single dancer")[1] == pytest.approx(1.0)


def test_rare_words_tell_more():
    words = retrieval.Wording(["the a b", "the c d", "the e f", "list zebra"], str.split)
    assert words.likeness("the zebra").argmax() == 3
    assert words.likeness("the okapi and its stripes").max() < 0.2, (
        "a word that all have is little among those none has"
    )


def test_who_is_near_to_everything_gives_way():
    among = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.2], [0.9, 0.2, 1.0]])
    scores = np.array([0.8, 0.75, 0.3])
    assert retrieval.less_crowded(scores, among).argmax() == 1
    assert retrieval.less_crowded(np.array([0.5]), np.ones((1, 1))).tolist() == [0.5]


def reached(graph, source):
    row = relations.reach(graph).toarray()[graph.names.index(source)]
    return {graph.names[at]: row[at] for at in np.flatnonzero(row)}


def test_paths_are_products_within_three_hops():
    edges = [Edge(a, b, "follows", 0.9) for a, b in ("ab", "bc", "cd", "de")] + [Edge("a", "c", "similar_to", 0.1)]
    graph = relations.graph(edges)
    assert reached(graph, "a") == pytest.approx({"b": 0.9, "c": 0.81, "d": 0.729, "e": 0.081})
    told = relations.paths(graph, "a")
    assert [(each.names, each.kind) for each in told] == [
        (["a", "b"], "follows"), (["a", "b", "c"], "follows"), (["a", "b", "c", "d"], "follows"),
        (["a", "c", "d", "e"], "follows"),
    ]  # fmt: skip
    assert [each.names for each in relations.paths(graph, "a", hops=1)] == [["a", "b"], ["a", "c"]]
    assert relations.paths(graph, "e") == relations.paths(graph, "nobody") == []


def test_the_best_path_counts_though_a_longer_one_comes_later_and_weak_ones_lead_nowhere():
    strengths = {("a", "c"): 0.9, ("a", "b"): 0.9, ("b", "c"): 0.9, ("c", "d"): 0.05, ("b", "e"): 0.06}
    graph = relations.graph(Edge(*ends, "follows", strength) for ends, strength in strengths.items())
    assert reached(graph, "a") == pytest.approx({"b": 0.9, "c": 0.9, "e": 0.054})


def test_of_paths_as_strong_the_one_of_fewer_hops_counts():
    graph = relations.graph(Edge(*ends, "similar_to", 1.0) for ends in ("ab", "bc", "ac", "ba", "ca"))
    assert [each.names for each in relations.paths(graph, "a")] == [["a", "b"], ["a", "c"]]


def test_nothing_is_related_where_there_are_no_edges():
    graph = relations.graph([])
    assert relations.paths(graph, "a") == []
    assert relations.reach(graph).shape == (0, 0)


def test_a_hub_is_bounded():
    edges = [Edge("hub", f"n{n:03}", "follows", 0.9) for n in range(300)]
    assert len(relations.bounded(edges)) == relations.DEGREE_MAX
    assert sorted(reached(relations.graph(edges), "hub")) == [f"n{n:03}" for n in range(relations.REACHED_MAX)]


def test_a_row_of_reach_holds_the_strongest_of_all_within_three_hops():
    """Where some reach many and others hardly any, however far that is."""
    chance = np.random.default_rng(11)
    strengths = np.zeros((200, 200))
    for one in range(200):
        others = chance.permutation(np.delete(np.arange(200), one))[: (1, 4, 40)[one % 3]]
        strengths[one, others] = chance.uniform((0.01, 0.2, 0.9)[one % 3], 1.0, len(others))
    names = [f"p{n:03}" for n in range(200)]
    graph = relations.graph(
        Edge(names[one], names[other], "follows", float(strengths[one, other]))
        for one, other in zip(*np.nonzero(strengths), strict=True)
    )
    best = along = strengths
    for _ in range(2):
        along = np.array([(row[:, None] * strengths).max(0) for row in along])
        best = np.maximum(best, along)
    np.fill_diagonal(best, 0.0)
    best[best < relations.STRENGTH_MIN] = 0.0
    least = -np.sort(-best, axis=1)[:, relations.REACHED_MAX - 1 : relations.REACHED_MAX]
    assert (least == 0).any() and (least > 0.5).any()
    assert np.allclose(relations.reach(graph).toarray(), np.where(best >= least, best, 0.0))


def test_similar_procedures_by_vector():
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [0, 0]], np.float32)
    found = relations.similar(["a", "b", "c", "none"], vectors)
    assert [(each.source, each.target) for each in found] == [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    assert found[0].strength == pytest.approx(0.6)


def test_strengths_shrink_what_is_rare():
    pair = relations.together(relations.Together(), True, True)
    assert relations.context_strength(pair) == pytest.approx(1 / 6)
    assert relations.together(pair, True, True, sign=-1) == relations.Together()
    assert relations.context_strength(relations.Together()) == 0.0
    assert relations.follows_strength(10, 20) == pytest.approx(0.5 * 10 / 15)
    assert relations.follows_strength(0, 0) == 0.0


def surprises(*runs):
    """Of runs of one procedure, (time, outcome) each."""
    at_ms, success = np.array(runs).reshape(-1, 2).T
    return contagion.surprises(np.zeros(len(runs), np.int64), success.astype(bool), at_ms.astype(np.int64), 0.5)


def test_a_run_moves_neighbours_by_its_surprise_along_the_path():
    reach = csr_array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    moved = contagion.boosts(np.array([0]), np.array([True]), np.array([7]), 0.4, reach)
    assert [each.value for each in moved] == pytest.approx([0.0, 0.03, 0.06])
    moved = contagion.boosts(np.array([0]), np.array([False]), np.array([7]), 0.4, reach)
    assert [each.value for each in moved] == pytest.approx([0.0, -0.02, -0.04])
    none = np.zeros(0, np.int64)
    assert [each.value for each in contagion.boosts(none, none.astype(bool), none, 0.4, reach)] == [0.0, 0.0, 0.0]


def test_what_is_expected_is_what_was_known_before_the_step():
    assert surprises((5_000, True), (5_999, True), (6_000, True)) == pytest.approx([0.5, 0.5, 1 - 3 / 4])


def test_a_run_that_comes_late_counts_into_the_step_that_is_open():
    assert surprises((5_000, True), (3_000, True), (5_999, True)) == pytest.approx([0.5, 0.5, 0.5])
    assert surprises((5_000, True), (3_000, True), (6_000, True)) == pytest.approx([0.5, 0.5, 1 - 3 / 4])


def test_a_boost_halves_in_a_week():
    assert contagion.value(contagion.Boost(0.16, 0), 7 * DAY) == pytest.approx(0.08)


def test_crystals_form_and_dissolve():
    runs = [ran(n, True, agent=f"a{n % 3}", steps=("plan", "code")) for n in range(1, 25)]
    formed = crystals.judge(crystals.Crystal(), statistics.recomputed(runs))
    assert (formed.state, formed.version, formed.steps) == ("crystalline", 1, ("plan", "code"))
    assert crystals.judge(formed, statistics.recomputed(runs)) is formed
    fallen = [*runs, *(ran(n, n % 3 == 0, agent="a1") for n in range(25, 40))]
    dissolved = crystals.judge(formed, statistics.recomputed(fallen))
    assert (dissolved.state, dissolved.why) == ("fluid", "its rate has fallen")
    assert crystals.judge(dissolved, statistics.recomputed(fallen)) is dissolved


def test_few_agents_or_runs_form_no_crystal():
    alone = statistics.recomputed([ran(n, True) for n in range(1, 40)])
    few = statistics.recomputed([ran(n, True, agent=f"a{n}") for n in range(1, 10)])
    assert crystals.judge(crystals.Crystal(), alone).state == "fluid"
    assert crystals.judge(crystals.Crystal(), few).state == "fluid"


@pytest.mark.parametrize(
    ("count", "failed", "agents", "formed"),
    [
        (20, (), 3, True),
        (19, (), 3, False),
        (20, (), 2, False),
        (60, (58, 59), 3, True),
        (60, (57, 58, 59), 3, False),  # three of the last ten
        (60, (1, 2, 3, 4, 5), 3, True),
        (60, (1, 2, 3, 4, 5, 6), 3, False),  # the lower bound is below 0.8
    ],
)
def test_each_threshold_alone_keeps_a_procedure_fluid(count, failed, agents, formed):
    row = statistics.recomputed([ran(n, n not in failed, agent=f"a{n % agents}") for n in range(1, count + 1)])
    assert crystals.judge(crystals.Crystal(), row).state == ("crystalline" if formed else "fluid")


@pytest.mark.parametrize(
    ("count", "won", "why"),
    [(25, 5, "the last runs failed"), (25, 6, ""), (19, 0, ""), (20, 0, "the last runs failed")],
)
def test_the_last_runs_alone_dissolve_a_procedure(count, won, why):
    rules = crystals.Rules(alarm=1e9)
    row = statistics.recomputed([ran(n, n > count - won, agent=f"a{n % 3}") for n in range(1, count + 1)])
    found = crystals.judge(crystals.Crystal("crystalline", 1, 0, 0.8), row, rules)
    assert (found.state, found.why) == (("fluid", why) if why else ("crystalline", ""))


def test_what_dissolved_has_to_prove_itself_by_new_runs():
    runs = [ran(n, True, agent=f"a{n % 3}") for n in range(1, 60)]
    fallen = crystals.Crystal("fluid", 1, 50_000, why="its rate has fallen")
    assert crystals.judge(fallen, statistics.recomputed(runs)) is fallen, "nine since"
    again = crystals.judge(fallen, statistics.recomputed([*runs, ran(60, True)]))
    assert (again.state, again.version, again.since_ms) == ("crystalline", 2, 60_000)


def test_the_change_detector_counts_from_when_a_procedure_was_proved_and_keeps_its_highest():
    Seen = statistics.Outcome
    kept = crystals.Crystal("crystalline", 1, 30_000, 0.8, ("plan",))
    before = [ran(n, n > 12, agent=f"a{n % 3}") for n in range(1, 31)]
    assert crystals.judge(kept, statistics.recomputed(before)) is kept, "the failures are of before"
    lost, won = np.log((1 - 0.48) / (1 - 0.8)), np.log(0.6)
    outcomes = tuple(Seen(n, str(n), success) for n, success in enumerate([True] * 5 + [False] * 3 + [True] * 4))
    assert crystals.cusum(outcomes, 0.8) == pytest.approx(3 * lost)
    assert crystals.cusum(outcomes[:7] + outcomes[8:9], 0.8) == pytest.approx(2 * lost)
    assert won < 0 and crystals.cusum((), 0.8) == 0.0
    for rate in (0.0, 1.0):
        assert np.isfinite(crystals.cusum(outcomes, rate))


def test_patterns_recur_are_shared_and_tell_what_is_next():
    rows, every = {}, patterns.Pattern()
    for n in range(1, 9):
        good = n % 2 == 0
        steps = ("read", "plan", "edit", "test") if good else ("read", "edit", "edit", "ship")
        run = ran(n, good, agent=f"a{n % 4}", steps=steps)
        every = patterns.apply(every, run)
        for each in patterns.within(steps):
            rows[each] = patterns.apply(rows.get(each, patterns.Pattern()), run)
    found = patterns.recurring(rows, every, 9_000)
    assert found[0].steps == ("read", "plan", "edit", "test")
    assert found[0].shared
    assert found[0].lift > 5
    assert patterns.following(["read", "plan"], found)[0][0] == "edit"
    assert patterns.following(["ship"], found) == []


def test_a_run_of_many_steps_holds_few_patterns():
    assert len(patterns.within([str(n) for n in range(1_000)])) <= 4 * patterns.STEPS_MAX


def test_the_most_frequent_patterns_are_found_without_counting_all():
    rng = np.random.default_rng(3)
    runs = [tuple("abcdef"[n] for n in rng.integers(0, 6, rng.integers(0, 12))) for _ in range(60)]
    counted = Counter(found for steps in runs for found in patterns.within(steps))
    enough = sorted((-count, steps) for steps, count in counted.items() if count >= patterns.SUCCESSES_MIN)
    for most in (1, 7, 40, len(enough), 10_000):
        assert patterns.often(runs, most) == {steps for _, steps in enough[:most]}


def test_noise_is_the_same_for_a_version_and_bounded_by_epsilon():
    counts = {f"p{n}": federation.Shared(100, 50) for n in range(2_000)}
    first = federation.exported("x", 1, counts, 0.5, "key")
    assert first == federation.exported("x", 1, counts, 0.5, "key")
    assert first != federation.exported("x", 2, counts, 0.5, "key")
    off = np.array([each.successes - 50 for each in first.procedures.values()])
    assert np.abs(off).mean() == pytest.approx(2.0, rel=0.15)
    assert federation.exported("x", 1, counts).procedures == counts


def test_noise_is_of_successes_and_failures_alike_hangs_on_the_key_and_leaves_counts():
    counts = {f"p{n}": federation.Shared(100, 50) for n in range(2_000)}
    noised = federation.exported("x", 1, counts, 0.5, "key").procedures
    lost = np.array([each.runs - each.successes - 50 for each in noised.values()])
    won = np.array([each.successes - 50 for each in noised.values()])
    assert np.abs(lost).mean() == pytest.approx(2.0, rel=0.15)
    assert abs(np.corrcoef(won, lost)[0, 1]) < 0.1
    assert federation.exported("x", 1, counts, 0.5, "another").procedures != noised
    few = federation.exported("x", 1, dict.fromkeys(counts, federation.Shared(1, 1)), 0.5, "key").procedures.values()
    assert all(0 <= each.successes <= each.runs for each in few) and any(each.successes == 0 for each in few)


def test_what_is_combined_is_clipped_and_leaves_out_who_asks():
    told = federation.Merged()
    for source, runs, won in (("me", 50, 0), ("liar", 1e9, 2e9), ("other", 100, 50)):
        export = federation.Export(source, 1, {"p": federation.Shared(runs, won)})
        told = federation.merge(told, federation.taken(export))
    assert federation.combined(told, without="me") == {"p": federation.Shared(300.0, 250.0)}
    assert federation.combined(told)["p"].runs == 50 + 2 * 100 + 100, "among three, twice what the middle one has"


def test_insights_tell_what_works_where():
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 10, axis=0)
    texts = [f"{'sql' if n < 10 else 'bash'} {n}" for n in range(20)]
    runs = np.full((20, 2), 3.0)
    successes = np.zeros((20, 2))
    successes[:10, 0] = successes[10:, 1] = 3
    found = insights.insights(situations(texts, vectors), successes, runs, ["joins", "pipes"])
    best = {each.examples[0].split()[0]: each.works[0].procedure for each in found}
    assert best["sql"] == "joins"
    assert best["bash"] == "pipes"
    assert insights.insights(situations([]), np.zeros((0, 1)), np.zeros((0, 1)), ["x"]) == []


def test_what_always_succeeds_in_a_cluster_works_there_whatever_it_does_elsewhere():
    texts = [f"sql {n}" for n in range(20)] + [f"bash {n}" for n in range(20)]
    vectors = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)
    successes = np.zeros((40, 1))
    successes[:20] = 1
    found = insights.insights(situations(texts, vectors), successes, np.ones((40, 1)), ["joins"])
    assert {each.rate for each in found} == {0.0, 1.0}
    for each in found:
        told = [(one.procedure, one.rate, one.lift) for one in (*each.works, *each.fails)]
        assert told == [("joins", each.rate, each.rate)], "shares are plain, and where nothing succeeds nothing works"
        assert bool(each.works) == (each.rate == 1.0)


def test_what_few_runs_in_a_cluster_tell_otherwise_than_all_others_comes_late():
    texts = [f"sql {n}" for n in range(20)] + [f"bash {n}" for n in range(20)]
    vectors = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)
    runs, successes = np.zeros((40, 3)), np.zeros((40, 3))
    runs[:, 0], runs[0, 1], runs[20:, 1], runs[1, 2], runs[20:, 2] = 4, 1, 4, 1, 4
    successes[:, 0], successes[0, 1], successes[20:, 2] = 3, 1, 4
    found = insights.insights(situations(texts, vectors), successes, runs, ["mostly", "seldom", "often"])
    [here] = [each for each in found if each.examples[0].startswith("sql")]
    assert [one.procedure for one in here.works] == ["mostly", "seldom"]
    assert here.works[1].rate == 1.0 and here.works[1].lower < 0.5


def test_what_fails_in_a_cluster_is_told_with_the_worst_first():
    texts, vectors = [f"sql {n}" for n in range(4)], np.repeat(np.eye(2, dtype=np.float32)[:1], 4, axis=0)
    shares = np.array([0.9, 0.1, 0.3, 0.8])
    runs = np.full((4, 4), 100.0)
    found = insights.insights(situations(texts, vectors), runs * shares, runs, ["best", "worst", "bad", "good"])
    assert found
    for each in found:
        assert [one.procedure for one in each.works] == ["best", "good"]
        assert [one.procedure for one in each.fails] == ["worst", "bad"]


def test_exploring_is_seeded_by_the_request():
    every = [choosing.Candidate(f"p{n}", 0.5, 3.0) for n in range(20)]
    plain = choosing.rank(every)
    assert [each.procedure for each in plain] == sorted(each.procedure for each in every)
    assert all(each.low < 0.5 < each.high for each in plain)
    first = choosing.rank(every, "thompson", "request-1")
    assert first == choosing.rank(list(reversed(every)), "thompson", "request-1")
    assert first != choosing.rank(every, "thompson", "request-2")
    assert choosing.rank([]) == []


def test_what_comes_next_in_a_session_is_told_nearly_as_often_as_it_is_usual():
    found = procedures_simulation.followed(1, sessions=1_000)
    assert found["by what is run most"] < 0.2 < 0.4 < found["told by FOLLOWS"] < 0.6


def test_memory_beats_none_in_a_small_simulation_and_is_drawn(tmp_path):
    found = procedures_simulation.measure(1, runs=1_500)
    assert found.regret["jetmem thompson"] < found.regret["no memory"]
    assert found.regret["jetmem thompson"] < found.regret["… told the next day"] < found.regret["no memory"]
    assert len(found.curves["no memory"]) == 100
    assert found.curves.keys() == {*procedures_simulation.POLICIES, procedures_simulation.FIXED}
    procedures_simulation.plot(found, tmp_path / "regret.png")
    assert (tmp_path / "regret.png").read_bytes().startswith(b"\x89PNG")
