"""Nodes made by words at once, and again when their vectors came."""

import msgspec
import pytest

from harness.toc_record import PART, TENANT, Record, Stage
from jetmem.summarize import better
from jetmem.summarize.rows import FAMILIES, VectorsRow, prefix

DAY_1 = 1_767_607_200_000
MINUTE = 60_000
#: Nearly every sentence is of two things: by words they differ, and so do the sentences chosen by words and vectors.
SAID = [
    f"{what} number {n} near the {where} of {['Anna', 'Bob', 'Cleo'][n % 3]}"
    for n, (what, where) in enumerate(
        [("lantern", "meadow"), ("violin", "harbour"), ("engine", "garden"), ("ticket", "winter")] * 10
    )
]


@pytest.fixture
def record():
    made = Record()
    for n, text in enumerate(SAID):
        made.say(text, DAY_1 + n * MINUTE)
    return made


@pytest.fixture
def stage(record):
    return Stage(record, jitter=0.0)


def rows(stage, family):
    return list(stage.store.scan(family, prefix(TENANT)))


def made_by(record):
    return {node.by for node in record.nodes().values()}


def segment(record):
    return next(node for node in record.nodes().values() if node.level == "segment")


def test_words_stand_at_once_and_vectors_replace_them(record, stage):
    stage.settle()
    words = segment(record)
    assert made_by(record) == {"words"}
    assert len(rows(stage, "lacking")) == 1
    stage.index.at = None
    stage.settle()
    assert made_by(record) == {"vectors"}
    meant = segment(record)
    assert meant.version > words.version
    assert better.frame(meant) == better.frame(words)
    assert meant.bullets != words.bullets
    assert rows(stage, "lacking") == []


def test_an_open_segment_asks_once_it_rests(record, stage):
    stage.index.at = None
    stage.read()
    stage.make()
    stage.publish()
    stage.read()
    assert stage.bring() == 0
    assert stage.index.asked == 0
    stage.clock.now += 300
    assert stage.bring() == 1
    stage.make()
    stage.publish()
    stage.read()
    assert (segment(record).by, segment(record).open) == ("vectors", True)
    again = Stage(record, jitter=0.0)
    again.clock.now += 1
    while again.read():
        continue
    again.make()
    assert not again.publish(), "it is kept though it is made by words here"


def test_what_index_does_not_have_yet_is_not_fetched(record, stage):
    stage.index.at = len(record.entries) - 1
    stage.settle()
    assert stage.index.asked == 0
    assert made_by(record) == {"words"}
    stage.index.at = len(SAID)
    stage.settle()
    assert stage.index.asked == len(SAID)
    assert made_by(record) == {"vectors"}


def test_an_index_that_is_down_holds_nothing_up(record, stage):
    stage.index.down = True
    stage.settle()
    assert made_by(record) == {"words"}
    assert stage.it.waiting.since(TENANT) is None
    stage.index.down, stage.index.at = False, None
    stage.settle()
    assert made_by(record) == {"vectors"}


def test_equal_content_is_not_published_again(record):
    few = Record()
    few.say("rain over the harbour", DAY_1)
    stage = Stage(few, jitter=0.0)
    stage.settle()
    count = stage.published
    stage.index.at = None
    stage.settle()
    assert stage.published == count
    assert (rows(stage, "lacking"), len(rows(stage, "vectors"))) == ([], 5)


def test_what_is_wanted_again_for_nothing_keeps_its_vectors(record, stage):
    stage.index.at = None
    stage.settle()
    before = (stage.published, stage.index.asked, rows(stage, "vectors"))
    batch = stage.store.batch()
    for key, _ in rows(stage, "nodes"):
        stage.it.waiting.want(batch, key, stage.it.at[PART])
    stage.store.write(batch, sync=True)
    stage.settle()
    assert (stage.published, stage.index.asked, rows(stage, "vectors")) == before


def test_vectors_of_what_changed_meanwhile_are_not_used(record, stage):
    stage.settle()
    key, _ = rows(stage, "lacking")[0]
    late = better.Better(b"of other events", "fake", {})
    record.say("one more", DAY_1 + 50 * MINUTE)
    stage.read()
    assert stage.it.maker.improve(key, late)
    stage.settle()
    assert made_by(record) == {"words"}


def test_a_forget_takes_vectors_with_the_words(record, stage):
    stage.index.at = None
    stage.settle()
    assert rows(stage, "vectors")
    record.forget({"e3"})
    while stage.read():
        continue
    assert rows(stage, "vectors") == rows(stage, "theirs") == []
    stage.settle()
    assert made_by(record) == {"vectors"}
    held = [msgspec.msgpack.decode(raw, type=VectorsRow) for _, raw in rows(stage, "vectors")]
    assert held and all("e3" not in row.ids for row in held)
    record.forget({event.id for event in record.events()})
    stage.settle()
    assert {family: rows(stage, family) for family in FAMILIES if family != "meta"} == {
        family: [] for family in FAMILIES if family != "meta"
    }


def test_a_rebuild_keeps_what_is_recorded_until_vectors_are_there(record, stage):
    stage.index.at = None
    stage.settle()
    again = Stage(record, jitter=0.0)
    again.settle()
    assert made_by(record) == {"vectors"}
    assert again.published == 0
    assert len(rows(again, "lacking")) == 1
    again.index.at = None
    again.settle()
    assert again.published == 0
    assert rows(again, "vectors") == rows(stage, "vectors")


def test_vectors_of_two_models_are_never_compared():
    ones = VectorsRow("a", ["e1", "e2"], bytes(2 * 2 * 3))
    other = VectorsRow("b", ["e3"], bytes(2 * 5))
    model, held = better.joined({"e1", "e2", "e3"}, [ones, other, None])
    assert model == "a"
    assert {name: vector.shape for name, vector in held.items()} == {"e1": (3,), "e2": (3,)}
    assert better.joined(set(), []) == ("", {})
