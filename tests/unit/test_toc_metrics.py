import numpy as np
import pytest

from jetmem.evaluation import toc_metrics as metrics
from jetmem.evaluation.toc_metrics import Coverage


def test_coverage_is_the_share_of_the_evidence_in_what_was_opened():
    opened = [["a"], ["x", "a"], ["b"], ["y"], ["c"]]
    assert metrics.coverage(opened, frozenset("abcd")) == Coverage(0.25, 0.5, 0.75)
    assert metrics.coverage([], frozenset("a")) == Coverage(0, 0, 0)


def test_a_mean_counts_its_questions():
    assert metrics.mean([Coverage(0, 0.5, 1), Coverage(1, 1, 1)]) == Coverage(0.5, 0.75, 1, 2)
    assert metrics.mean([]) == Coverage(0, 0, 0, 0)


def test_what_is_cited():
    assert metrics.cited(["a", "a", "x"], frozenset("ab")) == 0.5


def test_redundancy_is_the_likeness_to_the_most_alike():
    assert metrics.repeated_words([frozenset("ab"), frozenset("ab"), frozenset("c")]) == pytest.approx(2 / 3)
    assert metrics.repeated_words([frozenset("a")]) == metrics.repeated_words([]) == 0
    assert metrics.repeated_words([frozenset(), frozenset()]) == 0
    assert metrics.repeated_meaning([np.float32([1, 0]), np.float32([0.6, 0.8])]) == pytest.approx(0.6)


def test_baselines_choose_no_more_than_there_is():
    assert metrics.lead(3, 2) == [0, 1] and metrics.lead(1, 5) == [0]
    assert metrics.at_random(9, 4, 7) == metrics.at_random(9, 4, 7) and len(metrics.at_random(2, 4, 7)) == 2
