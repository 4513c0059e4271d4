"""Questions about procedures over fake stages."""

import msgspec
import pytest

from harness.planted import ask, ids, refused
from harness.taught import NAMES, VECTOR, taught
from jetmem.learn.core import context_of
from jetmem.runtime import limits
from jetmem_schemas.internal import Head, encode

QUESTIONS = {
    "recommend": {"task": "make the tests pass"},
    "predict": {"task": "make the tests pass", "procedure": "alpha"},
    "procedure": {"id": "alpha"},
    "procedures": {},
    "related": {"id": "alpha"},
    "patterns": {},
    "insights": {},
}


@pytest.fixture
def stages():
    return taught()


def _asked(stages, verb):
    return [request for name, request in stages.calls if name == verb]


def test_procedures_for_a_task_come_best_first_with_what_they_rest_on(stages):
    reply = ask(stages, "recommend", task="make the tests pass", context={"lang": "python"}, agent="alice", k=2)
    assert ids(reply, "procedures") == NAMES[:2]
    assert (reply["cold"], reply["degraded"], reply["fresh"]) == (False, [], {"procedures": 3})
    best = reply["procedures"][0]
    assert (best["probability"], best["why"]["how"], best["why"]["crystal"]) == (0.8, "neighbours", 2)
    assert best["why"]["neighbours"][0]["run"] == "r1"
    assert "drawn" not in best
    [asked] = _asked(stages, "recommend")
    assert (asked.vector, asked.model, asked.ask.context) == (VECTOR, "model", {"lang": "python"})
    drawn = ask(stages, "recommend", task="t", explore="thompson", seed="7")
    assert drawn["procedures"][0]["drawn"] == 0.5
    assert ask(stages, "recommend", tenant="other", task="t")["cold"] is True


@pytest.mark.parametrize("verb", ["recommend", "predict"])
def test_a_context_that_a_run_may_have_can_be_asked_about(stages, verb):
    """Also one of whole numbers that MessagePack does not hold."""
    context = {"order": 10**30, "below": -(2**63) - 1, "most": 2**64 - 1, "name": "x", "none": None, "share": 0.5}
    ask(stages, verb, context=context, **QUESTIONS[verb])
    [asked] = _asked(stages, verb)
    sent = msgspec.msgpack.decode(encode(asked), type=type(asked))
    assert context_of(sent.ask.context) == context_of(context)


@pytest.mark.parametrize("verb", ["recommend", "predict"])
def test_without_embed_tasks_are_compared_by_words_and_that_is_said(stages, verb):
    stages.down.add("embed")
    reply = ask(stages, verb, **QUESTIONS[verb])
    assert (reply["degraded"], reply["stale"]) == (["vector"], False)
    [asked] = _asked(stages, verb)
    assert (asked.vector, asked.model) == (b"", "")
    stages.down.clear()
    stages.hangs.add("encode")
    assert ask(stages, verb, **QUESTIONS[verb])["degraded"] == ["vector"]


def test_tasks_that_lack_their_vectors_are_said(stages):
    stages.blind = True
    assert ask(stages, "recommend", task="t")["degraded"] == ["vector"]


@pytest.mark.parametrize("verb", ["recommend", "predict"])
def test_what_is_being_made_of_the_runs_is_said_but_no_run_is_missing(stages, verb):
    stages.lacks = ["words", "model"]
    early = ask(stages, verb, after=3, **QUESTIONS[verb])
    assert (early["degraded"], early["stale"]) == (["model", "words"], False)
    stages.down.add("embed")
    blind = ask(stages, verb, after=3, **QUESTIONS[verb])
    assert (blind["degraded"], blind["stale"]) == (["vector", "model", "words"], True)


def test_a_chance_is_told_for_known_and_unknown_procedures(stages):
    known = ask(stages, "predict", task="t", procedure="alpha")
    assert (known["probability"], known["cold"], known["why"]["runs"]) == (0.8, False, 10)
    assert known["interval"] == {"low": 0.5, "high": 0.9}
    assert ask(stages, "predict", task="t", procedure="new")["cold"] is True


def test_one_procedure_is_shown_whole_or_not_found(stages):
    shown = ask(stages, "procedure", id="beta")["procedure"]
    assert (shown["id"], shown["recent"], shown["by_context"][0]["of"]) == ("beta", [False, True, True], "lang=python")
    assert refused(stages, "procedure", id="nobody") == ("not_found", "id")
    assert refused(stages, "related", id="nobody") == ("not_found", "id")


def test_lists_come_in_pages(stages):
    first = ask(stages, "procedures", limit=2, sort="lift")
    assert ids(first, "procedures") == NAMES[:2]
    second = ask(stages, "procedures", limit=2, sort="lift", cursor=first["cursor"])
    assert ids(second, "procedures") == NAMES[2:] and "cursor" not in second
    assert refused(stages, "procedures", sort="rate", cursor=first["cursor"]) == ("bad_cursor", "cursor")
    assert refused(stages, "patterns", cursor=first["cursor"]) == ("bad_cursor", "cursor")
    patterns = ask(stages, "patterns", limit=2, done=["search"])
    assert (len(patterns["patterns"]), patterns["next"]) == (2, [{"step": "test", "rate": 0.8}])
    rest = ask(stages, "patterns", limit=2, done=["search"], cursor=patterns["cursor"])
    assert len(rest["patterns"]) == 1 and "cursor" not in rest


def test_a_reply_ends_where_it_is_full(stages):
    stages.padding = "x" * (limits.REPLY_BYTES_MAX // 2)
    assert ids(ask(stages, "recommend", task="t"), "procedures") == NAMES[:1]
    first = ask(stages, "procedures")
    assert ids(first, "procedures") == NAMES[:1]
    assert ids(ask(stages, "procedures", cursor=first["cursor"]), "procedures") == NAMES[1:2]


def test_neighbours_patterns_and_clusters(stages):
    assert ids(ask(stages, "related", id="alpha"), "procedures") == ["beta"]
    far = ask(stages, "related", id="alpha", hops=2)["procedures"][1]
    assert (far["path"], far["kind"]) == (["alpha", "beta", "gamma"], "follows")
    assert refused(stages, "related", id="alpha", kinds=["follows"] * 4) == ("bad_field", "kinds")
    [cluster] = ask(stages, "insights")["insights"]
    assert (cluster["works"][0]["id"], cluster["fails"][0]["lift"]) == ("alpha", 0.33)


@pytest.mark.parametrize("verb", QUESTIONS)
def test_who_asks_reads_what_was_written_or_is_told_that_it_is_late(stages, verb):
    stages.at = Head(1, 1)
    early = ask(stages, verb, **QUESTIONS[verb])
    assert (early["degraded"], early["fresh"]) == ([], {"procedures": 1})
    late = ask(stages, verb, after=3, wait_ms=500, **QUESTIONS[verb])
    assert (late["degraded"], late["stale"]) == (["procedures"], True)
    assert [request.rseq for request in _asked(stages, "applied")][-1] == 3
    stages.at = Head(3, 3)
    there = ask(stages, verb, after=3, **QUESTIONS[verb])
    assert (there["degraded"], there["stale"], there["fresh"]["procedures"]) == ([], False, 3)
    future = ask(stages, verb, after=9, **QUESTIONS[verb])
    assert (future["degraded"], future["stale"]) == (["record"], True)


@pytest.mark.parametrize("verb", ["recommend", "predict"])
def test_what_compares_tasks_waits_until_they_have_their_vectors(stages, verb):
    stages.blind, stages.sees_after = True, 3
    there = ask(stages, verb, after=3, wait_ms=5_000, **QUESTIONS[verb])
    assert (there["degraded"], there["stale"], len(_asked(stages, "applied"))) == ([], False, 3)
    stages.blind = True
    late = ask(stages, verb, after=3, **QUESTIONS[verb])
    assert (late["degraded"], late["stale"]) == (["vector"], True)


def test_counts_wait_for_no_vector(stages):
    stages.blind, stages.sees_after = True, 9
    ask(stages, "procedures", after=3, wait_ms=5_000)
    assert len(_asked(stages, "applied")) == 1


@pytest.mark.parametrize("verb", QUESTIONS)
def test_without_learn_nobody_can_say(stages, verb):
    stages.down.add("learn")
    assert refused(stages, verb, **QUESTIONS[verb])[0] == "unavailable"
    stages.down.clear()
    stages.hangs.add(verb)
    assert refused(stages, verb, **QUESTIONS[verb])[0] == "timeout"


@pytest.mark.parametrize(
    ("verb", "fields", "wrong"),
    [
        ("recommend", {}, ("missing_field", "task")),
        ("recommend", {"task": "  "}, ("bad_field", "task")),
        ("recommend", {"task": "x" * 8193}, ("bad_field", "task")),
        ("recommend", {"task": "t", "k": 0}, ("bad_field", "k")),
        ("recommend", {"task": "t", "k": 10**9}, ("bad_field", "k")),
        ("recommend", {"task": "t", "explore": "boldly"}, ("bad_field", "explore")),
        ("recommend", {"task": "t", "context": {"a": []}}, ("bad_field", "context[...]")),
        ("recommend", {"task": "t", "agent": "a b"}, ("bad_field", "agent")),
        ("recommend", {"task": "t", "proc": 1}, ("bad_field", "proc")),
        ("predict", {"task": "\n", "procedure": "alpha"}, ("bad_field", "task")),
        ("predict", {"task": "t"}, ("missing_field", "procedure")),
        ("procedure", {}, ("missing_field", "id")),
        ("procedures", {"sort": "beauty"}, ("bad_field", "sort")),
        ("procedures", {"cursor": "x"}, ("bad_cursor", "cursor")),
        ("related", {"id": "alpha", "hops": 4}, ("bad_field", "hops")),
        ("related", {"id": "alpha", "kinds": ["loves"]}, ("bad_field", "kinds[0]")),
        ("patterns", {"done": ["s"] * 17}, ("bad_field", "done")),
        ("insights", {"limit": 0}, ("bad_field", "limit")),
    ],
)
def test_what_is_no_question_is_refused(stages, verb, fields, wrong):
    assert refused(stages, verb, **fields) == wrong
    assert _asked(stages, verb) == []
