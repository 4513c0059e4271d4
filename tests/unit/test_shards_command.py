"""`jetmem shards`: what people and programs read of the table of owners."""

from jetmem.console.shards_command import sentences, summary
from jetmem_schemas.owning import Owned


def table(**changes):
    made = [Owned(part % 2, f"store{part % 2}") for part in range(64)]
    for part, line in changes.items():
        made[int(part.removeprefix("p"))] = line
    return made


def test_who_has_how_many():
    found = summary(table(), 2)
    assert found == {"owners": {"persist-0": 32, "persist-1": 32}, "left": [], "waiting": 0}
    assert sentences(found) == "persist-0: 32 partitions\npersist-1: 32 partitions"


def test_what_is_elsewhere_unclaimed_nobodys_or_left_is_waited_for():
    found = summary(table(p1=Owned(0, "store0"), p2=Owned(0, ""), p3=Owned(), p4=Owned(0, "store0", 2, ["store1"])), 2)
    assert (found["left"], found["waiting"]) == ([4], 4)
    assert found["owners"] == {"nobody": 1, "persist-0": 33, "persist-1": 30}
    assert sentences(found).endswith("1 partition may still be in files of stores they left")


def test_without_a_number_only_what_is_on_its_way_counts():
    assert summary(table(p1=Owned(0, "store0")), None)["waiting"] == 0
    assert summary(table(p1=Owned(1, "store1", 1, ["store0"])), None)["waiting"] == 1


def test_before_persist_ever_ran():
    found = summary([], 1)
    assert found["waiting"] == 64
    assert sentences(found) == "no partition has an owner: persist has not run yet"
