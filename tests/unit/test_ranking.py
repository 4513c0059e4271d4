"""Ranking options, each alone and at its edges; pure."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmem.domain import ranking
from jetmem.domain.ranking import Candidates
from jetmem_schemas.ranking import Rank

DAY_MS = 86_400_000
FOLD = Rank(fold=True)
SUPERSEDE = Rank(supersede=True)


def unit(*numbers):
    vector = np.array(numbers, dtype=np.float32)
    length = np.linalg.norm(vector)
    return vector / length if length else vector


def at_cosine(cosine):
    """A vector so far from (1, 0)."""
    return unit(cosine, math.sqrt(1 - cosine * cosine))


def candidates(*scores, ts=None, vectors=None, **more):
    """Best first; the order in the log is that of the arguments."""
    count = len(scores)
    given_ = {
        "importance": np.full(count, np.nan),
        "lasting": np.zeros(count, dtype=np.bool_),
        "corrected": np.zeros(count, dtype=np.bool_),
        **{name: np.array(value) for name, value in more.items()},
    }
    return Candidates(
        score=np.array(scores, dtype=np.float64),
        ts=np.array(ts or [0] * count, dtype=np.int64),
        order=np.arange(1, count + 1, dtype=np.int64),
        likeness=None if vectors is None else ranking.likeness(np.array(vectors, dtype=np.float32)),
        **given_,
    )


def order(placed):
    return [each.at for each in placed]


def folds(placed):
    return {each.at: each.folded for each in placed if each.folded}


ALL = Rank(salience=0.2, age_half_life_days=14, supersede=True, fold=True)


def test_nothing_is_on_by_default():
    assert not ranking.active(Rank())
    assert order(ranking.rank(candidates(0.9, 0.5, 0.4), Rank())) == [0, 1, 2]
    assert not ranking.active(Rank(age_share=1, supersede_share=1, fold_cosine=0.5)), "thresholds turn nothing on"


@pytest.mark.parametrize("options", [ALL, FOLD, SUPERSEDE, Rank(salience=1), Rank(age_half_life_days=1)])
def test_none_and_one(options):
    assert ranking.rank(candidates(vectors=np.zeros((0, 2))), options) == []
    assert order(ranking.rank(candidates(0.5, vectors=[[1, 0]]), options)) == [0]


def test_salience_is_importance_and_kind():
    given_ = candidates(0.5, 0.5, 0.5, 0.5, importance=[np.nan, 1.0, 0.0, np.nan], lasting=[False, False, False, True])
    placed = ranking.rank(given_, Rank(salience=0.1))
    assert order(placed) == [3, 1, 0, 2]
    assert [each.why["salience"] for each in placed] == pytest.approx([0.7, 0.6, 0.3, 0.0])
    assert placed[0].score == pytest.approx(0.9 * 0.5 + 0.1 * 0.7)
    assert placed[0].why["fused"] == 0.5


def test_age_takes_half_of_its_share_in_a_half_life_and_nothing_of_what_lasts():
    given_ = candidates(0.8, 0.8, 0.8, 0.8, ts=[0, 86 * DAY_MS, 100 * DAY_MS, 0], lasting=[False, False, False, True])
    placed = ranking.rank(given_, Rank(age_half_life_days=14, age_share=0.4))
    assert order(placed) == [3, 2, 1, 0]
    assert [each.why["age"] for each in placed] == pytest.approx([1, 1, 0.8, 0.6 + 0.4 * 2 ** (-100 / 14)])


def test_age_is_counted_from_the_newest_candidate():
    scores = [ranking.rank(candidates(0.8, 0.7, ts=[at, at + DAY_MS]), ALL)[0].score for at in (0, 10**12)]
    assert scores[0] == scores[1]


def test_a_half_life_of_nearly_nothing_and_of_a_century():
    given_ = candidates(0.8, 0.7, ts=[-(10**13), 10**13])
    assert order(ranking.rank(given_, Rank(age_half_life_days=1e-9))) == [1, 0]
    assert order(ranking.rank(given_, Rank(age_half_life_days=36_500, age_share=0.01))) == [0, 1]


@pytest.mark.parametrize(("cosine", "lowered"), [(0.81, True), (0.8, True), (0.79, False), (-1, False)])
def test_a_newer_hit_that_is_alike_lowers_the_older(cosine, lowered):
    given_ = candidates(0.9, 0.85, ts=[1, 2], vectors=[unit(1, 0), at_cosine(cosine)])
    placed = ranking.rank(given_, SUPERSEDE)
    assert order(placed) == ([1, 0] if lowered else [0, 1])
    assert {each.at: each.why["superseded"] for each in placed} == {0: 0.7 if lowered else 1.0, 1: 1.0}


def test_supersession_lowers_once_and_the_newest_not_at_all():
    vectors = [unit(1, 0)] * 3
    placed = ranking.rank(candidates(0.9, 0.88, 0.86, ts=[1, 2, 3], vectors=vectors), SUPERSEDE)
    assert {each.at: each.why["superseded"] for each in placed} == {0: 0.7, 1: 0.7, 2: 1.0}


def test_a_newer_hit_that_does_not_answer_the_question_lowers_nothing():
    placed = ranking.rank(candidates(0.9, 0.8, ts=[1, 2], vectors=[unit(1, 0)] * 2), SUPERSEDE)
    assert [each.why["superseded"] for each in placed] == [1, 1]


def test_a_correction_and_a_newer_hit_lower_once_each():
    given_ = candidates(0.9, 0.88, ts=[1, 2], corrected=[True, False], vectors=[unit(1, 0)] * 2)
    assert {each.at: each.why["superseded"] for each in ranking.rank(given_, SUPERSEDE)} == pytest.approx(
        {0: 0.49, 1: 1}
    )


def test_of_equal_times_the_later_in_the_log_is_newer():
    vectors = [unit(1, 0)] * 2
    assert order(ranking.rank(candidates(0.9, 0.85, vectors=vectors), SUPERSEDE)) == [1, 0]
    assert folds(ranking.rank(candidates(0.9, 0.8, vectors=vectors), FOLD)) == {1: [0]}


def test_what_is_corrected_by_name_is_lowered_without_vectors():
    placed = ranking.rank(candidates(0.9, 0.8, corrected=[True, False]), SUPERSEDE)
    assert order(placed) == [1, 0]


def test_what_is_corrected_is_older_than_what_corrects_it_whatever_its_time():
    given_ = candidates(0.9, 0.8, ts=[9, 1], corrected=[True, False], vectors=[unit(1, 0)] * 2)
    assert folds(ranking.rank(given_, FOLD)) == {1: [0]}


def test_two_that_correct_each_other_are_both_lowered():
    placed = ranking.rank(candidates(0.9, 0.8, corrected=[True, True]), SUPERSEDE)
    assert [each.score for each in placed] == pytest.approx([0.63, 0.56])


def test_the_newest_of_duplicates_stands_at_the_place_of_the_best():
    given_ = candidates(0.9, 0.8, 0.3, ts=[1, 9, 2], vectors=[unit(1, 0), unit(0, 1), unit(1, 0)])
    placed = ranking.rank(given_, FOLD)
    assert [(each.at, each.score, each.folded) for each in placed] == [(2, 0.9, [0]), (1, 0.8, [])]


def test_all_are_duplicates():
    placed = ranking.rank(candidates(0.9, 0.8, 0.7, ts=[3, 2, 1], vectors=[unit(1, 1)] * 3), ALL)
    assert [(each.at, each.folded) for each in placed] == [(0, [1, 2])]


def test_folding_does_not_hang_on_a_chain():
    """Each is like the next, the first is not like the last: that one leads itself."""
    steps = [unit(math.cos(a), math.sin(a)) for a in (0, 0.3, 0.6)]
    placed = ranking.rank(candidates(0.9, 0.8, 0.7, ts=[3, 2, 1], vectors=steps), FOLD)
    assert folds(placed) == {0: [1]}
    assert order(placed) == [0, 2]


def test_a_duplicate_goes_under_the_one_it_is_most_like():
    steps = [unit(math.cos(a), math.sin(a)) for a in (0, 0.4, 0.25)]
    assert folds(ranking.rank(candidates(0.9, 0.8, 0.7, ts=[3, 2, 1], vectors=steps), FOLD)) == {1: [2]}


def test_a_threshold_of_one_means_equal():
    rng = np.random.default_rng(7)
    one = rng.standard_normal(384).astype(np.float32)
    one /= np.linalg.norm(one)
    near = one + np.float32(0.01) * rng.standard_normal(384).astype(np.float32)
    near /= np.linalg.norm(near)
    given_ = candidates(0.9, 0.8, 0.7, ts=[1, 2, 3], vectors=[one, near, one])
    assert folds(ranking.rank(given_, Rank(fold=True, fold_cosine=1))) == {2: [0]}


@pytest.mark.parametrize("missing", [[0.0, 0.0], [np.nan, np.nan], [np.inf, 0.0]])
def test_without_a_vector_nothing_is_alike(missing):
    given_ = candidates(0.9, 0.8, 0.7, ts=[1, 2, 3], vectors=[missing, missing, [1, 0]])
    placed = ranking.rank(given_, Rank(fold=True, supersede=True, fold_cosine=0.5, supersede_cosine=0.5))
    assert order(placed) == [0, 1, 2]
    assert folds(placed) == {}


@pytest.mark.parametrize(
    ("text", "lasts"),
    [
        ("You must never restart the broker by hand.", True),
        ("I prefer tea in the morning", True),
        ("JetStream means persistence", True),
        ("First stop the service, then start it", True),
        ("We went to the lake", False),
        ("", False),
        ("x" * 2_000 + " you must", False),
    ],
)
def test_what_lasts(text, lasts):
    assert ranking.lasting(text) is lasts


@pytest.mark.parametrize(
    "fields",
    [
        {"salience": 1.1},
        {"salience": -0.1},
        {"age_half_life_days": -1},
        {"fold_cosine": 0.4},
        {"fold": 1},
        {"decay": 1},
    ],
)
def test_ranges(fields):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(fields), type=Rank)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(-(10**12), 10**12), st.integers(0, 7), st.booleans(), st.booleans()),
        max_size=30,
    ),
    st.floats(0, 1),
    st.floats(0, 100),
    st.booleans(),
    st.booleans(),
)
def test_nothing_is_lost_or_twice_and_scores_stay_in_range(rows, salience, half_life, supersede, fold):
    rows.sort(key=lambda row: -row[0])
    spread = [unit(math.cos(n / 3), math.sin(n / 3)) for n in range(7)] + [unit(0, 0)]
    given_ = candidates(
        *(row[0] for row in rows),
        ts=[row[1] for row in rows],
        vectors=np.array([spread[row[2]] for row in rows]).reshape(-1, 2),
        lasting=np.array([row[3] for row in rows], dtype=np.bool_),
        corrected=np.array([row[4] for row in rows], dtype=np.bool_),
    )
    options = Rank(salience=salience, age_half_life_days=half_life, supersede=supersede, fold=fold)
    placed = ranking.rank(given_, options)
    assert sorted([*order(placed), *(i for each in placed for i in each.folded)]) == list(range(len(rows)))
    scores = [each.score for each in placed]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
