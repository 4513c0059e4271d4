"""Rows of one partition among those of others: told in slices, and dropped in turns."""

from jetmem.domain import keys
from jetmem.persist import copying
from jetmem.persist.copying import BEGINNING, drop_some, slice_of
from jetmem.persist.record import FAMILIES, due
from jetmem.testing.store import FakeStore
from jetmem_schemas.subjects import partition_of

PART = partition_of("acme")
OTHER = partition_of("zoo")


def filled():
    store = FakeStore(FAMILIES)
    batch = store.batch()
    for part, tenant in ((PART, "acme"), (OTHER, "zoo")):
        for number in range(1, 8):
            batch.put("log", keys.log(part, number), b"entry")
            batch.put("ids", keys.tenant(part, tenant) + keys.u64(number), b"id")
        batch.put("meta", b"head:" + keys.partition(part), b"7")
        batch.put("purge", keys.u64(part), due(tenant))
    store.write(batch, sync=True)
    return store


def held(store):
    return {(family, key) for family in FAMILIES for key, _ in store.scan(family, b"")}


def test_what_is_dropped_is_what_would_be_copied_and_none_is_looked_at_twice(monkeypatch):
    monkeypatch.setattr(copying, "_DROP_ROWS", 3)
    store = filled()
    before = held(store)
    rows, more = slice_of(store, PART, *BEGINNING)
    assert not more
    end, ends = drop_some(store, PART, BEGINNING), []
    while end is not None:
        ends.append(end)
        end = drop_some(store, PART, end)
    assert ends == sorted(set(ends)), "each turn goes on where the one before ended"
    assert len(ends) == -(-len(rows) // 3)
    assert slice_of(store, PART, *BEGINNING) == ([], False)
    assert before - held(store) == {(copying.family_of(source), key) for source, key, _ in rows}
    assert slice_of(store, OTHER, *BEGINNING)[0]
