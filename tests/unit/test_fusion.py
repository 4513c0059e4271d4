"""Ranking: what each feature may and may not do, and that odd candidate sets give an answer, not a NaN."""

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetmem.domain import fusion, lexical
from jetmem.domain.fusion import Features, Mode, centre, rank, score, words

MODES: tuple[Mode, ...] = ("hybrid", "text", "vector")


def nothing_known(n: int) -> Features:
    """Candidates in log order, each in its own session, of which nothing is known."""
    none = np.full(n, np.nan)
    zero = np.zeros(n)
    return Features(
        order=np.arange(n),
        session=np.arange(n),
        turn=zero,
        window3=zero,
        window5=zero,
        named=np.zeros(n, dtype=np.bool_),
        cosine=none,
        cosine_before=none,
        cosine_after=none,
    )


def ranked(features: Features, mode: Mode = "hybrid") -> list[int]:
    return [index for index, _ in rank(features, mode)]


def test_weights_sum_to_one() -> None:
    assert sum(
        (
            fusion.W_TURN,
            fusion.W_WINDOW3,
            fusion.W_WINDOW5,
            fusion.W_SESSION,
            fusion.W_NAMED,
            fusion.W_DENSE,
        )
    ) == pytest.approx(1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_nothing_known_scores_zero_and_is_newest_first(mode: Mode, n: int) -> None:
    assert rank(nothing_known(n), mode) == [(i, 0.0) for i in reversed(range(n))]


@pytest.mark.parametrize("mode", MODES)
def test_best_in_everything_scores_one(mode: Mode) -> None:
    one = np.ones(1)
    best = Features(np.array([7]), np.array([3]), one, one, one, np.array([True]), one, one, one)
    assert score(best, mode) == pytest.approx([1.0])


@pytest.mark.parametrize("name", ["turn", "window3", "window5"])
def test_each_lexical_score_lifts_its_candidate(name: str) -> None:
    features = replace(nothing_known(3), **{name: np.array([4.0, 9.0, 0.0])})
    assert ranked(features) == ranked(features, "text") == [1, 0, 2]
    assert ranked(features, "vector") == [2, 1, 0]


def test_cosine_ranks_where_no_word_was_hit() -> None:
    features = replace(nothing_known(3), cosine=np.array([0.2, 0.6, 0.4]))
    assert ranked(features) == ranked(features, "vector") == [1, 2, 0]
    assert ranked(features, "text") == [2, 1, 0]


def test_named_author_lifts_but_does_not_replace_the_words() -> None:
    named = np.array([True, False, False])
    assert ranked(replace(nothing_known(3), named=named))[0] == 0
    assert ranked(replace(nothing_known(3), named=named, window5=np.array([0.0, 5.0, 0.0])))[:2] == [1, 0]


def test_neighbours_decide_between_equal_cosines() -> None:
    features = replace(
        nothing_known(3),
        cosine=np.full(3, 0.5),
        cosine_before=np.array([0.1, 0.5, np.nan]),
        cosine_after=np.array([0.1, 0.9, np.nan]),
    )
    assert ranked(features) == [1, 2, 0]


def test_missing_neighbours_are_no_penalty() -> None:
    alone = replace(nothing_known(1), cosine=np.array([0.6]))
    assert score(alone, "vector") == pytest.approx([0.6])


def test_turn_without_vector_is_middling_whatever_its_neighbours_say() -> None:
    features = replace(
        nothing_known(4),
        cosine=np.array([0.2, np.nan, 0.8, 0.4]),
        cosine_after=np.array([0.2, 0.9, 0.8, 0.4]),
    )
    assert score(features, "vector")[1] == pytest.approx(0.4)


def test_negative_cosine_counts_as_none() -> None:
    assert score(replace(nothing_known(1), cosine=np.array([-0.3]))) == pytest.approx([0.0])


def test_session_with_more_hits_lifts_its_silent_turn() -> None:
    features = replace(nothing_known(5), session=np.array([9, 9, 9, 4, 4]), turn=np.array([3.0, 3.0, 0.0, 5.0, 0.0]))
    by_score = dict(rank(features))
    assert by_score[2] > by_score[4] > 0


def test_session_counts_its_best_turns_only() -> None:
    short, long = fusion.SESSION_TURNS, fusion.SESSION_TURNS * 4
    features = replace(
        nothing_known(short + long),
        session=np.repeat([1, 2], [short, long]),
        turn=np.repeat([2.0, 1.0], [short, long]),
    )
    by_score = score(features, "text")
    assert by_score[:short].min() > by_score[short:].max()


def test_equal_scores_are_newest_first_whatever_the_order_of_arrival() -> None:
    features = replace(nothing_known(4), order=np.array([30, 10, 40, 20]), turn=np.full(4, 2.0))
    assert ranked(features) == [2, 0, 3, 1]


finite = st.floats(0, 60)
cosines = st.floats(-1, 1) | st.just(float("nan"))
rows = st.lists(
    st.tuples(st.integers(0, 3), finite, finite, finite, st.booleans(), cosines, cosines, cosines),
    max_size=12,
)


@given(rows, st.randoms(use_true_random=False), st.sampled_from(MODES))
def test_scores_stay_in_bounds_and_ignore_the_order_of_arrival(
    rows: list[tuple[int, float, float, float, bool, float, float, float]],
    random: Random,
    mode: Mode,
) -> None:
    order = list(range(len(rows)))

    def features(order: list[int]) -> Features:
        columns = [np.array([rows[i][c] for i in order]) for c in range(8)]
        session, turn, window3, window5, named, own, before, after = columns
        named = named.astype(np.bool_)
        return Features(np.array(order, dtype=np.int64), session, turn, window3, window5, named, own, before, after)

    straight = [(order[i], s) for i, s in rank(features(order), mode)]
    shuffled = list(order)
    random.shuffle(shuffled)
    assert [(shuffled[i], s) for i, s in rank(features(shuffled), mode)] == straight
    assert all(0.0 <= s <= 1.0 for _, s in straight)


@pytest.mark.parametrize(
    ("author", "question", "expected"),
    [
        ("Caroline", "When did Caroline go?", True),
        ("Caroline Smith", "what is smith's plan", True),
        ("Jürgen", "Was macht JÜRGEN?", True),
        ("Carol", "When did Caroline go?", False),
        ("", "When did Caroline go?", False),
        ("J S", "what is s to j", False),
    ],
)
def test_a_question_names_an_author_by_any_word(author: str, question: str, expected: bool) -> None:
    assert (not words(question).isdisjoint(words(author))) is expected


@given(st.integers(1, 9), st.integers(0, 2))
def test_centre_gives_every_turn_the_window_around_it(length: int, reach: int) -> None:
    hits = [(5, position, float(position)) for position in range(length)]
    expected = {(5, i): float(min(i + reach, length - 1)) for i in range(length)}
    assert centre(hits, {5: length - 1}, reach) == expected


def test_centre_of_one_hit_in_the_middle_moves_to_the_middle_only() -> None:
    assert centre([(1, 4, 7.0)], {1: 20}, 2) == {(1, 2): 7.0}


def test_centre_keeps_sessions_apart_and_drops_windows_that_are_not_full() -> None:
    assert centre([(1, 0, 7.0), (2, 0, 3.0)], {1: 9, 2: 0}, 2) == {(2, 0): 3.0}


def test_rarity_boost_gives_rarity_within_the_tenant() -> None:
    alone = lexical.rarity_boost(3, 600, 600)
    beside_others = lexical.rarity_boost(3, 600, 1_000_000)
    common = lexical.rarity_boost(300, 600, 1_000_000)
    assert alone == pytest.approx(1.0)
    assert 0 < common < beside_others < 1


def test_rarity_boost_bears_counts_that_lag_behind_deletions() -> None:
    assert lexical.rarity_boost(10, 4, 8) == pytest.approx(1.0)


def test_date_words_are_what_a_question_would_say() -> None:
    assert lexical.date_words(datetime(2023, 5, 8, 13, 56, tzinfo=UTC)) == "8 May 2023"
