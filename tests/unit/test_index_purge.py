"""A purge rewrites the words of one partition: what was not forgotten is found as before."""

import pytest

from harness.index_stage import Stage, event, forgot
from jetmem.index.rows import FAMILIES
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
