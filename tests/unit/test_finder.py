"""Find over small stores: arms, filters, what is erased, what is missing, who is named."""

import msgspec
import numpy as np
import pytest

from harness.index_stage import Stage, event, forgot
from jetmem.index.rows import FAMILIES, text_hash
from jetmem.testing.encoder import FakeSplitter
from jetmem.testing.store import FakeStore
from jetmem_schemas.internal import Filters, FindRequest, decode_entry, encode
from jetmem_schemas.subjects import partition_of


@pytest.fixture
def stage(tmp_path):
    held = Stage(FakeStore(FAMILIES), tmp_path, splitter=FakeSplitter())
    yield held
    held.close()


def asked(stage, query, mode="text", vector=None, *, tenant="acme", limit=10, model="fake", **filters):
    raw = b"" if vector is None else vector
    request = FindRequest(tenant, query, mode, limit, raw, model, Filters(**filters))
    return stage.finder.find(request)


def ids(hits):
    return [hit.id for hit in hits]


def vector_of(stage, text):
    """The vector that `Stage.embed` gives a text."""
    return stage.vector(text_hash(text).hex())


def talk(stage):
    stage.apply(
        event(1, "the harbour was closed", author="Ann", role="user"),
        event(2, "which crane broke", author="Ben", role="assistant", tags=["ask"]),
        event(3, "the yellow one", author="Ann"),
        event(4, "engines are fine", session="s2", agent="bob", kind="note"),
        event(5, "the harbour is open", tenant="zoo", author="Ann"),
    )


def test_words_and_their_neighbours(stage):
    talk(stage)
    hits = asked(stage, "crane")
    assert hits[0].id == "e2"
    assert set(ids(hits)) == {"e1", "e2", "e3"}, "what stands beside the words of the question"
    assert hits[0].arms == ["text"]
    assert hits[0].scores["turn"] > 0
    assert hits[0].score > hits[1].score


def test_no_tenant_sees_another(stage):
    talk(stage)
    assert ids(asked(stage, "harbour", tenant="zoo")) == ["e5"]
    assert "e5" not in ids(asked(stage, "harbour"))
    assert asked(stage, "harbour", tenant="nobody") == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"agent": "bob"}, set()),
        ({"session": "s1"}, {"e1", "e2", "e3"}),
        ({"author": "Ann"}, {"e1", "e3"}),
        ({"author": "Nobody"}, set()),
        ({"roles": ["assistant"]}, {"e2"}),
        ({"kinds": ["note"]}, set()),
        ({"tags": ["ask"]}, {"e2"}),
        ({"since": 1_700_000_002_000, "until": 1_700_000_004_000}, {"e2", "e3"}),
        ({"until": 1_700_000_002_000}, {"e1"}),
    ],
)
@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_filters(stage, filters, expected, mode):
    talk(stage)
    stage.embed("acme")
    vector = vector_of(stage, "Ben: which crane broke")
    found = set(ids(asked(stage, "crane", mode, vector if mode == "hybrid" else None, **filters)))
    if mode == "hybrid" and filters in ({"agent": "bob"}, {"kinds": ["note"]}):
        expected = {"e4"}  # far from the question, but the filter leaves nothing nearer
    assert found == expected


def test_vectors_find_without_words(stage):
    talk(stage)
    assert asked(stage, "zebra", "vector", vector_of(stage, "Ann: the yellow one")) == []
    stage.embed("acme")
    hits = asked(stage, "zebra", "vector", vector_of(stage, "Ann: the yellow one"))
    assert hits[0].id == "e3"
    assert hits[0].arms == ["vector"]
    assert hits[0].scores["cosine"] == pytest.approx(1.0, abs=1e-5)
    hits = asked(stage, "yellow", "hybrid", vector_of(stage, "Ann: the yellow one"))
    assert hits[0].arms == ["text", "vector"]


def test_vectors_that_cannot_be_compared_are_left_out(stage):
    talk(stage)
    stage.embed("acme")
    vector = vector_of(stage, "Ann: the yellow one")
    for model, raw in (("other", vector), ("fake", vector[:-4]), ("fake", b"")):
        request = FindRequest("acme", "yellow", "hybrid", 9, raw, model)
        assert not stage.finder.vectors_fit(request)
        hits = stage.finder.find(request)
        assert hits[0].id == "e3"
        assert hits[0].arms == ["text"]


def test_a_name_in_the_question_counts(stage):
    stage.apply(event(1, "harbour report", author="Ann Bell"), event(2, "harbour report", author="Ben", session="s2"))
    assert ids(asked(stage, "harbour Bell"))[0] == "e1"
    assert ids(asked(stage, "harbour Ben"))[0] == "e2"
    assert asked(stage, "harbour Bell")[0].scores["named"] == 1.0


def test_erased_events_and_their_words_are_gone_also_before_the_commit(stage):
    talk(stage)
    stage.embed("acme")
    gone = event(2, "")
    stage.indexer.apply(partition_of("acme"), [forgot(6, [gone])])
    assert "e2" not in ids(asked(stage, "crane"))
    assert "e2" not in ids(asked(stage, "crane", "vector", vector_of(stage, "Ben: which crane broke")))
    stage.indexer.commit()
    assert asked(stage, "crane") == []
    assert set(ids(asked(stage, "yellow"))) == {"e1", "e3"}


def test_the_newest_window_is_shared_by_the_last_turns_also_after_the_newest_is_erased(stage):
    stage.apply(*(event(n, text) for n, text in enumerate(["harbour", "crane", "engine", "yellow", "violin"], 1)))
    assert {"e3", "e4", "e5"} <= set(ids(asked(stage, "yellow")))
    stage.apply(forgot(6, [event(5, "")]))
    assert {"e3", "e4"} <= set(ids(asked(stage, "yellow")))


def test_the_limit_and_equal_scores(stage):
    stage.apply(*(event(n, "harbour", session=f"s{n}") for n in range(1, 30)))
    assert ids(asked(stage, "harbour", limit=3)) == ["e29", "e28", "e27"]
    assert len(asked(stage, "harbour", limit=500)) == 29


@pytest.mark.parametrize("query", ["", "the", "?!", "word " * 5_000, "\x00", "AND OR (", "acme:harbour"])
def test_any_question_is_answered(stage, query):
    talk(stage)
    asked(stage, query)


def test_an_empty_vector_is_no_candidate_but_its_words_are(stage):
    stage.apply(event(1, "harbour"), event(2, "crane"))
    stage.store_vectors("acme", [text_hash("harbour")], data=b"")
    stage.embed("acme")
    assert ids(asked(stage, "zebra", "vector", vector_of(stage, "crane"))) == ["e2"]
    assert set(ids(asked(stage, "harbour", "hybrid", vector_of(stage, "crane")))) == {"e1", "e2"}


def test_kinds_of_entries_that_are_not_known_are_passed_over(stage):
    """A newer persist has them; an index that is not yet upgraded goes on, and what it knows is found."""
    dream = msgspec.structs.replace(event(2, "harbour"), kind="dream")
    assert decode_entry(encode(dream)) == dream, "read off the wire"
    stage.apply(event(1, "harbour"), dream, event(3, "harbour"))
    assert stage.indexer.position(partition_of("acme")).rseq == 3
    found = stage.finder.find(FindRequest("acme", "harbour", "text", 10))
    assert sorted(hit.id for hit in found) == ["e1", "e3"]


def test_vectors_of_entries(stage):
    stage.apply(event(1, "the harbour was closed", author="Ann"), event(2, " "), event(3, "engines", tenant="zoo"))
    assert stage.finder.vectors_of("acme", [1]) == [b""]
    stage.embed("acme")
    stage.embed("zoo")
    stage.apply(event(4, "not yet", author="Ann"))
    assert stage.finder.vectors_of("acme", [4, 2, 1, 9]) == [
        b"",
        b"",
        vector_of(stage, "Ann: the harbour was closed"),
        b"",
    ]
    assert stage.finder.vectors_of("acme", [3]) == [b""]


def test_the_vector_of_an_entry_in_passages_is_their_mean(tmp_path):
    stage = Stage(FakeStore(FAMILIES), tmp_path, splitter=FakeSplitter(words=3, overlap=0))
    stage.apply(event(1, "one two three four five six"))
    stage.embed("acme")
    each = [np.frombuffer(vector_of(stage, text), dtype=np.float32) for text in ("one two three", "four five six")]
    found = np.frombuffer(stage.finder.vectors_of("acme", [1])[0], dtype=np.float32)
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found == pytest.approx(sum(each) / np.linalg.norm(sum(each)), abs=1e-6)
    stage.close()
