"""index after the fusion: corrections in the rows, options over small stores, windows that agree."""

import random

import msgspec
import numpy as np
import pytest

from harness.index_stage import AT, Stage, event, forgot
from harness.stores import Counting
from jetmem.index.rows import FAMILIES, text_hash
from jetmem.runtime.corrections import Corrections, corrected_id
from jetmem.testing.encoder import FakeSplitter
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import FindRequest
from jetmem_schemas.ranking import Rank
from jetmem_schemas.subjects import partition_of

DAY_MS = 86_400_000

#: No option on.
PLAIN = Rank()


@pytest.fixture
def stage(tmp_path):
    held = Stage(FakeStore(FAMILIES), tmp_path, splitter=FakeSplitter())
    yield held
    held.close()


def asked(stage, query="harbour", rank=PLAIN, *, tenant="acme", limit=10, mode="text", vector=b""):
    return stage.finder.find(FindRequest(tenant, query, mode, limit, vector, "fake", rank=rank))


def ids(hits):
    return [hit.id for hit in hits]


def marks(stage, **how):
    return {hit.id: hit.superseded_by for hit in asked(stage, **how)}


def vector_at(stage, cosine):
    """A vector so far from that of "harbour"; of unit length."""
    first = np.frombuffer(stage.vector("one"), dtype=np.float32)
    other = np.frombuffer(stage.vector("two"), dtype=np.float32)
    across = other - (other @ first) * first
    made = cosine * first + np.sqrt(1 - cosine**2) * across / np.linalg.norm(across)
    return made.astype(np.float32).tobytes()


def embed(stage, **cosines):
    for text, cosine in cosines.items():
        stage.store_vectors("acme", [text_hash(text)], data=vector_at(stage, cosine))


# --- corrections


def test_a_correction_marks_what_it_corrects_also_if_that_comes_later(stage):
    stage.apply(event(1, "harbour one"), event(2, "harbour two", supersedes="e1"), event(3, "harbour", supersedes="e4"))
    assert marks(stage) == {"e1": "e2", "e2": "", "e3": ""}
    stage.apply(event(4, "harbour four"), event(5, "harbour", supersedes="nobody"))
    assert marks(stage) == {"e1": "e2", "e2": "", "e3": "", "e4": "e3", "e5": ""}


def test_the_last_correction_counts_until_it_is_forgotten(stage):
    stage.apply(event(1, "harbour"), event(2, "no", supersedes="e1"), event(3, "nay", supersedes="e1"))
    assert marks(stage)["e1"] == "e3"
    stage.apply(forgot(4, [event(3, "")]))
    assert marks(stage)["e1"] == "e2"
    stage.apply(forgot(5, [event(2, "")]))
    assert marks(stage)["e1"] == ""
    assert list(stage.store.scan("corrects", b"")) == list(stage.store.scan("corrected", b"")) == []


def test_two_corrections_of_one_forget(stage):
    stage.apply(*(event(n, "harbour", supersedes="e1" if n > 1 else None) for n in range(1, 5)))
    stage.apply(forgot(5, [event(2, ""), event(4, "")]))
    assert marks(stage)["e1"] == "e3"


def corrections(count, of):
    """A store with so many, each event of which corrects `of(its number)`; and who keeps them."""
    store = Counting(FAMILIES)
    made = Corrections(store)
    for number in range(1, count + 1):
        batch = store.batch()
        made.take(batch, event(number, "x", supersedes=of(number)))
        store.write(batch, sync=False)
    return store, made


def forget_all(store, made, count, step=20):
    for first in range(1, count + 1, step):
        batch = store.batch()
        assert made.drop(batch, "acme", range(first, first + step))
        store.write(batch, sync=False)


@pytest.mark.parametrize("of", [lambda number: f"o{number}", lambda number: f"o{number % 7}", lambda _: "o"])
def test_forgetting_corrections_reads_in_proportion_to_what_goes(of):
    passed = {}
    for count in (200, 800):
        store, made = corrections(count, of)
        forget_all(store, made, count)
        passed[count] = store.passed
        assert list(store.scan("corrects", b"")) == list(store.scan("corrected", b"")) == []
    assert passed[800] <= 4.5 * passed[200] + 20, passed


def test_whoever_is_left_corrects_whatever_goes_first():
    chance = random.Random(7)
    store, made = corrections(60, lambda number: f"o{number % 5}")
    left = list(range(1, 61))
    while left:
        gone = chance.sample(left, min(4, len(left)))
        batch = store.batch()
        made.drop(batch, "acme", gone)
        store.write(batch, sync=False)
        left = [number for number in left if number not in gone]
        last = {f"o{number % 5}": f"e{number}" for number in left}
        names = [f"o{n}" for n in range(5)]
        assert made.of("acme", names) == [last.get(name, "") for name in names]


def test_a_correction_without_words_counts_and_its_forgetting_is_purged(stage):
    stage.apply(event(1, "harbour"), event(2, "", kind="retraction", supersedes="e1"))
    assert marks(stage)["e1"] == "e2"
    stage.apply(forgot(3, [event(2, "")]))
    assert marks(stage)["e1"] == ""
    assert stage.indexer.erased == {"acme": 3}, "its id is in files"


def test_cycles_and_oneself(stage):
    stage.apply(event(1, "harbour", supersedes="e2"), event(2, "harbour", supersedes="e1"))
    stage.apply(event(3, "harbour", supersedes="e3"))
    assert marks(stage) == {"e1": "e2", "e2": "e1", "e3": ""}
    assert len(asked(stage, rank=Rank(supersede=True))) == 3


def test_corrections_stay_in_their_tenant(stage):
    stage.apply(event(1, "harbour", id_="x"), event(2, "harbour", tenant="zoo", id_="x"))
    stage.apply(event(3, "harbour", tenant="zoo", id_="y", supersedes="x"))
    assert marks(stage) == {"x": ""}
    assert marks(stage, tenant="zoo") == {"x": "y", "y": ""}


def test_a_rebuild_drops_and_makes_them_again(stage):
    told = [event(1, "harbour"), event(2, "no", supersedes="e1")]
    stage.apply(*told)
    stage.indexer.reset(partition_of("acme"))
    assert list(stage.store.scan("corrected", b"")) == []
    stage.apply(*told)
    assert marks(stage)["e1"] == "e2"


@pytest.mark.parametrize(
    ("body", "named"),
    [(b'{"supersedes":"a"}', "a"), (b'{"\\u0073upersedes":"a"}', "a"), (b'{"text":"supersedes"}', ""), (b"{}", "")],
)
def test_what_an_entry_corrects(body, named):
    assert corrected_id(msgspec.structs.replace(event(1, "x"), body=body)) == named
    assert corrected_id(msgspec.structs.replace(event(1, "x"), body=body, kind="run")) == ""


def test_keys_hold_no_ids(stage):
    stage.apply(event(1, "no", id_="secret-2", supersedes="secret-1"))
    found = [key for family in ("corrects", "corrected") for key, _ in stage.store.scan(family, b"")]
    assert len(found) == 3
    assert not any(b"secret" in key for key in found)
    assert Corrections(stage.rows.store).of("acme", ["secret-1", "secret-2"]) == ["secret-2", ""]


# --- options


def test_folding_in_every_mode_and_what_it_frees(stage):
    stage.apply(*(event(n, "harbour", session=f"s{n}") for n in range(1, 6)), event(6, "harbour crane", session="s6"))
    assert len(asked(stage, rank=Rank(fold=True))) == 6, "no vectors, nothing is alike"
    stage.embed("acme")
    for mode in ("text", "hybrid", "vector"):
        hits = asked(stage, rank=Rank(fold=True), limit=2, mode=mode, vector=stage.vector(text_hash("harbour").hex()))
        assert ids(hits) == ["e5", "e6"], mode
        assert hits[0].folded == ["e4", "e3", "e2", "e1"]
        assert set(hits[0].scores) >= {"fused"}
    assert len(asked(stage, limit=10)) == 6, "off by default"


def test_who_folds_by_words_alone_loads_no_vectors_but_those_of_the_hits(tmp_path):
    stage = Stage(FakeStore(FAMILIES), tmp_path, splitter=FakeSplitter(words=3, overlap=0))
    texts = ["harbour", "harbour", "harbour one two three four", "harbour one two three four", "harbour crane"]
    stage.apply(*(event(n, text, session=f"s{n}") for n, text in enumerate(texts, 1)))
    stage.embed("acme")
    stage.apply(event(6, "harbour", session="s6"), event(7, "harbour and nothing yet", session="s7"))
    rank = Rank(fold=True, supersede=True)
    by_store = asked(stage, rank=rank)
    tenant = stage.tenants.get("acme")
    assert tenant.shelf is None
    assert {hit.id: hit.folded for hit in by_store if hit.folded} == {"e6": ["e2", "e1"], "e4": ["e3"]}
    assert stage.tenants.shelf(tenant).count
    assert asked(stage, rank=rank) == by_store, "as from memory"
    stage.close()


def test_a_folded_hit_is_neither_lost_nor_twice_over_windows(stage):
    """150 texts of 40 kinds: whatever the limit, the beginning is the same and everything is there once."""
    stage.apply(*(event(n, f"harbour {'ab' * (n % 40)}", session=f"s{n}") for n in range(1, 151)))
    stage.embed("acme")
    fold = Rank(fold=True)
    whole = asked(stage, rank=fold, limit=500)
    named = [id_ for hit in whole for id_ in (hit.id, *hit.folded)]
    assert sorted(named) == sorted(f"e{n}" for n in range(1, 151))
    assert any(hit.folded for hit in whole)
    for limit in (1, 10, 60, 100, 120):
        assert asked(stage, rank=fold, limit=limit) == whole[:limit]
    scores = [hit.score for hit in whole]
    assert scores == sorted(scores, reverse=True)


def test_a_newer_hit_lowers_the_older(stage):
    stage.apply(event(1, "harbour_old", session="s1"), event(2, "harbour_new", session="s2"))
    query = "harbour_old harbour_new harbour_old"
    embed(stage, harbour_old=1.0, harbour_new=0.95)
    vector = vector_at(stage, 1.0)
    assert ids(asked(stage, query, mode="vector", vector=vector)) == ["e1", "e2"]
    hits = asked(stage, query, Rank(supersede=True), mode="vector", vector=vector)
    assert ids(hits) == ["e2", "e1"]
    assert hits[1].scores["superseded"] == 0.7
    assert [hit.superseded_by for hit in hits] == ["", ""], "that is a guess, no fact"
    strict = Rank(supersede=True, supersede_cosine=0.97)
    assert ids(asked(stage, query, strict, mode="vector", vector=vector)) == ["e1", "e2"]


def test_a_correction_is_lowered_if_asked_for(stage):
    stage.apply(event(1, "harbour harbour", session="s1"), event(2, "harbour pier", session="s2", supersedes="e1"))
    assert ids(asked(stage, "harbour harbour"))[0] == "e1"
    assert ids(asked(stage, "harbour harbour", Rank(supersede=True, supersede_share=0.9)))[0] == "e2"


def test_age_and_salience(stage):
    stage.apply(
        event(1, "harbour", session="s1", ts=AT),
        event(2, "harbour must never close", session="s2", ts=AT),
        event(3, "harbour", session="s3", ts=AT + 100 * DAY_MS, importance=0.0),
    )
    aged = {hit.id: hit.scores["age"] for hit in asked(stage, rank=Rank(age_half_life_days=14))}
    assert aged == pytest.approx({"e1": 0.7, "e2": 1.0, "e3": 1.0}, abs=0.01)
    for _ in range(2):  # told anew, and from memory
        hits = asked(stage, rank=Rank(salience=1.0))
        assert [(hit.id, hit.scores["salience"]) for hit in hits] == [("e2", 0.7), ("e1", 0.3), ("e3", 0.0)]


def test_nothing_found_and_unknown_tenants(stage):
    every = Rank(salience=0.5, age_half_life_days=1, supersede=True, fold=True)
    assert asked(stage, rank=every) == []
    stage.apply(event(1, "harbour"))
    assert ids(asked(stage, rank=every)) == ["e1"]
    assert asked(stage, rank=every, tenant="nobody") == []


def test_passages_are_compared_by_their_mean(tmp_path):
    stage = Stage(FakeStore(FAMILIES), tmp_path, splitter=FakeSplitter(words=3, overlap=0))
    text = "harbour two three four five six"
    stage.apply(event(1, text, session="s1"), event(2, text, session="s2"), event(3, "harbour", session="s3"))
    stage.embed("acme")
    hits = asked(stage, rank=Rank(fold=True))
    assert {hit.id: hit.folded for hit in hits} == {"e2": ["e1"], "e3": []}
    stage.close()
