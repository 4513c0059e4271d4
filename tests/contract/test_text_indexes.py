"""The word indexes of a shard: each partition by itself."""

import pytest

from jetmem.adapters.tantivy_parts import TextIndexes
from jetmem.adapters.tantivy_text import TextDoc, analyze, window
from jetmem_schemas.internal import Filters, Head

HEAP = 15_000_000


def opened(tmp_path):
    return TextIndexes(tmp_path / "text", range(64), HEAP)


@pytest.fixture
def indexes(tmp_path):
    held = opened(tmp_path)
    yield held
    held.close()


def doc(key, text, tenant="acme"):
    words = window(tenant, analyze(text))
    terms = {"agent": ("alice",), "session": ("s1",), "author": (), "kind": ("message",), "role": ("user",), "tag": ()}
    return TextDoc(key, 0, key, 0, 1_700_000_000_000, words, words, words, terms)


def hits(indexes, part, word, tenant="acme"):
    return indexes.search(part, tenant, analyze(word), "w1", 1_000, tenant_docs=2, filters=Filters())


def found(indexes, part, word, tenant="acme"):
    return sorted(hit.key for hit in hits(indexes, part, word, tenant))


def test_no_partition_shifts_anothers_scores(indexes):
    indexes.add(3, doc(1, "engine violin"))
    indexes.add(3, doc(2, "the engine was heard in the whole of the house"))
    indexes.commit({3: Head(2, 20)})
    before = hits(indexes, 3, "engine")
    for key in range(500):
        indexes.add(4, doc(key, "engine " * (key % 90 + 1), tenant="zoo"))
    indexes.commit({4: Head(500, 600)})
    assert hits(indexes, 3, "engine") == before
    assert found(indexes, 3, "engine", "zoo") == []


def test_each_partition_has_its_own_checkpoint(indexes, tmp_path):
    indexes.add(3, doc(1, "engine"))
    indexes.add(4, doc(1, "engine"))
    indexes.commit({3: Head(1, 10)})
    assert (indexes.head(3), indexes.head(4), indexes.head(5)) == (Head(1, 10), Head(), Head())
    assert (found(indexes, 3, "engine"), found(indexes, 4, "engine"), found(indexes, 5, "engine")) == ([1], [], [])
    indexes.close()
    again = opened(tmp_path)
    assert (again.head(3), again.head(4)) == (Head(1, 10), Head())
    again.close()


def test_all_partitions_at_once_lose_nothing(indexes):
    for round_ in range(3):
        for part in range(64):
            indexes.add(part, doc(round_, "engine"))
        # half of them are committed while the others hold what is not
        indexes.commit({part: Head(round_ + 1, 1) for part in range(0, 64, 2)})
    indexes.commit({part: Head(3, 1) for part in range(64)})
    assert all(found(indexes, part, "engine") == [0, 1, 2] for part in range(64))


def test_what_comes_during_a_commit_is_not_in_it(indexes, tmp_path):
    indexes.add(3, doc(1, "engine"))
    indexes.begin(3, Head(1, 10)).result()
    indexes.add(3, doc(2, "engine"))
    indexes.add(4, doc(7, "engine"))
    indexes.delete(3, 1)
    indexes.end(3)
    assert (found(indexes, 3, "engine"), indexes.head(3)) == ([1], Head(1, 10))
    indexes.commit({3: Head(3, 30), 4: Head(7, 70)})
    assert (found(indexes, 3, "engine"), found(indexes, 4, "engine")) == ([2], [7])


def test_dropping_waits_for_a_commit(indexes):
    indexes.add(3, doc(1, "engine"))
    indexes.begin(3, Head(1, 10))
    indexes.add(3, doc(2, "engine"))
    indexes.drop(3)
    assert (found(indexes, 3, "engine"), indexes.head(3)) == ([], Head())


def test_one_is_replaced_and_its_words_leave_the_files(indexes, tmp_path):
    for part in (3, 4):
        indexes.add(part, doc(1, "zanzibar"))
        indexes.add(part, doc(2, "engine"))
    indexes.commit({3: Head(2, 20), 4: Head(2, 20)})
    indexes.delete(3, 1)
    indexes.commit({3: Head(3, 30)})
    fresh = indexes.fresh(3)
    fresh.add(doc(2, "engine"))
    indexes.replace(3, fresh, Head(3, 30))
    assert (indexes.words_held(3, "acme", "zanzibar"), indexes.words_held(4, "acme", "zanzibar")) == (0, 3)
    assert (found(indexes, 3, "engine"), indexes.head(3)) == ([2], Head(3, 30))
    indexes.add(3, doc(4, "violin"))
    indexes.commit({3: Head(4, 40)})
    assert found(indexes, 3, "violin") == [4]
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["03", "04"]


def test_one_is_dropped_with_what_it_had_not_committed(indexes):
    indexes.add(3, doc(1, "engine"))
    indexes.commit({3: Head(1, 10)})
    indexes.add(3, doc(2, "engine"))
    indexes.drop(3)
    assert (found(indexes, 3, "engine"), indexes.head(3)) == ([], Head())
    indexes.add(3, doc(5, "engine"))
    indexes.commit({3: Head(5, 50)})
    assert found(indexes, 3, "engine") == [5]


def test_what_a_dying_rewrite_left_of_one_that_is_anothers_by_now_is_dropped_with_it(indexes, tmp_path):
    fresh = indexes.fresh(3)
    fresh.add(doc(1, "engine"))
    fresh.commit(Head(1, 10))
    fresh.rest()
    indexes.close()
    others = TextIndexes(tmp_path / "text", [4], HEAP)
    others.drop(3)
    assert list((tmp_path / "text").iterdir()) == []
    others.close()


def test_what_a_dying_replace_leaves_is_cleared(indexes, tmp_path):
    indexes.add(3, doc(1, "engine"))
    indexes.commit({3: Head(1, 10)})
    fresh = indexes.fresh(3)
    fresh.add(doc(1, "engine"))
    fresh.commit(Head(1, 10))
    fresh.rest()
    indexes.close()
    (tmp_path / "text" / "03").rename(tmp_path / "text" / "03.old")  # died between the two renames
    again = opened(tmp_path)
    assert (again.head(3), found(again, 3, "engine")) == (Head(), [])
    assert list((tmp_path / "text").iterdir()) == []
    again.close()
