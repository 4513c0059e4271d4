"""Whatever agents say, and however much: what learn holds in memory at once is bounded."""

import random
import re
import string
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness.learn_record import START, TENANT, Record, Stage, edges_of
from jetmem.domain.procedures.decay import Decayed
from jetmem.domain.procedures.kernels import TEXT_CHARS_MAX
from jetmem.learn import app, counting, sample, scan, shares, similar, studies, study
from jetmem.learn.board import Board
from jetmem.learn.core import Tally
from jetmem.learn.rows import hashed
from jetmem.learn.sample import sampled
from jetmem.learn.settings import LearnSettings

SIZING = Path(__file__).parents[2] / "services" / "SIZING.md"
WHOLE_MIB = 1_536
MIB = 1024 * 1024


def settled(record, **settings):
    stage = Stage(record, **settings)
    stage.settle()
    return stage


def test_all_that_learn_may_hold_at_once_is_what_sizing_says_and_fits():
    table = SIZING.read_text(encoding="utf-8").split("<!-- learn -->")[1].split("<!-- /learn -->")[0]
    told = {what: int(mib.replace(",", "")) for what, mib in re.findall(r"^\| ([^|]+?) \| ([\d,]+) \|", table, re.M)}
    held = LearnSettings()
    vectors = held.study_runs * 384 * 4
    known = {
        "boards of tenants": held.board_bytes_max,
        "RocksDB: blocks read, and indexes": app.LAYOUT.memory.blocks,
        "RocksDB: writes not flushed yet": app.LAYOUT.memory.writes,
        "rows of procedures counted last": 5 * counting.HOT_BYTES_MAX,
        "what was found in runs": studies.BYTES_MAX,
        "runs in which something is being found": studies.SAMPLES_MAX * (5 * sample.BYTES_MAX + vectors),
    }
    for what, size in known.items():
        assert told[what] == round(size / MIB), what
    whole = told.pop("**all together**")
    assert whole == sum(told.values()) <= WHOLE_MIB
    assert held.tasks_max * (384 * 4 + 128 * 4 + 400) <= held.board_bytes_max, "one board fits"


def test_long_tasks_do_not_blow_a_sample():
    chance = random.Random(3)
    record = Record()
    count = 150
    for n in range(count):
        text = "".join(chance.choices(string.ascii_letters + " 😀", k=300_000))
        steps = [{"tool": f"{n}-{m}" + "x" * 200} for m in range(100)]
        record.ran("p", True, text, steps=steps, failure="f" * 100_000, lessons=["l" * 100_000] * 9)
    record.ran("p", True, record_text := "a" * (TEXT_CHARS_MAX + 1))
    record.ran("p", True, record_text + "b")
    stage = settled(record)
    record.entries.clear()
    tracemalloc.start()
    of = sampled(stage.rows, TENANT, 20_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(of.runs) == count + 2
    assert max(len(run.task) for run in of.runs) <= TEXT_CHARS_MAX + 40
    assert not any(run.failure or run.lessons for run in of.runs)
    assert len({run.task for run in of.runs}) == count + 2, "what was cut is told apart"
    assert all(of.vectors[run.task] is not None for run in of.runs)
    _, tasks, _ = similar.told(of)
    assert hashed(record_text) in tasks, "by its key, not by what is left of its text"
    assert peak < count * 60_000


def test_a_sample_of_large_runs_has_fewer_the_latest(monkeypatch):
    monkeypatch.setattr(sample, "BYTES_MAX", 100_000)
    monkeypatch.setattr(sample, "_CHUNK", 10)
    record = Record()
    for n in range(200):
        record.ran("p", True, f"{n} {'words ' * 300}", id_=f"x{n}")
    stage = settled(record)
    found = [run.id for run in sampled(stage.rows, TENANT, 20_000).runs]
    assert found == [f"x{n}" for n in range(200 - len(found), 200)]
    assert 40 < len(found) < 70
    assert [run.id for run in sampled(stage.rows, TENANT, 3).runs] == ["x197", "x198", "x199"]


def test_rows_counted_last_are_kept_up_to_so_many_bytes(monkeypatch):
    monkeypatch.setattr(counting, "HOT_BYTES_MAX", 20_000)
    record = Record()
    stage = Stage(record)
    for n in range(60):
        record.ran(f"p{n}", True, f"t{n}", lessons=["a lesson " * 20] * 4, failure="f" * 500)
        stage.read()
        held = stage.it._counting
        assert held._hot_bytes == sum(size for _, size in held._hot.values()) <= 20_000
    assert 5 < len(held._hot) < 40
    record.forget({record.entries[-1].id})
    stage.read()
    assert held._hot_bytes == sum(size for _, size in held._hot.values())


def test_a_context_value_for_each_run_hides_neither_parts_nor_relations(monkeypatch):
    monkeypatch.setattr(shares, "SHARES_READ_MAX", 5)
    record = Record()
    for n in range(300):
        context = {"run_id": f"{n:x}-{n * 7919}", "lang": "c" if n % 3 else "python"}
        record.ran(f"p{n % 2}", True, f"task {n}", agent=f"a{n}", context=context, ts=START + n)
    stage = settled(record)
    told = stage.procedure("p0").by_context
    assert [(each.of, each.runs) for each in told[:2]] == [("lang=c", 100), ("lang=python", 50)]
    assert len(told) == shares.SHARES
    places: list[bytes] = []
    beside = study._beside
    monkeypatch.setattr(study, "_beside", lambda name, at: places.extend(at) or beside(name, at))
    edges = edges_of(study.related(sampled(stage.rows, TENANT, 1_000), spread=False).graph)
    assert ("p0", "p1", "context_related") in {(each.source, each.target, each.kind) for each in edges}
    assert len(places) < 150, "of 600: where both were tried"


@pytest.mark.parametrize("kind", ["agent", "session", "steps", "failure"])
def test_rows_of_a_procedure_do_not_grow_with_what_runs_say(kind):
    record = Record()
    sizes = []
    for n in range(600):
        said = {
            "agent": {"agent": f"agent-{n}"},
            "session": {"session": f"session-{n}"},
            "steps": {"steps": [{"tool": f"{n}-{m}" + "x" * 200} for m in range(60)]},
            "failure": {"failure": f"{n} " + "x" * 1_000, "lessons": [f"{n}-{m} " + "x" * 900 for m in range(50)]},
        }[kind]
        record.ran("p", n % 2 == 0, "one task", ts=START + n, **said)
        if n in (299, 599):
            stage = settled(record)
            sizes.append(sum(map(len, stage.held()["procedures"].values())))
    assert sizes[1] < 1.05 * sizes[0] < 120_000


@pytest.mark.parametrize("asked", [1, 16])
def test_shares_that_were_asked_about_count_as_much_as_they_take(asked):
    procedures = [b"%016d" % n for n in range(2_000)]
    tally = Tally(10**9, 2_000, 1_000, Decayed(0.5, 10**12), Decayed(0.25, 10**12), 10**12, 10**12)
    used = msgspec.json.encode(tally)

    def stored(keys):
        return [msgspec.json.decode(used, type=Tally) for _ in keys]

    board = Board(10)
    empty = board.size
    tracemalloc.start()
    for n in range(asked):
        board.shares.of(b"%016d" % n, procedures, stored)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.8 * taken < board.size - empty < 1.25 * taken


@pytest.mark.parametrize("parts_from", [2_000, 20_000])
def test_vectors_of_tasks_count_as_much_as_they_take(monkeypatch, parts_from):
    monkeypatch.setattr(scan, "PARTS_FROM", parts_from)
    vectors = np.random.default_rng(1).standard_normal((5_000, 384), dtype=np.float32)
    board = Board(len(vectors))
    tracemalloc.start()
    tasks = [b"%016d" % n for n in range(len(vectors))]
    board.expect(tasks)
    board.fill(tasks, vectors)
    board.filled()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < board.size < 1.25 * taken
