"""Find over small stores: arms, filters, what is erased, what is missing, who is named."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from harness.index_stage import Stage, ended, event, forgot, node
from jetmem.index.rows import FAMILIES, nodes_of, text_hash
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


DAY = "toc:day:2023-11-14"
SEGMENT, OTHER = "toc:segment:2023-11-14:s1", "toc:segment:2023-11-15:s2"
MORNING, NOON = (datetime(2023, 11, 14, hour, tzinfo=UTC) for hour in (9, 12))
MIDNIGHT_MS = 1_700_006_400_000


def contents_of(stage):
    """A conversation, and nodes that tell of it."""
    talk(stage)
    span = {"start": MORNING, "end": NOON}
    later = {"start": MORNING + timedelta(days=1), "end": NOON + timedelta(days=1)}
    stage.apply(
        node(6, SEGMENT, "A crane broke in the harbour.", agents=["alice"], session="s1", kind="constraint", **span),
        node(7, OTHER, "Engines are fine.", agents=["bob"], session="s2", **later),
        node(8, DAY, "A crane broke, engines are fine.", agents=["alice", "bob"], open=True, **span),
        node(9, DAY, "Nothing here for you.", tenant="zoo"),
    )


def nodes(stage, query, mode="text", vector=None, *, target="nodes", tenant="acme", limit=10, **filters):
    request = FindRequest(
        tenant, query, mode, limit, vector or b"", "fake", Filters(**filters), target=target
    )  # fmt: skip
    return stage.finder.find(request)


def test_nodes_are_found_by_words_and_only_when_asked_for(stage):
    contents_of(stage)
    hits = nodes(stage, "cranes")
    assert set(ids(hits)) == {SEGMENT, DAY}
    assert all(hit.node and hit.arms == ["text"] and hit.scores["words"] > 0 for hit in hits)
    assert not any(hit.node for hit in asked(stage, "cranes"))
    assert ids(nodes(stage, "crane", tenant="zoo")) == []


def test_events_are_ranked_as_if_there_were_no_nodes(stage, tmp_path):
    bare = Stage(FakeStore(FAMILIES), tmp_path / "bare", splitter=FakeSplitter())
    talk(bare)
    bare.apply(
        *(event(n, " ") for n in range(6, 9)), event(9, " ", tenant="zoo")
    )  # as many commits: each leaves a mark
    contents_of(stage)
    for held in (bare, stage):
        held.embed("acme")
    stage.embed(nodes_of("acme"))
    vector = vector_of(stage, "Ann: the yellow one")
    for query in ("crane harbour", "yellow", "engines"):
        for mode in ("text", "hybrid", "vector"):
            assert asked(stage, query, mode, vector) == asked(bare, query, mode, vector)
    bare.close()


def test_nodes_are_found_by_vectors_once_they_are_closed(stage):
    contents_of(stage)
    assert nodes(stage, "zebra", "vector", vector_of(stage, "x")) == []
    stage.embed(nodes_of("acme"))
    hits = nodes(stage, "zebra", "vector", vector_of(stage, "Engines are fine."))
    assert hits[0].id == OTHER
    assert (hits[0].arms, hits[0].scores["cosine"]) == (["vector"], pytest.approx(1.0, abs=1e-5))
    assert DAY not in ids(hits), "it is open: its words change every few seconds"
    stage.apply(node(10, DAY, "A crane broke, engines are fine.", agents=["alice", "bob"]))
    stage.embed(nodes_of("acme"))
    assert DAY in ids(nodes(stage, "zebra", "vector", vector_of(stage, "Engines are fine.")))
    hybrid = nodes(stage, "engines", "hybrid", vector_of(stage, "Engines are fine."))
    assert (hybrid[0].id, hybrid[0].arms) == (OTHER, ["text", "vector"])


def test_a_newer_version_takes_the_place_of_the_older_and_gone_of_both(stage):
    contents_of(stage)
    stage.embed(nodes_of("acme"))
    old = vector_of(stage, "A crane broke in the harbour.")
    stage.apply(node(10, SEGMENT, "The ferry is late."))
    assert SEGMENT not in ids(nodes(stage, "crane"))
    assert SEGMENT not in ids(nodes(stage, "zebra", "vector", old))
    assert ids(nodes(stage, "ferry")) == [SEGMENT]
    stage.apply(ended(11, SEGMENT))
    assert nodes(stage, "ferry") == []
    stage.apply(node(12, SEGMENT, "The ferry is back."))
    assert ids(nodes(stage, "ferry")) == [SEGMENT]


def test_several_versions_in_one_batch_leave_the_last(stage):
    stage.indexer.apply(partition_of("acme"), [node(1, DAY, "old words"), node(2, DAY, "new words")])
    stage.indexer.commit()
    assert (ids(nodes(stage, "new")), nodes(stage, "old")) == ([DAY], [])


def test_a_version_that_says_the_same_keeps_its_vector(stage):
    stage.apply(node(1, DAY, "The ferry is late."))
    stage.embed(nodes_of("acme"))
    stage.apply(node(2, DAY, "The ferry is late.", events=9))
    assert not stage.indexer.pieces.pending
    assert ids(nodes(stage, "zebra", "vector", vector_of(stage, "The ferry is late."))) == [DAY]


def test_a_forget_takes_the_nodes_it_meets(stage):
    contents_of(stage)
    stage.embed(nodes_of("acme"))
    stage.apply(forgot(10, [event(2, ""), node(6, SEGMENT, ""), node(8, DAY, "")]))
    assert nodes(stage, "crane") == []
    near = nodes(stage, "crane", "vector", vector_of(stage, "A crane broke in the harbour."))
    assert ids(near) == [OTHER]
    assert stage.indexer.erased == {"acme": 10}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"agent": "bob"}, {OTHER, DAY}),
        ({"session": "s1"}, {SEGMENT}),
        ({"kinds": ["constraint", "note"]}, {SEGMENT}),
        ({"since": MIDNIGHT_MS}, {OTHER}),
        ({"until": MIDNIGHT_MS}, {SEGMENT, DAY}),
        ({"since": MIDNIGHT_MS - 86_400_000, "until": MIDNIGHT_MS + 86_400_000}, {SEGMENT, OTHER, DAY}),
    ],
)
@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_filters_of_nodes(stage, filters, expected, mode):
    contents_of(stage)
    stage.embed(nodes_of("acme"))
    vector = vector_of(stage, "Engines are fine.") if mode == "hybrid" else None
    assert set(ids(nodes(stage, "crane engines", mode, vector, **filters))) == expected


def test_until_looks_on_until_there_are_enough(stage):
    days = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(250)]
    stage.apply(*(node(n, f"toc:day:{day:%Y-%m-%d}", "ferry", start=day, end=day) for n, day in enumerate(days, 1)))
    hits = nodes(stage, "ferry", until=int(days[3].timestamp() * 1000), limit=100)
    assert sorted(ids(hits)) == ["toc:day:2020-01-01", "toc:day:2020-01-02", "toc:day:2020-01-03"]


def test_both_are_merged_by_score(stage):
    contents_of(stage)
    hits = nodes(stage, "crane", target="both")
    assert {hit.node for hit in hits} == {True, False}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert set(ids(hits)) == {"e1", "e2", "e3", SEGMENT, DAY}
    assert {hits[0].id, hits[1].id, hits[2].id} >= {"e2", SEGMENT}, "the best of each kind are among the first"
    assert nodes(stage, "crane", target="both", limit=2) == hits[:2]


def test_until_reads_a_bounded_number_of_nodes_however_many_come_later(stage, monkeypatch):
    days = [MORNING + timedelta(days=n) for n in range(1_300)]
    stage.apply(
        *(
            node(
                n + 1,
                f"toc:segment:2023-01-01:{n}",
                "A crane broke.",
                session="s",
                start=day,
                end=day + timedelta(hours=3),
            )
            for n, day in enumerate(days)
        ),
        node(2_000, "toc:year:2023", "A crane broke, a crane was mended, a crane.", start=days[0], end=days[-1]),
    )
    read = []
    theirs = stage.rows.docs
    monkeypatch.setattr(stage.rows, "docs", lambda tenant, keys: read.append(len(keys)) or theirs(tenant, keys))
    until = int((days[2] + timedelta(hours=1)).timestamp() * 1000)
    found = ids(nodes(stage, "crane", until=until))
    assert set(found) == {"toc:year:2023", *(f"toc:segment:2023-01-01:{n}" for n in range(3))}
    assert sum(read) <= 1_000
    since = int(days[1].timestamp() * 1000)
    assert set(ids(nodes(stage, "crane", since=since, until=until))) == set(found) - {"toc:segment:2023-01-01:0"}
    assert len(nodes(stage, "crane", until=int(days[-1].timestamp() * 1000) + 1, limit=1_500)) == 1_301
