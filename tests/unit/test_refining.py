"""index after the fusion: corrections in the rows, options over small stores, windows that agree."""

import msgspec
import numpy as np
import pytest

from harness.index_stage import AT, Stage, event, forgot
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
    assert len(found) == 2
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
