"""What graphs rely on in hnswlib, and what they promise.."""

import threading

import msgspec
import numpy as np
import pytest

from jetmem.adapters.hnsw_graph import Graph

DIMENSIONS = 16


def made(count, *, links=16, seed=1, graph=None, start=0):
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    held = graph or Graph(DIMENSIONS, links, 100, 64)
    if count:
        held.extend(vectors, np.arange(start, start + count), start + count)
    return held, vectors


def test_an_empty_graph_finds_nothing():
    held, _ = made(0)
    assert held.nearest(np.ones(DIMENSIONS, np.float32), 5).tolist() == []


def test_the_nearest_come_first_and_are_nearly_all_there():
    held, vectors = made(2000)
    hits = 0
    for number in range(50):
        near = held.nearest(vectors[number], 10)
        best = np.argsort(-(vectors @ vectors[number]))[:10]
        assert near[0] == number
        hits += len(set(near.tolist()) & set(best.tolist()))
    assert hits >= 480


def test_asking_for_more_than_there_is_gives_what_there_is():
    held, vectors = made(10)
    assert sorted(held.nearest(vectors[0], 500).tolist()) == list(range(10))
    for row in range(5):
        held.remove(row)
    assert sorted(held.nearest(vectors[0], 500).tolist()) == [5, 6, 7, 8, 9]


def test_more_than_can_be_reached_says_so_and_does_not_raise():
    held, vectors = made(3000, links=2)
    for row in range(2900):
        held.remove(row)
    found = held.nearest(vectors[2950], 100)
    assert found is None or set(found.tolist()) <= set(range(2900, 3000))


def test_a_large_answer_raises_ef():
    held, vectors = made(1000)
    assert len(held.nearest(vectors[0], 500)) == 500


def test_removed_rows_never_come_back_and_are_counted_once():
    held, vectors = made(100)
    for _ in range(2):
        held.remove(7)
        held.remove(5000)
    assert 7 not in held.nearest(vectors[7], 99)
    assert (held.linked, held.deleted) == (100, 1)


def test_it_grows_beyond_what_it_was_made_for():
    held, vectors = made(10)
    made(5000, graph=held, start=10, seed=2)
    assert held.rows == 5010
    assert held.nearest(vectors[3], 1).tolist() == [3]


def test_numbers_may_have_gaps():
    held = Graph(DIMENSIONS, 16, 100, 64)
    vectors = np.eye(DIMENSIONS, dtype=np.float32)[:3]
    held.extend(vectors, np.array([5, 900, 70_000]), 70_001)
    assert held.nearest(vectors[1], 1).tolist() == [900]
    assert held.rows == 70_001


def test_searching_beside_adding_and_removing():
    held, vectors = made(500)
    stop, errors = threading.Event(), []

    def search():
        while not stop.is_set():
            try:
                found = held.nearest(vectors[1], 10)
                assert found is None or len(found) == 10
            except BaseException as error:
                errors.append(error)
                return

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for each in searchers:
        each.start()
    for start in range(500, 3000, 50):
        made(50, graph=held, start=start, seed=start)
        held.remove(start)
    stop.set()
    for each in searchers:
        each.join()
    assert not errors


def test_a_snapshot_is_read_back_with_what_was_removed(tmp_path):
    held, vectors = made(300)
    held.remove(4)
    held.save(tmp_path, "model")
    again = Graph(DIMENSIONS, 16, 100, 64)
    alive = np.setdiff1d(np.arange(300), [4, 9])  # 9 was erased after the snapshot
    assert again.load(tmp_path, "model", alive, 300)
    assert (again.rows, again.linked, again.deleted) == (300, 300, 2)
    found = again.nearest(vectors[4], 298)
    assert found is not None
    assert set(found.tolist()) == set(alive.tolist())
    made(50, graph=again, start=300, seed=3)
    assert again.rows == 350


@pytest.mark.parametrize("where", [0, 100, 5_000, -1])
def test_a_flipped_bit_is_refused(tmp_path, where):
    held, _ = made(300)
    held.save(tmp_path, "model")
    path = tmp_path / "graph.bin"
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    assert not Graph(DIMENSIONS, 16, 100, 64).load(tmp_path, "model", np.arange(300), 300)


@pytest.mark.parametrize(
    ("model", "dimensions", "links", "upto"),
    [("other", 16, 16, 300), ("model", 8, 16, 300), ("model", 16, 8, 300), ("model", 16, 16, 299)],
)
def test_another_graph_than_the_rows_need_is_refused(tmp_path, model, dimensions, links, upto):
    held, _ = made(300)
    held.save(tmp_path, "model")
    assert not Graph(dimensions, links, 100, 64).load(tmp_path, model, np.arange(upto), upto)


@pytest.mark.parametrize("gone", ["graph.bin", "manifest.json"])
def test_half_a_snapshot_is_refused(tmp_path, gone):
    held, _ = made(30)
    held.save(tmp_path, "model")
    (tmp_path / gone).unlink()
    assert not Graph(DIMENSIONS, 16, 100, 64).load(tmp_path, "model", np.arange(30), 30)


def test_a_manifest_of_the_snapshot_before_is_refused(tmp_path):
    """Dying between the two renames leaves a new graph under the old manifest."""
    held, _ = made(30)
    held.save(tmp_path, "model")
    manifest = (tmp_path / "manifest.json").read_bytes()
    made(30, graph=held, start=30)
    held.save(tmp_path, "model")
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert not Graph(DIMENSIONS, 16, 100, 64).load(tmp_path, "model", np.arange(60), 60)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode({"rows": 1}))
    assert not Graph(DIMENSIONS, 16, 100, 64).load(tmp_path, "model", np.arange(60), 60)
