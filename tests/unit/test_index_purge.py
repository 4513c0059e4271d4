"""A purge rewrites the words of one partition: what was not forgotten is found as before."""

import asyncio
from concurrent.futures import Future

import pytest

from harness.index_stage import Stage, event, forgot, node
from jetmem.index.app import Index
from jetmem.index.rows import FAMILIES, nodes_of, prefix
from jetmem.tasks import end
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import FindRequest
from jetmem_schemas.subjects import partition_of

TENANTS = ("acme", "beta", "globex", "zoo")


@pytest.fixture
def stage(tmp_path):
    made = Stage(FakeStore(FAMILIES), tmp_path)
    yield made
    made.close()


def found(stage, tenant):
    request = FindRequest(tenant, "cargo", "text", 100)
    return sorted(hit.id for hit in stage.finder.find(request))


def test_the_test_has_partitions_before_and_behind_each_other():
    assert len({partition_of(tenant) for tenant in TENANTS}) == len(TENANTS)


@pytest.mark.parametrize("forgetful", TENANTS)
def test_what_was_not_forgotten_is_found_after_a_purge_whatever_other_partitions_hold(stage, forgetful):
    said = {tenant: [event(n, f"cargo {n}", tenant=tenant) for n in range(1, 21)] for tenant in TENANTS}
    for entries in said.values():
        stage.apply(*entries)
    stage.apply(forgot(21, [said[forgetful][4]], tenant=forgetful))
    while not stage.indexer.purge_step():
        pass
    stage.indexer.purged()
    everything = sorted(entry.id for entry in said[forgetful])
    for tenant in TENANTS:
        assert found(stage, tenant) == [id_ for id_ in everything if tenant != forgetful or id_ != "e5"]
    assert not stage.indexer.erased


def test_a_purge_takes_the_words_of_nodes_too_and_leaves_the_others(stage):
    day, week = "toc:day:2026-01-15", "toc:week:2026-W03"
    told = node(3, day, "the zanzibar ferry")
    stage.apply(event(1, "cargo"), node(2, day, "the zanzibar boat"), told, node(4, week, "a cargo train"))
    part, space = partition_of("acme"), nodes_of("acme")
    stage.apply(forgot(5, [event(1, ""), node(2, day, ""), told]))
    assert stage.text.words_held(part, space, "zanzibar") > 0, "deleted, and still in the files"
    while not stage.indexer.purge_step():
        stage.apply(node(6, week, "a cargo plane"))
    stage.indexer.purged()
    assert stage.text.words_held(part, space, "zanzibar") == 0
    hits = stage.finder.find(FindRequest("acme", "cargo", "text", 9, target="nodes"))
    assert [(hit.id, hit.rseq) for hit in hits] == [(week, 6)]
    assert stage.finder.find(FindRequest("acme", "train", "text", 9, target="both")) == []


def test_a_reset_takes_nodes_too(stage):
    stage.apply(event(1, "cargo"), node(2, "toc:day:2026-01-15", "cargo"), event(1, "cargo", tenant="zoo"))
    stage.indexer.reset(partition_of("acme"))
    assert stage.finder.find(FindRequest("acme", "cargo", "text", 9, target="both")) == []
    assert stage.indexer.erased == {"acme": 0}, "their words may be in files"
    assert not [key for family in FAMILIES for key, _ in stage.store.scan(family, prefix(nodes_of("acme")))]
    assert found(stage, "zoo") == ["e1"]


def test_a_commit_that_waits_for_a_thread_is_not_taken_back_when_the_process_ends():
    """Of 64 partitions only a few are committed at once; the last ones wait when SIGTERM comes."""

    async def go():
        commit: Future[None] = Future()
        ending = asyncio.create_task(Index._committed(None, 3, commit))
        await asyncio.sleep(0)
        await end(ending)
        return commit.cancelled()

    assert not asyncio.run(go())
