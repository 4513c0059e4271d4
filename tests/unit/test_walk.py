import numpy as np

from jetmem.domain.walk import ROLLUP_WORDS_MAX, Card, Question, Statistics, Walk, merged, sketch_of

HELD = Statistics(3, 4.0, {"tea": 1, "the": 3})
CHILDREN = {
    "year": [Card("may", False, {"tea": 1, "the": 2}, 2), Card("june", False, {"the": 3}, 3)],
    "may": [Card("s1", True, {"tea": 1, "the": 2}, 1), Card("s2", True, {"the": 2}, 2)],
    "june": [Card("s3", True, {"the": 3}, 3)],
}
ROOTS = [Card("year", False, {"tea": 1, "the": 3}, 3)]


def walked(words, segments=3, nodes_max=100, vector=None, children=CHILDREN):
    walk = Walk(Question(words, HELD, vector), segments=segments, nodes_max=nodes_max)
    walk.see(ROOTS)
    while (step := walk.open()) is not None:
        if not step.leaf:
            walk.see(children[step.id])
    return [step.id for step in walk.steps]


def test_the_best_node_in_sight_is_opened_next():
    assert walked(["tea"], segments=1) == ["year", "may", "s1"]
    assert walked(["tea"]) == ["year", "may", "s1", "june", "s3", "s2"]


def test_a_question_without_a_known_word_gives_the_latest():
    assert [node for node in walked(["unknown"]) if node.startswith("s")] == ["s3", "s2", "s1"]
    assert [node for node in walked([]) if node.startswith("s")] == ["s3", "s2", "s1"]


def test_it_stops_where_it_is_told_to():
    assert walked(["tea"], segments=0) == []
    assert walked(["tea"], nodes_max=3) == ["year"]
    assert walked(["tea"], nodes_max=5) == ["year", "may", "s1", "s2"]


def test_steps_tell_their_scores_and_fall_where_nodes_promise_no_more_than_they_keep():
    walk = Walk(Question(["tea", "the"], HELD), segments=3, nodes_max=100)
    walk.see(ROOTS)
    while (step := walk.open()) is not None:
        if not step.leaf:
            walk.see(CHILDREN[step.id])
    scores = [step.score for step in walk.steps]
    assert scores == sorted(scores, reverse=True) and 0 < scores[0] <= 1


def test_a_vector_finds_what_words_do_not():
    east, north = np.float32([1, 0]), np.float32([0, 1])
    children = {**CHILDREN, "may": [Card("s1", True, {"the": 2}, 1, [east]), Card("s2", True, {"the": 2}, 2, [north])]}
    assert walked(["unknown"], vector=east, children=children)[-3:][0] in ("s1",)
    assert Question([], HELD, east).score(Card("s", True, {}, 0, [-east])) == 0
    assert Question([], HELD, east).score(Card("s", True, {}, 0)) == 0


def test_rare_words_weigh_more():
    question = Question(["tea", "the"], HELD)
    assert question.score(Card("a", True, {"tea": 1, "x": 3})) > question.score(Card("b", True, {"the": 1, "x": 3}))


def test_a_sketch_keeps_the_frequent_and_the_long():
    assert sketch_of(["a", "bb", "a", "ccc"], 2) == {"a": 2, "ccc": 1}
    assert sketch_of([], 5) == {}


def test_a_merged_sketch_has_the_greatest_counts():
    assert merged([{"a": 1, "b": 3}, {"a": 2, "c": 1}], 10) == {"b": 3, "a": 2, "c": 1}
    assert merged([{"a": 1}, {"bb": 1}], 1) == {"bb": 1}


def test_a_full_sketch_may_have_lost_the_word():
    question = Question(["tea"], HELD)
    full = {f"w{n}": 1 for n in range(ROLLUP_WORDS_MAX)}
    assert question.score(Card("may", False, full)) == question.score(Card("june", False, {"tea": 1})) > 0
    assert question.score(Card("s", True, full)) == 0
