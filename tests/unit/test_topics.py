"""What becomes of groups: whose id a topic has, how much it weighs, what it is called."""

import asyncio

import numpy as np
import pytest

from jetmem.adapters import density_clusters
from jetmem.domain import topics
from jetmem.domain.topics import DAY_MS, Member, Told
from jetmem.runtime.errors import Retryable


def clouds(sizes, *, seed=0, spread=0.1, dimensions=48):
    """Unit vectors around random directions, cloud after cloud, and each one's cloud."""
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((len(sizes), dimensions))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    which = np.repeat(np.arange(len(sizes)), sizes)
    rows = centres[which] + spread * chance.standard_normal((len(which), dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), which


def members(old):
    return [Member(f"{n:026d}", topic) for n, topic in enumerate(old)]


def test_dense_clouds_are_groups_and_the_same_ones_each_time():
    vectors, which = clouds([20, 12, 30])
    groups = density_clusters.groups_of(vectors)
    assert len(set(groups[groups >= 0])) == 3
    for number in range(3):
        assert len(set(groups[which == number]) - {-1}) == 1
    assert (density_clusters.groups_of(vectors) == groups).all()


def test_a_child_groups_as_we_would():
    vectors, _ = clouds([20, 12])
    assert asyncio.run(density_clusters.grouped(vectors)) == density_clusters.groups_of(vectors).tolist()


def test_a_child_that_fails_says_why():
    with pytest.raises(Retryable, match="groups_of failed"):
        asyncio.run(density_clusters.grouped(np.zeros((1,), np.float32)))


def test_equal_vectors_are_one_group():
    assert set(density_clusters.groups_of(np.ones((9, 16), np.float32) / 4)) == {0}


def test_new_topics_are_called_after_their_first_segment():
    vectors, which = clouds([6, 6])
    plan = topics.regroup(members([""] * 12), vectors, which)
    assert plan.topics == [f"topic:{0:026d}"] * 6 + [f"topic:{6:026d}"] * 6
    assert plan.merged == {}


def test_a_topic_keeps_its_id_while_it_grows_and_loses_its_first():
    vectors, which = clouds([8, 8])
    old = ["topic:A"] * 6 + ["", ""] + ["topic:B"] * 8
    plan = topics.regroup(members(old), vectors, which)
    assert plan.topics == ["topic:A"] * 8 + ["topic:B"] * 8


def test_of_a_split_the_greater_part_keeps_the_id():
    vectors, which = clouds([5, 9])
    plan = topics.regroup(members(["topic:A"] * 14), vectors, which)
    assert plan.topics == [f"topic:{0:026d}"] * 5 + ["topic:A"] * 9


def test_a_name_that_another_topic_has_is_not_given_twice():
    vectors, which = clouds([5, 9])
    first = f"topic:{0:026d}"
    plan = topics.regroup(members([first] * 14), vectors, which)
    assert plan.topics == [f"topic:{1:026d}"] * 5 + [first] * 9


def test_of_two_that_merge_the_smaller_one_ends_in_the_greater():
    vectors, _ = clouds([14])
    plan = topics.regroup(members(["topic:A"] * 5 + ["topic:B"] * 9), vectors, [0] * 14)
    assert set(plan.topics) == {"topic:B"}
    assert plan.merged == {"topic:A": "topic:B"}


def test_who_is_near_a_group_joins_it_and_who_is_far_stays_out():
    vectors, which = clouds([10, 10], spread=0.05)
    far, _ = clouds([1], seed=9)
    groups = [*which, -1, -1]
    groups[3] = -1
    plan = topics.regroup(members([""] * 22), np.concatenate([vectors, vectors[:1], far]), groups)
    assert plan.topics[20] == plan.topics[0]
    assert plan.topics[21] == ""


def test_without_groups_every_topic_ends():
    vectors, _ = clouds([4])
    assert topics.regroup(members(["topic:A"] * 4), vectors, [-1] * 4).topics == [""] * 4
    assert topics.regroup([], np.zeros((0, 0), np.float32), []).topics == []


def test_importance_halves_every_thirty_days():
    weight, last = topics.weighed([(0.5, 0), (0.5, 30 * DAY_MS), (1.0, 60 * DAY_MS)])
    assert (weight, last) == (pytest.approx(0.125 + 0.25 + 1.0), 60 * DAY_MS)
    assert topics.importance(weight, last, 60 * DAY_MS) == pytest.approx(1.375)
    assert topics.importance(weight, last, 90 * DAY_MS) == pytest.approx(1.375 / 2)
    assert topics.importance(weight, last, 0) == pytest.approx(1.375), "what ends in the future ends now"


def test_grouping_is_due_when_enough_is_new_or_finds_no_place():
    assert not topics.due(19, 19, 0)
    assert topics.due(20, 20, 0)
    assert not topics.due(1_000, 99, 19)
    assert topics.due(1_000, 100, 0)
    assert topics.due(1_000, 20, 20)
    assert not topics.due(10_000, 199, 199)


def test_a_title_is_of_what_others_do_not_say_and_of_no_author():
    told = [Told(["harbour", "people", "Ann", "Old Ann"], {"harbour": 5, "people": 5, "ann": 9, "old": 9})] * 3
    everywhere = {"harbour": 15, "people": 500, "ann": 30, "old": 30}
    phrases = topics.labelled(told, everywhere, str.split, ["Ann"])
    assert phrases == ["harbour", "people"]
    assert topics.title_of(phrases) == "Harbour, people"
    assert topics.title_of([]) == ""
    assert len(topics.title_of(["x" * 60, "y" * 60])) <= topics.TITLE_CHARS_MAX


def test_no_phrase_of_a_label_repeats_a_word():
    told = [Told(["red harbour", "harbour", "meadow"], {"red": 3, "harbour": 3, "meadow": 1})]
    assert topics.labelled(told, {}, str.split, []) == ["harbour", "meadow"]


def test_related_topics_are_the_nearest_ones():
    rows = np.eye(8, dtype=np.float32)
    rows[1] = topics.unit([rows[0], rows[1]])
    assert topics.related(0, rows) == [(1, 0.7071)]
    assert len(topics.related(0, np.ones((9, 4), np.float32) / 2)) == topics.RELATED


def test_vectors_that_cancel_out_have_a_direction_all_the_same():
    one = np.array([1, 0], np.float32)
    assert topics.unit([one, -one]).tolist() == [1, 0]
