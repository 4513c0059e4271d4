"""What questions are answered from: loaded beside, compared by a part where it is much."""

import threading

import numpy as np
import pytest

from harness.learn_record import TENANT, Record, Stage
from harness.waiting import until
from jetmem.domain.procedures.decay import Decayed
from jetmem.learn import board as learn_board
from jetmem.learn import boards as learn_boards
from jetmem.learn import kept_shares, scan
from jetmem.learn.board import Board
from jetmem.learn.boards import Boards
from jetmem.learn.core import Tally
from jetmem.learn.kept_shares import KeptShares
from jetmem.learn.ports import News
from jetmem.learn.rows import Rows, decode_brief, encode, hashed
from jetmem.learn.scan import Scan
from jetmem.runtime.errors import Retryable


class Held(Rows):
    """Vectors are read when they may be."""

    def __init__(self, store):
        super().__init__(store)
        self.open, self.fails = threading.Event(), False

    def all_vectors(self, tenant):
        assert self.open.wait(60)
        if self.fails:
            raise OSError("the disk is gone")
        return super().all_vectors(tenant)


def stage_of(*tasks):
    record = Record()
    for n, task in enumerate(tasks):
        record.ran("p", True, task, id_=f"x{n}")
    stage = Stage(record)
    stage.settle()
    return stage


@pytest.fixture
def held():
    stage = stage_of("a", "b", "c")
    rows = Held(stage.store)
    boards = Boards(rows, stage.settings, wait_s=0.0)
    yield stage, rows, boards
    rows.open.set()
    boards.close()


def seen(board, stage, task):
    vector = np.frombuffer(stage.vector(task), dtype=np.float32)
    return board.near(vector, 9, 0.99).tasks


def done(boards):
    """Wait until vectors are there."""
    until(lambda: boards.compared(TENANT).complete, "vectors")
    return boards.compared(TENANT)


def test_one_waits_for_vectors_and_nobody_after(held, monkeypatch):
    _, _, boards = held
    boards._wait_s, waits = 0.8, []
    monkeypatch.setattr(learn_boards, "wait_for", lambda _, timeout: waits.append(timeout))
    assert [boards.compared(TENANT).complete for _ in range(3)] == [False] * 3
    assert waits == [0.8, 0.0, 0.0]


def test_who_cannot_wait_is_answered_without_the_tasks_that_lack(held):
    stage, rows, boards = held
    board = boards.compared(TENANT)
    assert (board.complete, board.tasks, board.standing(0).names) == (False, 0, ["p"])
    assert seen(board, stage, "a") == []
    rows.open.set()
    assert done(boards) is board
    assert (board.complete, board.tasks) == (True, 3)
    assert len(seen(board, stage, "a")) == 1


def test_what_is_written_while_vectors_are_loaded_counts(held):
    stage, rows, boards = held
    stage.it._hears += (boards,)
    board = boards.compared(TENANT)
    stage.record.forget({"x1"})
    stage.record.ran("q", True, "late", id_="late")
    stage.settle()
    assert (board.tasks, len(seen(board, stage, "late"))) == (1, 1)
    rows.open.set()
    done(boards)
    assert [len(seen(board, stage, task)) for task in ("a", "b", "c", "late")] == [1, 0, 1, 1]


def test_vectors_that_cannot_be_read_are_read_again(held):
    _, rows, boards = held
    rows.fails = True
    rows.open.set()
    with pytest.raises(Retryable):
        done(boards)
    rows.fails = False
    assert done(boards).complete


def test_after_procedures_that_cannot_be_read_nothing_is_kept_until_they_are(held, monkeypatch):
    stage, rows, boards = held
    stage.it._hears += (boards,)

    def fails(tenant):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="gone"):
        patched.setattr(rows, "procedures", fails)
        boards.get(TENANT)
    stage.record.ran("q", True, id_="late")
    stage.settle()
    assert not boards._held[TENANT]._missed, "nobody may ask for long"
    assert set(boards.get(TENANT).standing(0).names) == {"p", "q"}


def test_places_of_tasks_without_a_vector_and_the_newest_of_too_many():
    board = Board(4)
    board.expect([b"1", b"2", b"3", b"4", b"5"])
    board.fill([b"1", b"2", b"3"], np.eye(4, dtype=np.float32)[:3])
    board.filled()
    assert sorted(board.near(np.ones(4, np.float32), 9, 0.5).tasks) == [b"2", b"3"]
    for n in range(6, 9):
        board.take(News(tasks={b"%d" % n: np.ones(4, np.float32).tobytes()}))
    assert board.tasks == 4
    assert b"8" in board.near(np.ones(4, np.float32), 9, 0.5).tasks


def test_a_vector_that_comes_after_its_place_was_given_on_takes_nobodys():
    board, vectors = Board(4), np.eye(4, dtype=np.float32)
    board.expect([b"1", b"2", b"late", b"3"])
    board.fill([b"1", b"2", b"3"], vectors[:3])
    board.filled()
    for task in (b"4", b"late"):
        board.take(News(tasks={task: vectors[3].tobytes()}))
    assert sorted(board.near(vectors[3], 9, 0.5).tasks) == [b"4", b"late"]


def test_a_place_given_on_while_it_is_compared_is_not_taken_for_what_was_there(monkeypatch):
    board, (one, other, third) = Board(9), np.eye(3, dtype=np.float32)
    board.take(News(tasks={b"gone": one.tobytes(), b"stays": np.sqrt((one + third) / 2).tobytes()}))
    real = scan.View.nearest

    def meanwhile(view, *asked):
        found = real(view, *asked)
        board.take(News(tasks={b"gone": None}))
        board.take(News(tasks={b"new": other.tobytes()}))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(scan.View, "nearest", meanwhile)
        assert board.near(one, 9, 0.3).tasks == [b"stays"]
    assert board.near(other, 9, 0.3).tasks == [b"new"]


def clustered(count, dimensions=64):
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((count // 50, dimensions))
    made = centres[rng.integers(0, len(centres), count)] + 0.8 * rng.standard_normal((count, dimensions))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("live", [False, True])
def test_by_a_part_nearly_the_same_are_found_with_exact_cosines(monkeypatch, live):
    monkeypatch.setattr(scan, "PARTS_FROM", 1_000)
    monkeypatch.setattr(scan, "PART", 24)
    monkeypatch.setattr(scan, "CANDIDATES", 300)
    vectors, it = clustered(5_000), Scan()
    if live:
        for row, vector in enumerate(vectors):
            it.put(row, vector, row + 1)
    else:
        it.put_many(range(len(vectors)), vectors, len(vectors))
        it.shorten()
    view = it.view(len(vectors))
    assert view.part.shape == (24, 5_000)
    hits = 0
    for question in clustered(60)[:40]:
        exact = vectors @ question
        wanted = np.argsort(-exact, kind="stable")[:20]
        rows, cosine = view.nearest(question, 20, -1.0)
        assert np.allclose(cosine, exact[rows], atol=1e-6)
        assert cosine == sorted(cosine, reverse=True)
        hits += len(set(rows) & set(wanted.tolist()))
    assert hits >= 0.97 * 40 * 20
    question = vectors[7]
    it.clear(7)
    assert 7 not in it.view(len(vectors)).nearest(question, 20, 0.0)[0][:1]
    it.put(7, question, len(vectors))
    assert it.view(len(vectors)).nearest(question, 1, 0.0)[0] == [7]


def test_few_among_many_places_that_are_free_are_found(monkeypatch):
    monkeypatch.setattr(scan, "PARTS_FROM", 1_000)
    monkeypatch.setattr(scan, "CANDIDATES", 50)
    vectors, it = clustered(5_000), Scan()
    it.put_many(range(len(vectors)), vectors, len(vectors))
    it.shorten()
    kept = list(range(4_980, 5_000))
    for row in set(range(5_000)) - set(kept):
        it.clear(row)
    for row in kept:
        assert it.view(5_000).nearest(vectors[row], 1, 0.5)[0] == [row]


def test_a_share_is_read_again_only_after_its_procedure_changed():
    it, read = KeptShares(), []

    def stored(runs):
        return lambda keys: read.append(list(keys)) or [None if key == b"c" else Tally(runs=runs) for key in keys]

    assert it.of(b"os", [b"a", b"c"], stored(1)).all_runs.tolist() == [1, 0]
    assert it.of(b"os", [b"c", b"b", b"a"], stored(2)).all_runs.tolist() == [0, 2, 1]
    it.changed([b"a", b"unknown"])
    assert it.of(b"os", [b"a", b"b"], stored(3)).all_runs.tolist() == [3, 2]
    assert it.of(b"db", [b"a"], stored(4)).all_runs.tolist() == [4]
    assert it.of(b"db", [], stored(5)).all_runs.tolist() == []
    assert read == [[b"a", b"c"], [b"b"], [b"a"], [b"a"]]


def test_sums_of_a_share_are_kept_as_they_are():
    it, at_ms = KeptShares(), 2**52 + 1
    tally = Tally(7, 3, 2, Decayed(2.9, at_ms), Decayed(1.9, at_ms - 1), 1, at_ms)
    for _ in range(2):
        told = it.of(b"os", [b"a", b"b"], lambda keys: [tally if key == b"a" else None for key in keys])
        assert [column.tolist() for column in told] == [[1.9, 0], [at_ms - 1, 0], [2.9, 0], [at_ms, 0], [3, 0]]


def test_what_was_read_while_a_write_came_is_not_kept():
    it = KeptShares()

    def late(keys):
        it.changed(keys)
        return [Tally(runs=1) for _ in keys]

    assert it.of(b"os", [b"a"], late).all_runs.tolist() == [1]
    assert it.of(b"os", [b"a"], lambda keys: [Tally(runs=2)]).all_runs.tolist() == [2]


def test_shares_that_are_too_many_are_read_anew(monkeypatch):
    monkeypatch.setattr(kept_shares, "KEPT_MAX", 3)
    it = KeptShares()
    it.of(b"os", [b"a", b"b"], lambda keys: [Tally(runs=1)] * 2)
    it.of(b"os", [b"c", b"d"], lambda keys: [Tally(runs=1)] * 2)
    assert it.of(b"os", [b"a", b"c"], lambda keys: [Tally(runs=2)] * len(keys)).all_runs.tolist() == [2, 1]


def test_a_share_that_two_read_at_once_counts_once():
    it = KeptShares()

    def other(keys):
        it.of(b"os", keys, lambda _: [Tally(runs=1)])
        return [None for _ in keys]

    it.of(b"os", [b"a"], other)
    alone = KeptShares()
    alone.of(b"os", [b"a"], lambda _: [Tally(runs=1)])
    assert it.nbytes == alone.nbytes > 0
    it.changed([b"a"])
    assert it.nbytes == 0


def test_contexts_that_never_come_again_leave_nothing_behind():
    it = KeptShares()
    for each in range(100):  # tickets, sessions: each is asked about once, and then run in
        it.of(b"%d" % each, [b"a"], lambda keys: [None] * len(keys))
        it.changed([b"a"])
    assert not it._held
    assert not it._kept


def test_the_likeliest_procedures_are_those_of_the_highest_rates(monkeypatch):
    monkeypatch.setattr(learn_board, "WEIGHED_MAX", 2)
    record = Record()
    for name, won in (("never", 0), ("always", 6), ("often", 4), ("once", 1), ("gone", 6)):
        for n in range(6):
            record.ran(name, n < won, id_=f"{name}-{n}")
    stage = Stage(record)
    stage.read()
    board = Boards(stage.rows, stage.settings).get(TENANT)
    board.take(News(procedures={hashed("gone"): None}))
    standing = board.standing(5_000)
    assert [standing.names[row] for row in standing.likeliest] == ["always", "often"]
    beside = standing.beside([(hashed("gone"), decode_brief(encode(stage.rows.procedure(TENANT, hashed("gone")))))])
    assert {beside.names[row] for row in beside.likeliest} == {"always", "gone"}


def test_how_procedures_stand_is_told_anew_when_one_changed_or_after_a_minute():
    stage = stage_of("a")
    board = Boards(stage.rows, stage.settings).get(TENANT)
    first = board.standing(5_000)
    assert board.standing(5_500) is first
    assert board.standing(70_000).now_ms == 70_000
    assert board.standing(4_000).now_ms == 4_000, "of a clock that was set back"
    before = board.standing(4_000)
    (key,) = before.row
    board.take(News(procedures={key: stage.rows.procedure(TENANT, key)}))
    assert board.standing(4_000) is not before
    board.take(News(procedures={key: None}))
    assert not board.standing(4_000).there.any()
    assert before.there.all(), "who looks at it goes on"


def test_what_a_write_drops_or_brings_before_its_vector_is_loaded_is_as_the_write_says():
    board, vectors = Board(4), np.eye(4, dtype=np.float32)
    board.take(News(tasks={b"4": vectors[3].tobytes()}))
    board.expect([b"1", b"2", b"3", b"4"])
    board.take(News(tasks={b"1": None, b"2": vectors[1].tobytes()}))
    board.fill([b"1", b"2", b"3", b"4"], vectors[[0, 3, 2, 0]])
    board.filled()
    assert board.tasks == 3 and list(board.vectors([b"1", b"2", b"3", b"4"])) == [b"2", b"3", b"4"]
    found = [board.near(each, 9, 0.5).tasks for each in vectors]
    assert found == [[], [b"2"], [b"3"], [b"4"]]


def test_a_share_of_what_a_write_changed_is_read_again():
    board = Board(4)
    board.shares.of(b"os", [b"a"], lambda _: [Tally(runs=1)])
    board.take(News(procedures={b"a": None}))
    assert board.shares.of(b"os", [b"a"], lambda _: [Tally(runs=2)]).all_runs.tolist() == [2]
