"""What the word index relies on in tantivy, and what it promises: traps of the library first."""

import threading

import pytest
import tantivy

from jetmem.adapters.tantivy_text import FIELDS, TextDoc, TextIndex, analyze, window
from jetmem.runtime.errors import Broken
from jetmem_schemas.internal import Filters, Head

HEAP = 15_000_000


@pytest.fixture
def index(tmp_path):
    held = TextIndex(tmp_path / "text", HEAP)
    yield held
    held.rest()


def doc(index, key, text, tenant="acme", *, session=0, position=0, who=0, ts=1_700_000_000_000, **terms):
    words = window(tenant, analyze(text))
    held = {"agent": ("alice",), "session": ("s1",), "author": (), "kind": ("message",), "role": ("user",), "tag": ()}
    return TextDoc(key, session, position, who, ts, words, words, words, held | terms)


def keys(index, word, tenant="acme", field="w1", limit=100, **filters):
    tokens = analyze(word)
    hits = index.search(tenant, tokens, field, limit, tenant_docs=10, filters=Filters(**filters))
    return [hit.key for hit in hits]


def test_words_are_found_by_their_stems_after_a_commit(index):
    index.add(doc(index, 7, "The engines were overheating", session=3, position=4, who=5))
    assert keys(index, "engine") == []
    index.commit(Head())
    for field in FIELDS:
        assert keys(index, "Engine overheated", field=field) == [7]
    assert keys(index, "the were") == []
    (hit,) = index.search("acme", analyze("engine"), "w1", 9, tenant_docs=1, filters=Filters())
    assert (hit.key, hit.session, hit.position, hit.author) == (7, 3, 4, 5)
    assert hit.score > 0


def test_keys_beyond_32_bits_are_kept(index):
    key = 1 << 40
    index.add(doc(index, key, "engine"))
    index.commit(Head())
    assert keys(index, "engine") == [key]
    index.delete(key)
    index.commit(Head())
    assert keys(index, "engine") == []


def test_delete_then_add_in_one_commit_leaves_one(index):
    index.add(doc(index, 7, "engine"))
    index.commit(Head())
    for _ in range(2):
        index.delete(7)
        index.add(doc(index, 7, "violin"))
    index.commit(Head())
    assert keys(index, "violin") == [7]
    assert keys(index, "engine") == []


def test_what_lies_behind_a_key_goes_and_the_key_stays(index):
    for key in (1, 7, 8, 1 << 40):
        index.add(doc(index, key, "engine"))
    index.commit(Head(8, 80))
    index.delete_after(7)
    index.commit(Head(7, 70))
    assert sorted(keys(index, "engine")) == [1, 7]
    assert index.head() == Head(7, 70)


def test_what_was_not_committed_is_gone_with_the_process(index):
    index.add(doc(index, 1, "engine"))
    index.commit(Head(1, 10))
    index.add(doc(index, 2, "engine"))
    index.rest()
    again = TextIndex(index.path, HEAP)
    assert keys(again, "engine") == [1]
    assert again.head() == Head(1, 10)


def test_the_checkpoint_is_that_of_the_last_commit(index):
    assert index.head() == Head()
    for number in range(1, 5):
        index.commit(Head(2**40 + number, 2**41))
        assert index.head() == Head(2**40 + number, 2**41)
    index.commit(Head())
    assert index.head() == Head()


def test_a_second_writer_is_refused(index):
    index.commit(Head())
    other = TextIndex(index.path, HEAP)
    with pytest.raises(Broken, match="cannot be opened"):
        other.delete(1)
    index.rest()
    other.delete(1)
    other.rest()


def test_an_integer_in_the_constructor_is_not_what_an_unsigned_field_takes():
    """Why `add` uses add_unsigned; if this changes, it may be simplified."""
    made = tantivy.Document(key=7)
    assert made.to_dict() == {"key": [7]}


def test_no_tenant_finds_or_shifts_anothers_words(index):
    index.add(doc(index, 1, "engine violin"))
    for key in range(1_000, 1_020):
        index.add(doc(index, key, "lake harbour"))
    index.commit(Head())
    before = index.search("acme", analyze("engine"), "w1", 9, tenant_docs=21, filters=Filters())[0].score
    for key in range(2, 200):
        index.add(doc(index, key, "engine " * 3, tenant="zoo"))
    index.commit(Head())
    assert keys(index, "engine") == [1]
    assert 1 not in keys(index, "engine", tenant="zoo", limit=1000)
    after = index.search("acme", analyze("engine"), "w1", 9, tenant_docs=21, filters=Filters())[0].score
    assert after == pytest.approx(before, rel=0.5)  # the average length is the partition's (decision 0006)


def test_filters_narrow_without_changing_the_score(index):
    index.add(doc(index, 1, "engine", tag=("a", "b"), author=("Ann",)))
    index.add(doc(index, 2, "engine", ts=1_800_000_000_000, tag=("a",), agent=("bob",), kind=("note",)))
    index.commit(Head())
    assert sorted(keys(index, "engine")) == [1, 2]
    assert keys(index, "engine", tags=["a", "b"]) == [1]
    assert keys(index, "engine", author="Ann") == [1]
    assert keys(index, "engine", agent="bob") == [2]
    assert keys(index, "engine", kinds=["note", "other"]) == [2]
    assert keys(index, "engine", since=1_800_000_000_000) == [2]
    assert keys(index, "engine", until=1_800_000_000_000) == [1]
    assert keys(index, "engine", since=1_700_000_000_001, until=1_800_000_000_000) == []
    wide = index.search("acme", analyze("engine"), "w1", 9, tenant_docs=2, filters=Filters())
    narrow = index.search("acme", analyze("engine"), "w1", 9, tenant_docs=2, filters=Filters(tags=["a"]))
    assert [hit.score for hit in wide] == [hit.score for hit in narrow]


@pytest.mark.parametrize(
    "text", ["", "   ", "a" * 100_000, "x" * 65, "\x00\x01", "\U0001f600 engine", "ß" * 70_000, "a:b"]
)
def test_any_text_is_taken(index, text):
    index.add(doc(index, 1, text))
    index.commit(Head())
    keys(index, text)


def test_searching_beside_writing(index):
    stop, errors = threading.Event(), []

    def search():
        while not stop.is_set():
            try:
                keys(index, "engine violin")
            except Exception as error:
                errors.append(error)
                return

    searcher = threading.Thread(target=search)
    searcher.start()
    for key in range(300):
        index.delete(key - 10)
        index.add(doc(index, key, "engine violin"))
        if key % 30 == 29:
            index.commit(Head())
    index.commit(Head())
    stop.set()
    searcher.join()
    assert not errors
    assert len(keys(index, "engine", limit=1000)) == 10


def test_a_deleted_word_stays_in_the_files_until_they_are_rewritten(index):
    """Why purging rewrites the index."""
    index.add(doc(index, 1, "zanzibar"))
    index.add(doc(index, 2, "engine"))
    index.commit(Head())

    assert index.words_held("acme", "zanzibar") == 3
    index.delete(1)
    index.commit(Head())
    assert keys(index, "zanzibar") == []
    assert index.words_held("acme", "zanzibar") == 3


def nodes(index, word, tenant="acme", **filters):
    found = index.search(tenant, analyze(word), "w1", 9, tenant_docs=3, filters=Filters(**filters), nodes=True)
    return sorted(hit.key for hit in found)


def test_nodes_are_apart_and_change_no_score(index):
    index.add(doc(index, 1, "engine violin"))
    index.commit(Head(1, 1))
    index.commit(Head(2, 2))
    before = index.search("acme", analyze("engine"), "w1", 9, tenant_docs=1, filters=Filters())
    index.rest()
    other = TextIndex(index.path.with_name("other"), HEAP)
    other.add(doc(other, 1, "engine violin"))
    other.commit(Head(1, 1))
    for key in range(2, 9):
        other.add(doc(other, key, "engine harbour", tag=(f"t{key}",))._replace(node=True))
    other.commit(Head(2, 2))
    assert other.search("acme", analyze("engine"), "w1", 9, tenant_docs=1, filters=Filters()) == before
    assert nodes(other, "harbour") == list(range(2, 9))
    assert nodes(other, "harbour", tags=["t3"]) == [3]
    assert nodes(other, "violin") == keys(other, "harbour") == []
    other.delete(2)
    other.delete_after(6)
    other.commit(Head(6, 6))
    other.rest()
    again = TextIndex(other.path, HEAP)
    assert (nodes(again, "harbour"), keys(again, "engine"), again.head()) == ([3, 4, 5, 6], [1], Head(6, 6))


def test_a_node_that_comes_again_takes_its_own_place(index):
    """The process died between the two commits: the checkpoint is the older one."""
    told = doc(index, 7, "engine")._replace(node=True)
    index.add(told)
    index.commit(Head(7, 7))
    index.add(told)
    index.commit(Head(7, 7))
    assert nodes(index, "engine") == [7]
