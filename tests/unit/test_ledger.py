"""What a projection's store must still lose, across deaths of its process."""

import pytest

from jetmem.domain import keys
from jetmem.runtime.ledger import Ledger
from jetmem.testing.store import FakeStore

FAMILIES = ("rows", "meta")


@pytest.fixture
def store():
    return FakeStore(FAMILIES)


def filled(store, *parts):
    batch = store.batch()
    for part in parts:
        batch.put("rows", keys.partition(part) + b"acme\0", b"words")
    batch.put("meta", keys.partition(3), b"7")
    store.write(batch, sync=True)


def test_words_are_in_files_until_those_are_rewritten(store):
    ledger, batch = Ledger(store), store.batch()
    ledger.erase(batch, "acme", 5)
    ledger.erase(batch, "zoo", 6)
    store.write(batch, sync=True)
    assert Ledger(store).erased == {"acme": 5, "zoo": 6}
    done = dict(ledger.erased)
    batch = store.batch()
    ledger.erase(batch, "acme", 9)
    store.write(batch, sync=True)
    ledger.purged(done)
    assert ledger.erased == Ledger(store).erased == {"acme": 9}, "a forget that came meanwhile stays"


def test_a_dropped_partition_is_unfinished_until_it_begins_again(store):
    filled(store, 3, 4)
    Ledger(store).drop(3, iter(["acme"]), FAMILIES)
    assert [key[:1] for key, _ in store.scan("rows", b"")] == [keys.partition(4)]
    assert store.get("meta", keys.partition(3)) == b"7"
    next_process = Ledger(store)
    assert next_process.unfinished() == [3]
    assert next_process.erased == {"acme": 0}, "its words are in files"
    batch = store.batch()
    next_process.dropped(batch, 3)
    store.write(batch, sync=True)
    assert Ledger(store).unfinished() == []
