"""What every projection's process does beside applying: waiting, how far it is, beginning anew, closing."""

import asyncio

import pytest
from faststream.nats import NatsBroker

from jetmem.adapters import projection_process
from jetmem.adapters.layouts import own_folder
from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.projection_process import ProjectionProcess
from jetmem.runtime.errors import RequestFailed
from jetmem.runtime.settings import Common
from jetmem_schemas.internal import AppliedRequest, Entry, Head
from jetmem_schemas.subjects import PARTITIONS, partition_of

PART = partition_of("acme")


def entries(first, end):
    return [Entry(n, n * 10, 0, "event", "acme", "a", "s", f"e{n}", 0, b"") for n in range(first, end)]


class Two:
    """Two arms: `fast` is done when applied, `slow` when told."""

    def __init__(self):
        self.at = Head()
        self.slow = Head()
        self.slices = []
        self.done = []

    def position(self, part):
        return self.at

    def apply(self, part, entries):
        self.slices.append(len(entries))
        self.at = Head(entries[-1].rseq, entries[-1].seq)

    def reset(self, part):
        self.at = self.slow = Head()

    def heads(self, part, tenant):
        return {"fast": self.at, "slow": self.slow}

    def passed(self, part):
        return {"fast": self.at, "slow": self.at}

    def counts(self, tenant):
        return {"asked": tenant}

    def close(self):
        self.done.append("closed")


@pytest.fixture
def two():
    return Two()


def process_of(two, tmp_path, **common):
    shell = Shell("toc", Common(data=str(tmp_path), **common), broker=NatsBroker())
    return ProjectionProcess(shell, two, tmp_path, read_threads=1)


@pytest.fixture
def process(two, tmp_path):
    made = process_of(two, tmp_path)
    yield made
    asyncio.run(made._close())
    assert two.done == ["closed"]


def test_entries_are_applied_in_slices_and_whoever_waits_hears_of_each(process, two, monkeypatch):
    monkeypatch.setattr(projection_process, "_LOOK_S", 3600.0)

    async def go():
        waiting = asyncio.create_task(process.wait("acme", 1500, 30_000, ["fast"]))
        await asyncio.sleep(0)
        await process.apply(PART, entries(1, 2501))
        assert await waiting == []

    asyncio.run(go())
    assert two.slices == [1000, 1000, 500]


def test_an_arm_that_is_late_is_named_and_an_erasure_waits_for_nothing_pending(process, two):
    async def go():
        await process.apply(PART, entries(1, 6))
        assert await process.wait("acme", 5, 0) == ["slow"]
        assert await process.wait("acme", 5, 0, ["fast"]) == []
        assert await process.wait("acme", 5, 0, erased=True) == []
        assert await process.wait("acme", 6, 0, erased=True) == ["fast", "slow"]
        assert await process.wait("acme", 0, 0) == []
        reply = await process._applied(PART, AppliedRequest("acme", 5, 0))
        assert (reply.at, reply.late) == ({"fast": Head(5, 50), "slow": Head()}, [])

    asyncio.run(go())


def test_at_the_end_of_the_log_an_arm_covers_what_persist_has_read(process, two):
    async def go():
        await process.apply(PART, entries(1, 6))
        process.heard(PART, Head(5, 50), 99)
        assert process.at("acme") == {"fast": Head(5, 99), "slow": Head()}
        two.slow = Head(5, 50)
        assert process.at("acme")["slow"] == Head(5, 99)
        await process.apply(PART, entries(6, 8))
        assert process.at("acme")["fast"] == Head(7, 99)
        await process.reset(PART)
        assert process.at("acme") == {"fast": Head(), "slow": Head()}

    asyncio.run(go())


def test_status_tells_of_a_tenant_and_of_nobody(process, two):
    async def go():
        two.at = Head(5, 50)
        mine = await process._status(PART, {"tenant": "acme"})
        assert mine.counts == {"asked": "acme", "fast_seq": 50, "slow_seq": 0}
        assert (mine.stage, mine.instance) == ("toc", "toc-0")
        assert (await process._status(-1, {})).counts == {"asked": ""}

    asyncio.run(go())


def test_a_shard_answers_for_its_own_partitions_only(two, tmp_path):
    shard = (PART + 1) % 2
    process = process_of(two, tmp_path, shards=2, shard=shard)
    assert process.parts == tuple(range(shard, PARTITIONS, 2))
    with pytest.raises(RequestFailed, match="does not own"):
        process.at("acme")
    with pytest.raises(RequestFailed, match="does not own"):
        asyncio.run(process.wait("acme", 1, 0))
    asyncio.run(process._close())


def test_rebuild_is_an_empty_folder_the_next_time(process, tmp_path):
    (tmp_path / "rows").mkdir()

    async def go():
        assert await process._rebuild(-1, {}) == {"rebuilding": True}

    asyncio.run(go())
    assert own_folder(tmp_path.parent, tmp_path.name) == tmp_path
    assert not tmp_path.exists()
    assert not tmp_path.with_name(tmp_path.name + ".old").exists()
    (tmp_path / "rows").mkdir(parents=True)
    assert (own_folder(tmp_path.parent, tmp_path.name) / "rows").exists(), "asked once, done once"


def test_whoever_waits_looks_now_and_then_however_often_something_moves(process):
    async def go():
        first = process.moved
        process.pulse()
        assert first.is_set()
        second = process.moved
        for _ in range(1000):
            process.pulse()
        assert process.moved is second
        assert not second.is_set()
        await asyncio.wait_for(second.wait(), 30)
        assert process.moved is not second

    asyncio.run(go())
