import math

import pytest

from jetmem.evaluation import bench_encoder, bench_report, metrics


def test_recall_is_the_share_of_the_evidence():
    assert metrics.recall(["a", "x", "b"], frozenset({"a", "b", "c", "d"}), 2) == 0.25
    assert metrics.recall(["a", "x", "b"], frozenset({"a", "b", "c", "d"}), 3) == 0.5
    assert metrics.recall([], frozenset({"a"}), 5) == 0


def test_ndcg_is_binary_and_knows_the_best_order():
    evidence = frozenset({"a", "b"})
    assert metrics.ndcg(["a", "b", "x"], evidence, 10) == pytest.approx(1)
    second = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert metrics.ndcg(["x", "a"], evidence, 10) == pytest.approx(second)
    assert metrics.ndcg(["x"] * 10 + ["a"], evidence, 10) == 0


def test_ndcg_with_more_evidence_than_places_can_be_whole():
    ids = [str(number) for number in range(20)]
    assert metrics.ndcg(ids, frozenset(ids), 10) == pytest.approx(1)


def test_ndcg_counts_an_id_once():
    assert metrics.ndcg(["a", "a"], frozenset({"a", "b"}), 10) < 1


def test_score_and_mean():
    first = metrics.score(["a"], frozenset({"a"}))
    second = metrics.score(["x"] * 9 + ["a", "b"], frozenset({"a", "b"}))
    assert (second.recall_5, second.recall_10, second.recall_20, second.hit_10) == (0, 0.5, 1, 1)
    both = metrics.mean([first, second])
    assert (both.recall_5, both.recall_10, both.n) == (0.5, 0.75, 2)
    assert metrics.mean([]) == metrics.Scores(0, 0, 0, 0, 0, n=0)


def test_categories_are_apart_and_in_order():
    good, bad = metrics.score(["a"], frozenset({"a"})), metrics.score([], frozenset({"a"}))
    found = metrics.by_category([(4, good), (1, bad), (4, bad)])
    assert [(kind, each.recall_5, each.n) for kind, each in found.items()] == [(1, 0, 1), (4, 0.5, 2)]


def test_percentiles_take_the_nearest_rank():
    values = [float(number) for number in range(1, 101)]
    assert [metrics.percentile(values, share) for share in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert metrics.percentile([7.0], 0.5) == 7
    assert metrics.percentile([], 0.5) == 0
    assert metrics.spread([0.001, 0.002]) == metrics.Spread(1, 2, 2, 2, 2)


def test_a_backlog_is_judged_by_its_middle():
    # Slow while the load runs (until 10 s), then 100 a second; the last tenth is slow again.
    samples = [(0.0, 1000, 0), (10.0, 950, 50)]
    samples += [(10.0 + second, 950 - 100 * second, 50 + 100 * second) for second in range(1, 9)]
    samples += [(30.0, 0, 1000)]
    found = bench_encoder.steady(samples)
    assert found.rate == pytest.approx(100)
    assert found.events == pytest.approx(100)
    assert found.seconds == 30


def test_windows_come_from_all_over():
    texts = [str(number) for number in range(100)]
    assert bench_encoder.windows(texts, 10, 5) == [texts[start : start + 10] for start in (0, 20, 40, 60, 80)]
    assert len(bench_encoder.windows(texts, 10, 50)) == 10


def test_a_target_is_a_floor_or_a_ceiling():
    assert bench_report.Figure("a", 10, "x", 9).met()
    assert not bench_report.Figure("a", 10, "x", 9, at_most=True).met()
    assert bench_report.Figure("a", 10, "x").met() is None
