"""Formats of stores: which step is taken when, what a kill leaves, and what is refused."""

import asyncio
from types import SimpleNamespace

import pytest

from jetmem import flow
from jetmem.adapters.layouts import Layout, Step, own_folder
from jetmem.adapters.rocks import Rocks
from jetmem.persist.giving import Giver
from jetmem.persist.record import COPIED, FORMAT, SHARED, WHOLE
from jetmem.runtime.errors import RequestFailed, WrongFormat
from jetmem_schemas.owning import CopyRequest


class Killed(Exception):
    """As a kill would end it."""


def adds(word, *, dies=False):
    def convert(store):
        for key, value in list(store.scan("rows", b"")):
            if word not in value:
                batch = store.batch()
                batch.put("rows", key, value + word)
                store.write(batch, sync=True)
                if dies:
                    raise Killed

    return convert


def layout(*steps, format_=None):
    last = format_ or max([1, *(step.to for step in steps)])
    return Layout(stage="some", families=("rows",), format=last, steps=steps)


def values(made, data):
    store = made.open(data)
    try:
        return [value for _, value in store.scan("rows", b"")]
    finally:
        store.close()


@pytest.fixture
def data(tmp_path):
    """A store of format 1 with two rows."""
    store = layout().open(tmp_path)
    batch = store.batch()
    batch.put("rows", b"a", b"1")
    batch.put("rows", b"b", b"2")
    store.write(batch, sync=True)
    store.close()
    return tmp_path


def test_every_step_after_the_stores_format_is_taken_once(data):
    two, three = Step(to=2, convert=adds(b"x")), Step(to=3, convert=adds(b"y"))
    with pytest.raises(WrongFormat, match=r"has format 1, older than 3; copy it, then run `jetmem migrate`"):
        layout(two, three).open(data)
    assert layout(two).migrate(data) == f"the store in {data} was converted from format 1 to 2"
    assert layout(two, three).migrate(data) == f"the store in {data} was converted from format 2 to 3"
    assert layout(two, three).migrate(data) == f"the store in {data} has this version's format"
    assert values(layout(two, three), data) == [b"1xy", b"2xy"]
    with pytest.raises(WrongFormat, match="has format 3, newer than 2; use a newer jetmem, or put back the copy"):
        layout(two).open(data)
    with pytest.raises(WrongFormat, match="newer than 2"):
        layout(two).migrate(data)


def test_what_was_killed_half_way_is_refused_by_both_and_goes_on_at_its_step(data):
    two = Step(to=2, convert=adds(b"x"))
    layout(two).migrate(data)
    with pytest.raises(Killed):
        layout(two, Step(to=3, convert=adds(b"y", dies=True))).migrate(data)
    whole = layout(Step(to=2, convert=adds(b"never")), Step(to=3, convert=adds(b"y")))
    with pytest.raises(WrongFormat, match="newer than 2"):
        layout(two).open(data)
    with pytest.raises(WrongFormat, match="is half converted"):
        whole.open(data)
    assert whole.migrate(data) == f"the rest of the store in {data} was converted to format 3"
    assert values(whole, data) == [b"1xy", b"2xy"]


def test_a_projection_may_be_made_anew(data):
    (data / "some" / "beside").touch()
    anew = layout(Step(to=2))
    assert anew.migrate(data).endswith("had format 1; it is made anew from the record at the next start")
    assert anew.migrate(data) == f"nothing is kept in {data}", "asked for already"
    assert not (own_folder(data, "some") / "beside").exists()
    assert values(anew, data) == []
    assert anew.migrate(data) == f"the store in {data} has this version's format"


def test_where_nothing_is_nothing_is_made(tmp_path):
    assert layout(Step(to=2, convert=adds(b"x"))).migrate(tmp_path) == f"nothing is kept in {tmp_path}"
    assert list(tmp_path.iterdir()) == []


def test_formats_of_the_stages_are_sound():
    for stage in flow.STAGES:
        if stage.store:
            made = flow.layout(stage.name)
            assert made.stage == stage.name
            numbers = [step.to for step in made.steps]
            assert numbers == sorted(set(numbers)) and made.oldest <= made.format
            assert stage.projects or all(step.convert for step in made.steps), "the record is made anew of nothing"
    assert flow.layout("persist").oldest <= min(WHOLE, SHARED) and FORMAT == SHARED


def test_a_store_of_learn_that_knows_no_ranks_is_refused_and_made_anew(tmp_path):
    made = flow.layout("learn")
    Rocks(made.path(tmp_path), made.families, format_version=1).close()
    with pytest.raises(WrongFormat, match=r"has format 1, older than 2; copy it, then run `jetmem migrate`"):
        made.open(tmp_path)
    assert made.migrate(tmp_path).endswith("had format 1; it is made anew from the record at the next start")
    own_folder(tmp_path, "learn")
    made.open(tmp_path).close()


def test_rows_are_not_given_to_who_keeps_them_otherwise():
    me = SimpleNamespace(shard=0, shards=2, wants=lambda part: False)
    giver = Giver(None, SimpleNamespace(owned={1: 0}), SimpleNamespace(me=me), None, None, None, None)
    for other in (FORMAT, COPIED + 1):
        with pytest.raises(RequestFailed, match="persist-1 is of a version that keeps its record otherwise"):
            asyncio.run(giver.copy(1, CopyRequest(1, "store", format=other)))
