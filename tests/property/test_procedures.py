"""Learning does not depend on the order of runs, on repeats, or on who merges with whom first."""

import math
import re
from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest
from sklearn.feature_extraction.text import CountVectorizer

from jetmem.domain.procedures import (
    contagion,
    crystals,
    decay,
    estimate,
    federation,
    patterns,
    relations,
    retrieval,
    sketch,
    statistics,
)
from jetmem.domain.procedures.federation import Export, Merged, Shared
from jetmem.domain.procedures.run import Ran
from jetmem.learn import study
from jetmem.learn.sample import Sampled

DAY = int(decay.DAY_MS)
NAMES = st.sampled_from(["plan", "code", "test", "ship"])


@st.composite
def histories(draw, largest=30):
    """Runs with numbers 1, 2, 3 …; several share a time."""
    size = draw(st.integers(1, largest))
    return [
        Ran(
            id=f"r{number}",
            seq=number,
            at_ms=draw(st.sampled_from([0, 500, DAY, 7 * DAY, 90 * DAY])),
            procedure=draw(NAMES),
            success=draw(st.booleans()),
            agent=draw(st.sampled_from(["a", "b", "c"])),
            steps=tuple(draw(st.lists(NAMES, max_size=6))),
            reward=draw(st.none() | st.floats(0, 1)),
            failure=draw(st.sampled_from(["", "timeout", "typo"])),
        )
        for number in range(1, size + 1)
    ]


def renumbered(runs, order):
    """The same runs as they would have been recorded in another order."""
    return [msgspec.structs.replace(runs[which], seq=number) for number, which in enumerate(order, 1)]


def counted(runs):
    row = statistics.Statistics()
    for run in runs:
        row = statistics.apply(row, run)
    return row


def same(left, right):
    """Equal but for rounding of what decays."""
    plain = [msgspec.structs.replace(each, decayed_runs=None, decayed_successes=None) for each in (left, right)]
    assert plain[0] == plain[1]
    for name in ("decayed_runs", "decayed_successes"):
        assert getattr(left, name).value == pytest.approx(getattr(right, name).value, rel=1e-9)
        assert getattr(left, name).at_ms == getattr(right, name).at_ms


@given(histories(), st.data())
def test_statistics_are_the_same_in_any_order(runs, data):
    order = data.draw(st.permutations(range(len(runs))))
    same(counted(runs), counted(renumbered(runs, order)))


@given(histories(), st.integers(0, 30))
def test_replay_changes_no_statistics(runs, again):
    row = counted(runs)
    for run in runs[:again]:
        assert statistics.apply(row, run) is row


@given(histories(), st.data())
def test_a_row_from_what_remains_is_as_if_the_rest_had_never_been(runs, data):
    kept = [run for run in runs if data.draw(st.booleans())]
    same(statistics.recomputed(reversed(kept)), counted(kept))


@given(histories())
def test_rows_survive_the_store(runs):
    row = counted(runs)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=statistics.Statistics) == row


@given(st.integers(0, 200), st.integers(0, 200))
def test_intervals_are_those_of_scipy(won, lost):
    runs = won + lost
    low, high = statistics.beta_interval(won, runs)
    assert (low, high) == pytest.approx(beta.interval(0.95, won + 1, lost + 1), abs=1e-9)
    if runs:
        theirs = binomtest(won, runs).proportion_ci(0.95, method="wilson")
        assert statistics.wilson(won, runs) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.lists(st.floats(1e-5, 1e9), min_size=1, max_size=60), st.floats(0.01, 1))
def test_quantiles_are_near_and_merge(values, share):
    whole, halves = sketch.Sketch(), [sketch.Sketch(), sketch.Sketch()]
    for number, value in enumerate(values):
        whole = sketch.add(whole, value)
        halves[number % 2] = sketch.add(halves[number % 2], value)
    assert sketch.merged(*halves) == whole == sketch.merged(*reversed(halves))
    exact = sorted(values)[max(1, -(-len(values) * share // 1)).__int__() - 1]
    near = sketch.quantile(whole, share)
    # the rank of a share is itself rounded: a neighbour in rank is as right
    ratio = sketch.RATIO * (1 + 1e-9)
    assert any(each / ratio <= near <= each * ratio for each in values)
    assert near <= max(values) * ratio
    assert exact <= max(values)


EDGES = [
    relations.Edge("plan", "code", "follows", 0.9),
    relations.Edge("code", "test", "similar_to", 0.8),
    relations.Edge("test", "ship", "context_related", 0.7),
    relations.Edge("ship", "plan", "follows", 0.6),
]
GRAPH = relations.graph(EDGES)
NOW = 100 * DAY


def boosted(runs):
    """What is left of boosts after a log of runs, not clipped."""
    boosts = study.boosts(runs, GRAPH)
    return {name: decay.value(each, NOW, contagion.HALF_LIFE_MS) for name, each in boosts.items()}


def boosted_plainly(runs):
    """The formula, run by run."""
    strengths = {(path.names[0], path.names[-1]): path.strength
                 for name in GRAPH.names for path in relations.paths(GRAPH, name)}  # fmt: skip
    before, boosts = defaultdict(list), Counter()
    for run in runs:
        seen = before[run.procedure]
        step = max([run.at_ms // contagion.STEP_MS, *(at for at, _ in seen)])
        known = [success for at, success in seen if at < step]
        surprise = run.success - (sum(known) + 1.0) / (len(known) + 2)
        fades = 0.5 ** ((NOW - run.at_ms) / contagion.HALF_LIFE_MS)
        for (source, target), strength in strengths.items():
            if source == run.procedure:
                boosts[target] += surprise * strength * 0.1 * fades
        seen.append((step, run.success))
    return boosts


@given(histories())
def test_contagion_in_arrays_is_the_formula(runs):
    plain = boosted_plainly(runs)
    found = boosted(runs)
    assert {name: found.get(name, 0.0) for name in plain} == pytest.approx(plain, abs=1e-12)
    assert found.keys() <= plain.keys()


@given(histories(), st.data())
def test_contagion_is_the_same_in_any_order_within_a_step(runs, data):
    runs = [msgspec.structs.replace(run, at_ms=5_500 + run.seq) for run in runs]
    first = boosted(runs)
    second = boosted(renumbered(runs, data.draw(st.permutations(range(len(runs))))))
    for name in first.keys() | second.keys():
        assert first.get(name, 0.0) == pytest.approx(second.get(name, 0.0), abs=1e-9)


@given(histories())
def test_contagion_is_bounded(runs):
    boosts = study.boosts(runs, GRAPH)
    assert all(abs(contagion.value(each, 0)) <= contagion.BOOST_MAX for each in boosts.values())


@given(st.integers(0, 500), st.floats(-5, 5), st.floats(0, 1))
def test_a_boost_fades_with_evidence(runs, boost, prior):
    rate = estimate.shrunk(runs // 2, runs, prior, 4.0)
    moved = contagion.moved(rate, runs, boost)
    assert 0 <= moved <= 1
    assert abs(moved - rate) <= abs(boost) * contagion.PRIOR_RUNS / (runs + contagion.PRIOR_RUNS) + 1e-9
    assert contagion.moved(rate, runs, 0.0) == pytest.approx(rate, abs=1e-12)


@given(histories(40), st.data())
def test_patterns_are_the_same_in_any_order(runs, data):
    def rows(of):
        found = {}
        for run in of:
            for steps in patterns.within(run.steps):
                found[steps] = patterns.apply(found.get(steps, patterns.Pattern()), run)
        every = patterns.Pattern()
        for run in of:
            every = patterns.apply(every, run)
        kept = {steps: (row.recent, row.agents) for steps, row in found.items()}
        return kept, patterns.recurring(found, every, 100 * DAY)

    kept, first = rows(runs)
    others, second = rows(renumbered(runs, data.draw(st.permutations(range(len(runs))))))
    assert kept == others
    assert {each.steps for each in first} == {each.steps for each in second}
    by_steps = {each.steps: each for each in second}
    for each in first:
        other = by_steps[each.steps]
        assert (each.successes, each.failures, each.shared) == (other.successes, other.failures, other.shared)
        assert (each.rate, each.lift) == pytest.approx((other.rate, other.lift), rel=1e-9)


def mined(documents):
    """Steps in a row are n-grams of words: how many documents hold each, as scikit-learn counts them."""
    if len(documents) < patterns.SUCCESSES_MIN:
        return {}
    miner = CountVectorizer(
        tokenizer=list, preprocessor=tuple, token_pattern=None, ngram_range=(patterns.SHORTEST, patterns.LONGEST),
        binary=True, min_df=patterns.SUCCESSES_MIN,
    )  # fmt: skip
    try:
        held = miner.fit_transform([steps[: patterns.STEPS_MAX] for steps in documents]).sum(axis=0)
    except ValueError as error:  # nothing is that frequent
        assert "no terms remain" in str(error) or "empty vocabulary" in str(error)
        return {}
    return {tuple(name.split()): int(held[0, at]) for name, at in miner.vocabulary_.items()}


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), st.lists(NAMES, max_size=60)), min_size=3, max_size=30))
def test_patterns_are_those_that_a_maintained_miner_finds_with_the_same_counts(told):
    runs = [
        Ran(id=f"r{n}", seq=n, at_ms=n, procedure="p", success=success, agent="a", steps=tuple(steps))
        for n, (success, steps) in enumerate(told, 1)
    ]
    theirs = mined([run.steps for run in runs if run.success])
    assert len(theirs) < study.PATTERNS_MAX
    assert patterns.often([run.steps for run in runs if run.success], study.PATTERNS_MAX) == theirs.keys()
    found = study.recurring(Sampled(runs, {}, {}))
    assert {steps: row.successes for steps, row in found.rows.items()} == theirs


COUNTS = st.dictionaries(NAMES, st.builds(lambda n, s: Shared(n, n * s), st.floats(0, 300), st.floats(0, 1)))
EXPORTS = st.builds(Export, st.sampled_from(["x", "y", "z"]), st.integers(1, 3), COUNTS)
MERGED = st.lists(EXPORTS, max_size=4).map(
    lambda every: __import__("functools").reduce(federation.merge, map(federation.taken, every), Merged())
)


@given(MERGED, MERGED, MERGED)
def test_merging_is_commutative_associative_and_idempotent(a, b, c):
    merge = federation.merge
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@given(st.lists(st.floats(0.4, 0.6), min_size=2, max_size=6), st.floats(0, 1))
def test_a_source_that_lies_cannot_move_the_median_beyond_the_others(rates, lie):
    honest = [federation.taken(Export(f"h{n}", 1, {"p": Shared(100.0, 100 * r)})) for n, r in enumerate(rates)]
    liar = federation.taken(Export("liar", 9, {"p": Shared(1e9, 1e9 * lie)}))
    merged = liar
    for each in honest:
        merged = federation.merge(merged, each)
    bounded = federation.combined(merged, "mean")["p"]
    assert bounded.runs == 100.0 * len(rates) + federation.EVIDENCE_MAX
    if len(rates) > 2:
        told = federation.combined(merged, "median")["p"]
        assert min(rates) - 1e-9 <= told.successes / told.runs <= max(rates) + 1e-9


@settings(max_examples=50)
@given(histories(40), st.data())
def test_crystals_are_judged_alike_whatever_order_a_step_had(runs, data):
    runs = [msgspec.structs.replace(run, at_ms=1_000) for run in runs]
    rules = crystals.Rules(runs_min=3, agents_min=1, lower_min=0.2, last_min=0.3)
    order = data.draw(st.permutations(range(len(runs))))
    first = crystals.judge(crystals.Crystal(), counted(runs), rules)
    assert first == crystals.judge(crystals.Crystal(), counted(renumbered(runs, order)), rules)


def weighted(texts, known):
    """Words of texts by tf-idf over known ones, as the module says it; what no known text has is told of no text."""

    def kinds(text):
        words = re.findall(r"\w+", text.lower())
        return Counter(text.split()), Counter([*words, *pairwise(words)])

    rows = [{} for _ in texts]
    for kind, worth in enumerate((retrieval.STEMS, retrieval.WORDS)):
        seen = Counter(word for text in known for word in kinds(text)[kind])
        for row, text in zip(rows, texts, strict=True):
            said = {
                word: (1 + math.log(times)) * (math.log((1 + len(known)) / (1 + seen[word])) + 1)
                for word, times in kinds(text)[kind].items()
            }
            length = math.sqrt(sum(each * each for each in said.values()))
            row |= {(kind, word): math.sqrt(worth) * each / length for word, each in said.items() if seen[word]}
    return rows


said = st.lists(st.sampled_from(["a", "b", "B", "c-d", "the", "?!", "new", "newer"]), max_size=6).map(" ".join)


@given(st.lists(said, min_size=1, max_size=6), st.lists(said, max_size=4))
def test_products_of_words_are_those_of_their_weights(known, asked):
    words = retrieval.Wording(known, str.split)
    rows = weighted([*asked, *known], known)
    every = np.array([[sum(a[word] * b[word] for word in a.keys() & b.keys()) for b in rows] for a in rows])
    assert words.products(asked, range(len(known))) == pytest.approx(every)
    assert (words.known @ words.known.T).toarray() == pytest.approx(every[len(asked) :, len(asked) :])
    for at, text in enumerate(asked):
        assert words.likeness(text) == pytest.approx(every[at, len(asked) :] / (retrieval.STEMS + retrieval.WORDS))
