"""Rows of one partition among those of others: told in slices, taken, and dropped in turns."""

from jetmem.domain import keys
from jetmem.persist import copying
from jetmem.persist.copying import BEGINNING, drop_some, slice_of
from jetmem.persist.handler import Recorder
from jetmem.persist.record import FAMILIES, Checkpoint, Record, Trimming, due
from jetmem.persist.shares import Copying, Shares
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


def test_a_new_store_learns_with_the_rows_of_a_trim_that_was_left_half_done():
    store = FakeStore(FAMILIES)
    shares = Shares(Recorder(Record(store), "memory"))
    copying_on = Copying("token", Checkpoint())
    record = shares.recorder.record
    shares.take(PART, Copying("token", Checkpoint("another stream")), [], 7, Trimming("killed", 9))
    assert (record.trimmed(), record.trimming()) == (0, Trimming())
    shares.take(PART, copying_on, [], 7, Trimming("killed", 9))
    assert (record.trimmed(), record.trimming()) == (7, Trimming("killed", 9))
    shares.take(PART, copying_on, [], 3, Trimming("another", 20))
    assert (record.trimmed(), record.trimming()) == (7, Trimming("killed", 9)), "what it knew holds"
    shares.note_trimming(12, Trimming())
    shares.take(PART, copying_on, [])
    assert (record.trimmed(), record.trimming()) == (12, Trimming())
