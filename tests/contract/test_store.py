"""One suite for the store and its fake; what only a disk can show is below it."""

import shutil
import subprocess
import sys

import pytest

from jetmem.adapters.rocks import Rocks
from jetmem.runtime.errors import Broken
from jetmem.testing.store import FakeStore

FAMILIES = ("one", "two")


@pytest.fixture(params=["rocks", "fake"])
def store(request, tmp_path):
    made = Rocks(tmp_path / "store", FAMILIES, format_version=1) if request.param == "rocks" else FakeStore(FAMILIES)
    yield made
    made.close()


def put(store, rows, family="one", sync=True):
    batch = store.batch()
    for key, value in rows.items():
        batch.put(family, key, value)
    store.write(batch, sync=sync)


def keys_of(found):
    return [key for key, _ in found]


def test_get_returns_what_was_put_and_none_else(store):
    put(store, {b"k": b"v", b"empty": b""})
    assert store.get("one", b"k") == b"v"
    assert store.get("one", b"empty") == b""
    assert store.get("one", b"K") is None
    assert store.get("two", b"k") is None


def test_get_many_keeps_the_order_asked(store):
    put(store, {b"a": b"1", b"b": b"2"})
    assert store.get_many("one", [b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    assert store.get_many("one", []) == []


def test_scan_each_gives_the_first_keys_of_every_prefix_in_the_order_asked(store):
    put(store, {b"a1": b"1", b"a2": b"2", b"a3": b"3", b"b1": b"4", b"c": b"5"})
    put(store, {b"a4": b"6"}, family="two")
    found = list(store.scan_each("one", [b"c", b"a", b"x", b"b", b"a"], 2))
    assert found == [
        [(b"c", b"5")],
        [(b"a1", b"1"), (b"a2", b"2")],
        [],
        [(b"b1", b"4")],
        [(b"a1", b"1"), (b"a2", b"2")],
    ]
    assert list(store.scan_each("one", [], 2)) == []


def test_later_wins_within_a_batch_and_between_batches(store):
    batch = store.batch()
    batch.put("one", b"k", b"1")
    batch.put("one", b"k", b"2")
    batch.put("one", b"gone", b"1")
    batch.delete("one", b"gone")
    batch.delete("one", b"back")
    batch.put("one", b"back", b"1")
    batch.delete("one", b"never there")
    assert len(batch) == 7
    store.write(batch, sync=False)
    assert (store.get("one", b"k"), store.get("one", b"gone"), store.get("one", b"back")) == (b"2", None, b"1")
    put(store, {b"k": b"3"})
    assert store.get("one", b"k") == b"3"


def test_a_batch_that_is_not_written_changes_nothing(store):
    batch = store.batch()
    batch.put("one", b"k", b"v")
    assert store.get("one", b"k") is None
    assert keys_of(store.scan("one", b"")) == []


def test_a_family_that_does_not_exist_is_refused(store):
    with pytest.raises(KeyError):
        store.batch().put("three", b"k", b"v")


ROWS = {b"\x00": b"0", b"a": b"1", b"a\x00": b"2", b"a\xff": b"3", b"b1": b"4", b"b2": b"5", b"b3": b"6", b"c": b"7"}


def test_scan_gives_a_prefix_in_order(store):
    put(store, ROWS)
    assert list(store.scan("one", b"b")) == [(b"b1", b"4"), (b"b2", b"5"), (b"b3", b"6")]
    assert keys_of(store.scan("one", b"a")) == [b"a", b"a\x00", b"a\xff"]
    assert keys_of(store.scan("one", b"")) == sorted(ROWS)
    assert keys_of(store.scan("one", b"zz")) == []
    assert keys_of(store.scan("two", b"")) == []


def test_scan_from_a_start_includes_it(store):
    put(store, ROWS)
    assert keys_of(store.scan("one", b"b", start=b"b2")) == [b"b2", b"b3"]
    assert keys_of(store.scan("one", b"b", start=b"b11")) == [b"b2", b"b3"]
    assert keys_of(store.scan("one", b"b", start=b"b4")) == []
    assert keys_of(store.scan("one", b"b", start=b"c")) == []


def test_scan_from_outside_the_prefix_gives_all_of_it(store):
    put(store, ROWS)
    for before in (b"", b"a", b"a\xff"):
        assert keys_of(store.scan("one", b"b", start=before)) == [b"b1", b"b2", b"b3"]
    assert keys_of(store.scan("one", b"b", start=b"c", back=True)) == [b"b3", b"b2", b"b1"]
    assert keys_of(store.scan("one", b"b", start=b"a", back=True)) == []


def test_scan_backwards(store):
    put(store, ROWS)
    assert keys_of(store.scan("one", b"b", back=True)) == [b"b3", b"b2", b"b1"]
    assert keys_of(store.scan("one", b"b", start=b"b2", back=True)) == [b"b2", b"b1"]
    assert keys_of(store.scan("one", b"b", start=b"b21", back=True)) == [b"b2", b"b1"]
    assert keys_of(store.scan("one", b"a", back=True)) == [b"a\xff", b"a\x00", b"a"]
    assert keys_of(store.scan("one", b"", back=True)) == sorted(ROWS, reverse=True)
    assert keys_of(store.scan("one", b"zz", back=True)) == []


def test_a_scan_sees_the_store_as_of_its_call(store):
    put(store, {b"a": b"1", b"b": b"1"})
    found = store.scan("one", b"")
    assert next(found) == (b"a", b"1")
    put(store, {b"b": b"2", b"c": b"2"})
    assert list(found) == [(b"b", b"1")]


def test_compaction_keeps_what_is_there(store):
    put(store, ROWS)
    store.compact()
    assert keys_of(store.scan("one", b"")) == sorted(ROWS)
    assert store.disk_bytes() > 0


def test_after_a_power_failure_the_fake_holds_what_was_synced():
    store = FakeStore(FAMILIES)
    put(store, {b"kept": b"1", b"changed": b"1"})
    put(store, {b"changed": b"2", b"lost": b"1"}, sync=False)
    found = store.after_power_failure()
    assert dict(found.scan("one", b"")) == {b"kept": b"1", b"changed": b"1"}
    assert (store.writes, store.syncs) == (2, 1)


def test_what_is_written_is_there_when_opened_again(tmp_path):
    store = Rocks(tmp_path, FAMILIES, format_version=1)
    put(store, {b"k": b"v"})
    store.close()
    again = Rocks(tmp_path, FAMILIES, format_version=1)
    assert again.get("one", b"k") == b"v"
    again.close()


def test_what_was_synced_survives_a_copy_of_the_files(tmp_path):
    """A copy taken while the store is open is what a dead process leaves, less what only its memory held."""
    store = Rocks(tmp_path / "store", FAMILIES, format_version=1)
    put(store, {b"k": b"v"})
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    store.close()
    copy = Rocks(tmp_path / "copy", FAMILIES, format_version=1)
    assert copy.get("one", b"k") == b"v"
    copy.close()


def test_a_second_process_is_kept_out(tmp_path):
    store = Rocks(tmp_path, FAMILIES, format_version=1)
    code = (
        "import sys; from pathlib import Path\n"
        "from jetmem.adapters.rocks import Rocks; from jetmem.runtime.errors import Broken\n"
        "try: Rocks(Path(sys.argv[1]), ('one', 'two'), format_version=1)\n"
        "except Broken as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "is in use by another process" in ran.stdout, ran.stderr
    store.close()


def test_a_newer_format_is_refused(tmp_path):
    Rocks(tmp_path, FAMILIES, format_version=2).close()
    with pytest.raises(Broken, match="newer"):
        Rocks(tmp_path, FAMILIES, format_version=1)
    store = Rocks(tmp_path, FAMILIES, format_version=3)
    store.set_format(1)
    store.close()
    Rocks(tmp_path, FAMILIES, format_version=1).close()


def grep(folder, word):
    return [f.name for f in folder.rglob("*") if f.is_file() and word in f.read_bytes()]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_the_first_key_of_a_file_that_was_never_merged_is_erased_too(tmp_path, how):
    """What is in files when a store is opened again, as after a kill, lies where RocksDB only moves them."""
    store = Rocks(tmp_path, FAMILIES, format_version=1)
    put(store, {b"k1": b"unutterable", b"k2": b"kept"})
    store.close()
    store = Rocks(tmp_path, FAMILIES, format_version=1)
    assert grep(tmp_path, b"unutterable")
    batch = store.batch()
    if how == "deleted":
        batch.delete("one", b"k1")
    else:
        batch.put("one", b"k1", b"blank")
    store.write(batch, sync=True)
    store.compact()
    assert grep(tmp_path, b"unutterable") == []
    assert store.get("one", b"k2") == b"kept"
    store.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_compaction_leaves_no_byte_of_what_was_erased(tmp_path, family):
    store = Rocks(tmp_path, FAMILIES, format_version=1)
    put(store, {b"k%d" % i: b"v" * 50 for i in range(1000)} | {b"k500": b"unutterable"}, family=family)
    store.compact()
    assert grep(tmp_path, b"unutterable")
    put(store, {b"k500": b"blank"}, family=family)
    put(store, {b"k501": b"unspeakable"}, family=family)
    assert grep(tmp_path, b"unspeakable")
    batch = store.batch()
    batch.delete(family, b"k501")
    store.write(batch, sync=True)
    store.compact()
    assert grep(tmp_path, b"unutterable") == [] and grep(tmp_path, b"unspeakable") == []
    assert store.get(family, b"k500") == b"blank"
    store.close()
