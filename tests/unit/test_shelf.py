"""The vectors of one tenant in memory, against brute force."""

import numpy as np
import pytest

from jetmem.adapters.hnsw_graph import Graph
from jetmem.index import shelf as module
from jetmem.index.rows import Row
from jetmem.index.shelf import Shelf
from jetmem_schemas.internal import Filters

DIMENSIONS = 24


def unit(count, seed=1):
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def row(number, **fields):
    given = {"rseq": number + 1, "sid": number % 7, "position": number // 7, "who": number % 3, "ts": number * 10}
    kind, role = ("note", "tool") if number % 5 == 0 else ("message", "user")
    tags = ["even"] * (number % 2 == 0) + ["third"] * (number % 3 == 0)
    return Row(**({"hash": b"h", "kind": kind, "role": role, "tags": tags} | given | fields))


def filled(count, exact_max=50_000):
    held, vectors = Shelf(lambda d: Graph(d, 16, 100, 64), exact_max), unit(count)
    for number in range(count):
        held.put(number, row(number), vectors[number])
    return held, vectors


def best(vectors, question, rows, count):
    scores = vectors[rows] @ question
    return [int(r) for r in np.asarray(rows)[np.argsort(-scores, kind="stable")][:count]]


def test_an_empty_shelf_finds_nothing():
    held, _ = filled(0)
    assert held.search(unit(1)[0], 10, None).tolist() == []
    assert np.isnan(held.cosines(unit(1)[0], [(0, 0)])).all()


def test_the_first_vector_says_how_long_all_are():
    held = Shelf(lambda d: Graph(d, 16, 100, 64), 10)
    held.put(0, row(0), np.ones(5, np.float32))
    assert held.dimensions == 5
    assert held.search(unit(1)[0], 10, None).tolist() == [], "a question of another model"


def test_exact_search_is_brute_force_through_growth_and_removal():
    held, vectors = filled(1500)
    for number in range(0, 1500, 4):
        held.remove(number)
        held.remove(number)
    alive = [n for n in range(1500) if n % 4]
    assert held.dead == 375
    for question in unit(20, seed=2):
        assert held.search(question, 10, None).tolist() == best(vectors, question, alive, 10)


def test_removing_zeroes_the_vector_and_frees_the_place():
    held, vectors = filled(3)
    held.remove(1)
    assert not held.vectors[1].any()
    assert np.isnan(held.cosines(vectors[1], [(1, 0)])).all()
    assert held.live_numbers().tolist() == [0, 2]


def test_numbers_may_have_gaps_and_repeats_are_passed_over():
    held = Shelf(lambda d: Graph(d, 16, 100, 64), 10)
    vectors = unit(4)
    held.fill([3, 90], [row(3), row(90)], vectors[:2])
    held.fill([3, 90, 91], [row(3), row(90), row(91)], vectors[1:])
    assert held.live_numbers().tolist() == [3, 90, 91]
    held.remove(90)
    held.remove(50)
    assert held.live_numbers().tolist() == [3, 91]
    assert held.numbers_end == 92


@pytest.mark.parametrize(
    ("filters", "sids", "who", "keeps"),
    [
        (Filters(), frozenset({2, 5}), None, lambda n: n % 7 in (2, 5)),
        (Filters(), frozenset(), None, lambda n: False),
        (Filters(), None, 1, lambda n: n % 3 == 1),
        (Filters(), None, -1, lambda n: False),
        (Filters(kinds=["note"]), None, None, lambda n: n % 5 == 0),
        (Filters(kinds=["note", "message"]), None, None, lambda n: True),
        (Filters(kinds=["never"]), None, None, lambda n: False),
        (Filters(roles=["tool"]), None, None, lambda n: n % 5 == 0),
        (Filters(tags=["even", "third"]), None, None, lambda n: n % 6 == 0),
        (Filters(tags=["never"]), None, None, lambda n: False),
        (Filters(since=200, until=400), None, None, lambda n: 20 <= n < 40),
        (Filters(since=200, tags=["even"]), frozenset({0}), 0, lambda n: n >= 20 and n % 42 == 0),
    ],
)
def test_masks(filters, sids, who, keeps):
    held, vectors = filled(300)
    mask = held.mask(filters, sids, who)
    kept = [n for n in range(300) if keeps(n)]
    assert np.flatnonzero(mask).tolist() == kept
    question = unit(1, seed=9)[0]
    assert held.search(question, 10, mask).tolist() == best(vectors, question, kept, 10)


def test_no_filter_is_no_mask():
    assert filled(3)[0].mask(Filters(), None, None) is None


def test_a_mask_made_before_a_row_came_is_used_as_far_as_it_goes():
    held, vectors = filled(10)
    mask = held.mask(Filters(since=0), None, None)
    held.put(10, row(10), vectors[0])
    assert sorted(held.search(vectors[0], 20, mask).tolist()) == list(range(10))


def test_the_best_passage_of_an_event_counts():
    held = Shelf(lambda d: Graph(d, 16, 100, 64), 10)
    vectors = unit(3)
    for number in range(3):
        held.put(number, row(number, sid=1, position=4), vectors[number])
    found = held.cosines(vectors[1], [(9, 9), (1, 4)])
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(1.0, abs=1e-6)
    held.remove(1)
    assert held.cosines(vectors[1], [(1, 4)])[0] < 0.99


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "NARROW_ROWS", 50)


def link(held):
    while held.wants_graph():
        held.extend_graph(32)


def recall(held, vectors, alive, mask=None):
    hits = 0
    for question in unit(30, seed=5):
        found = held.search(question, 10, mask).tolist()
        assert len(found) == 10
        hits += len(set(found) & set(best(vectors, question, alive, 10)))
    return hits / 300


def test_graph_tail_and_removed_rows_together(small):
    held, vectors = filled(1200, exact_max=100)
    for _ in range(30):
        held.extend_graph(32)
    assert held.graph.rows == 960
    for number in range(0, 1200, 10):
        held.remove(number)
    alive = [n for n in range(1200) if n % 10]
    assert recall(held, vectors, alive) > 0.95
    link(held)
    assert held.graph.rows == 1200
    assert recall(held, vectors, alive) > 0.95


def test_a_filter_over_a_graph(small):
    held, vectors = filled(1200, exact_max=100)
    link(held)
    wide = held.mask(Filters(since=2000), None, None)
    assert recall(held, vectors, list(range(200, 1200)), wide) > 0.95
    narrow = held.mask(Filters(tags=["even"]), frozenset({3}), None)
    assert recall(held, vectors, [n for n in range(1200) if n % 2 == 0 and n % 7 == 3], narrow) == 1.0


def test_a_busy_graph_is_not_waited_for(small, monkeypatch):
    held, vectors = filled(1200, exact_max=100)
    link(held)
    monkeypatch.setattr(Graph, "nearest", lambda *_: None)
    assert recall(held, vectors, list(range(1200))) == 1.0


def test_a_worn_graph_is_made_anew(small):
    held, vectors = filled(1200, exact_max=100)
    link(held)
    before = held.graph
    for number in range(0, 1200, 3):
        held.remove(number)
    assert held.wants_graph()
    link(held)
    assert held.graph is not before
    assert held.graph.deleted == 0
    assert recall(held, vectors, [n for n in range(1200) if n % 3]) > 0.95


def test_small_tenants_have_no_graph():
    held, _ = filled(100, exact_max=100)
    assert not held.wants_graph()
    held.put(100, row(100), unit(1)[0])
    assert held.wants_graph()
