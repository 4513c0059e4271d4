"""Nodes made by words at once, and again when their vectors came."""

from collections import Counter

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


def turn(stage):
    """Everything that waits is made, published, and comes back."""
    while stage.read():
        continue
    stage.make()
    while stage.publish():
        stage.read()


def lives(stage, session, minute):
    """A session's events arrive; it rests and gets vectors, then it is closed; nothing is remade but for that."""
    for n, text in enumerate(SAID):
        stage.record.say(f"{text} of {session}", DAY_1 + (minute + n) * MINUTE, session=session)
    stage.clock.now += 60
    turn(stage)
    stage.clock.now += 300
    assert stage.bring() == 1
    turn(stage)
    assert segment_of(stage.record, session).open
    stage.clock.now += 3600
    stage.close()
    turn(stage)
    for _ in range(2):
        stage.bring()
        stage.clock.now += 60
        turn(stage)


def told_of(record):
    """How many versions of each level are recorded."""
    return Counter(node.level for name in record.nodes() for node in record.versions(name))


def segment_of(record, session):
    return next(node for node in record.nodes().values() if node.session == session)


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


def test_each_level_has_a_version_by_words_one_by_vectors_and_one_when_it_closes():
    stage = Stage(Record(), jitter=0.0)
    stage.index.at = None
    for number in range(3):
        lives(stage, f"s{number}", number * 120)
    assert told_of(stage.record) == dict.fromkeys(("year", "month", "week", "day", "segment"), 9)
    assert made_by(stage.record) == {"vectors"}
    assert not any(node.open for node in stage.record.nodes().values())


def test_one_child_without_vectors_does_not_take_those_above_back_to_words():
    stage = Stage(Record(), jitter=0.0)
    stage.index.at = None
    lives(stage, "s0", 0)
    lives(stage, "s1", 120)
    before = told_of(stage.record)
    stage.record.say("one more ticket near the lantern", DAY_1 + 45 * MINUTE, session="s0")
    turn(stage)
    stage.clock.now += 3600
    stage.close()
    turn(stage)
    day = next(node for node in stage.record.nodes().values() if node.level == "day")
    assert (day.by, day.events) == ("vectors", 2 * len(SAID) + 1)
    assert (segment_of(stage.record, "s0").by, segment_of(stage.record, "s0").open) == ("words", False)
    assert stage.bring() == 1
    stage.clock.now += 60
    turn(stage)
    assert made_by(stage.record) == {"vectors"}
    assert set((told_of(stage.record) - before).values()) <= {2, 3}
    again = Stage(stage.record, jitter=0.0)
    for at in (0, len(SAID), len(stage.record.entries) - 20, None):  # vectors of one come after the other's
        again.index.at = at
        again.settle()
        assert again.published == 0
    assert rows(again, "vectors") == rows(stage, "vectors")


def test_what_index_does_not_have_yet_is_not_fetched(record, stage):
    stage.index.at = len(record.entries) - 1
    stage.settle()
    assert stage.index.asked == 0
    assert made_by(record) == {"words"}
    stage.index.at = len(SAID)
    stage.settle()
    assert stage.index.asked == len(SAID)
    assert made_by(record) == {"vectors"}


def test_nothing_is_fetched_before_the_words_are_recorded(record, stage):
    stage.index.at = None
    stage.read()
    stage.make()
    stage.publish()
    stage.clock.now += 7200
    assert stage.bring() == stage.index.asked == 0
    stage.read()
    assert stage.bring() == 1
    asked = stage.index.asked
    assert stage.bring() == 0
    assert stage.index.asked == asked


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
