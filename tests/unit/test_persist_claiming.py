"""Whose a partition is: the table of owners against what a store says of itself."""

import pytest

from jetmem.persist.claiming import Me, claimed, first_table, holding, others, released, rid, standing
from jetmem.runtime.errors import Broken
from jetmem_schemas.owning import NOBODY, Owned
from jetmem_schemas.subjects import PARTITIONS

A, B = Me(0, 2, "A"), Me(1, 2, "B")
EVERY = range(PARTITIONS)
FRESH = [Owned(part % 2, "A" if part % 2 == 0 else "") for part in EVERY]
BOTH = claimed(B, FRESH, {})


def mine(me, table, owned=()):
    return set(standing(me, table, dict.fromkeys(owned, 0)).mine)


def test_a_fresh_cluster_is_shared_out_and_each_claims_its_own():
    assert first_table(A, {}, recorded=False) == FRESH
    assert mine(A, BOTH) == set(range(0, PARTITIONS, 2))
    assert mine(B, BOTH) == set(range(1, PARTITIONS, 2))


def test_a_store_from_before_there_was_a_table_has_everything():
    table = first_table(A, {}, recorded=True)
    assert mine(A, table) == set(EVERY)
    assert mine(B, claimed(B, table, {})) == set()


def test_of_two_stores_with_one_ordinal_the_second_serves_nothing():
    rival = Me(1, 2, "C")
    table = claimed(rival, BOTH, {})
    assert table == BOTH
    assert others(rival, table) == list(range(1, PARTITIONS, 2))
    with pytest.raises(Broken, match="belongs to another store of persist-1; this one serves nothing"):
        standing(rival, table, {})


def test_the_place_of_a_store_that_is_gone_is_taken_and_it_does_not_come_back():
    heir = Me(1, 2, "C")
    table = claimed(heir, BOTH, {}, others(heir, BOTH))
    assert mine(heir, table) == set(range(1, PARTITIONS, 2))
    with pytest.raises(Broken, match="belongs to another store"):
        standing(B, table, dict.fromkeys(range(1, PARTITIONS, 2), 0))


def test_a_partition_moves_once_however_often_it_is_let_go():
    table = holding(BOTH, 0, "B")
    assert table[0].left == ["B"]
    assert holding(table, 0, "B") == table
    table = released(A, table, 0, 1, "B")
    assert table[0] == Owned(1, "B", 1, ["A"])
    assert released(A, table, 0, 1, "B") == table, "it is not ours any more"
    assert standing(A, table, {0: 0}).lost == [0]
    assert 0 in mine(B, table)
    assert rid(table, [0], "A")[0] == Owned(1, "B", 1, [])


def test_it_comes_back_while_the_files_of_before_are_still_there():
    table = released(A, holding(BOTH, 0, "B"), 0, 1, "B")
    table = released(B, holding(table, 0, "A"), 0, 0, "A")
    assert table[0] == Owned(0, "A", 2, ["B"])


def test_an_older_copy_of_the_table_is_refused():
    with pytest.raises(Broken, match="an older copy of it was restored"):
        standing(A, BOTH, {0: 1})


def test_a_lost_table_is_made_again_of_what_the_stores_say():
    table = first_table(A, {0: 0, 3: 1}, recorded=True)
    assert table[0] == Owned(0, "A", 0)
    assert table[3] == Owned(0, "A", 1)
    assert table[1].owner == NOBODY
    table = claimed(B, table, {1: 4})
    assert table[1] == Owned(1, "B", 4)
    assert table[5].owner == NOBODY, "nobody says that it has it, so nobody starts empty there"


def test_an_ordinal_beyond_the_last_wants_nothing():
    assert not any(map(Me(3, 1, "D").wants, EVERY))
    assert all(map(Me(0, 1, "D").wants, EVERY))
