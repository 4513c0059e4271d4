"""Each verb over fake stages: whole, down, slow, behind, and with records gone."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from harness.fake_stages import FakeStages
from jetmem import flow
from jetmem.query.discovery import Tally
from jetmem.query.handler import Query
from jetmem.query.patience import ANSWER_S
from jetmem.query.settings import QuerySettings
from jetmem.runtime import limits
from jetmem.runtime.errors import Broken, RequestFailed
from jetmem_schemas.events import Forget
from jetmem_schemas.requests import VERBS


def stages_with(count: int = 5, text: str = "hello pizza") -> FakeStages:
    stages = FakeStages()
    for number in range(count):
        stages.add("acme", f"e{number}", f"{text} {number}")
    return stages


def ask(stages: FakeStages, verb: str, tenant: str = "acme", **request: Any) -> dict[str, Any]:
    """One question as the wire has it."""
    query = Query(stages, QuerySettings(), stages.clock, Tally())
    code, label, body, _ = asyncio.run(query.answer(f"mem.{tenant}.query.{verb}", json.dumps(request).encode()))
    assert (code, label) == ("ok", verb)
    reply: dict[str, Any] = json.loads(body)
    assert {"fresh", "degraded", "stale", "took_ms"} <= set(reply)
    return reply


def refused(stages: FakeStages, verb: str, **request: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        ask(stages, verb, **request)
    return caught.value


def ids(reply: dict[str, Any], name: str = "hits") -> list[str]:
    return [each["id"] for each in reply[name]]


def called(stages: FakeStages, verb: str) -> list[Any]:
    return [request for name, request in stages.calls if name == verb]


def pages(stages: FakeStages, verb: str, name: str, **request: Any) -> list[list[str]]:
    """Ids of every page, following the cursor to its end."""
    found = []
    more: dict[str, Any] = {}
    for _ in range(50):
        reply = ask(stages, verb, **request, **more)
        found.append(ids(reply, name))
        if "cursor" not in reply:
            return found
        more = {"cursor": reply["cursor"]}
    raise AssertionError("the cursor never ends")


def test_search_answers_by_both_arms() -> None:
    reply = ask(stages_with(), "search", query="pizzas", limit=2)
    assert ids(reply) == ["e0", "e1"]
    assert (reply["mode"], reply["degraded"], reply["stale"]) == ("hybrid", [], False)
    assert reply["fresh"] == {"record": 5, "text": 5, "vector": 5}
    assert reply["hits"][0]["highlights"] == [[6, 11]]
    assert reply["hits"][0]["arms"] == ["text", "vector"]
    assert "explain" not in reply["hits"][0]


def test_search_explains_and_shows_neighbours_when_asked() -> None:
    hit = ask(stages_with(), "search", query="q", limit=2, explain=True, around=1)["hits"][1]
    assert hit["explain"] == {"turn": 1.0}
    assert [ids(hit, "before"), ids(hit, "after")] == [["e0"], ["e2"]]


def test_search_passes_filters_to_the_index() -> None:
    stages = stages_with()
    ask(stages, "search", query="q", agent="alice", role="user", tags=["t"], since=1, until=2)
    filters = called(stages, "find")[0].filters
    assert (filters.agent, filters.roles, filters.tags, filters.since, filters.until) == (
        "alice",
        ["user"],
        ["t"],
        1,
        2,
    )


def test_search_of_another_tenant_finds_nothing_of_this_one() -> None:
    assert ids(ask(stages_with(), "search", query="q")) != []
    reply = ask(stages_with(), "search", tenant="other", query="q")
    assert reply["hits"] == []
    assert "cursor" not in reply


def test_text_mode_never_asks_the_encoder() -> None:
    stages = stages_with()
    assert ask(stages, "search", query="q", mode="text")["mode"] == "text"
    assert called(stages, "encode") == []


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
@pytest.mark.parametrize("trouble", ["down", "slow"])
def test_without_the_encoder_words_answer_and_say_so(mode: str, trouble: str) -> None:
    stages = stages_with()
    if trouble == "down":
        stages.down.add("embed")
    else:
        stages.hangs.add("encode")
    reply = ask(stages, "search", query="q", mode=mode)
    assert (reply["mode"], reply["degraded"]) == ("text", ["vector"])
    assert len(reply["hits"]) == 5
    assert called(stages, "find")[0].mode == "text"


def test_an_index_without_vectors_answers_by_words() -> None:
    stages = stages_with()
    stages.missing = ["vector"]
    reply = ask(stages, "search", query="q")
    assert (reply["mode"], reply["degraded"], reply["stale"]) == ("text", ["vector"], False)


@pytest.mark.parametrize(
    ("mode", "degraded"), [("hybrid", ["text", "vector"]), ("text", ["text"]), ("vector", ["vector"])]
)
def test_without_the_index_the_newest_answer(mode: str, degraded: list[str]) -> None:
    stages = stages_with()
    stages.down.add("index")
    reply = ask(stages, "search", query="pizza", mode=mode, limit=2)
    assert (reply["mode"], reply["degraded"], ids(reply)) == ("recent", degraded, ["e4", "e3"])
    assert reply["hits"][0]["arms"] == ["recent"]
    assert reply["hits"][0]["highlights"] == [[6, 11]]


def test_the_newest_are_paged_and_have_neighbours() -> None:
    stages = stages_with()
    stages.down.add("index")
    assert pages(stages, "search", "hits", query="q", limit=2) == [["e4", "e3"], ["e2", "e1"], ["e0"]]
    hit = ask(stages, "search", query="q", limit=1, around=2)["hits"][0]
    assert ids(hit, "before") == ["e2", "e3"]


def test_an_index_that_hangs_leaves_time_for_the_next_tier() -> None:
    stages = stages_with()
    stages.hangs.add("find")
    began = stages.clock.now
    assert ask(stages, "search", query="q")["mode"] == "recent"
    assert stages.clock.now - began <= ANSWER_S


def test_a_ranked_page_is_not_continued_by_another_tier() -> None:
    stages = stages_with()
    cursor = ask(stages, "search", query="q", limit=2)["cursor"]
    stages.down.add("index")
    error = refused(stages, "search", query="q", limit=2, cursor=cursor)
    assert error.code == "unavailable"


@pytest.mark.parametrize("verb", ["search", "get", "expand", "timeline", "sessions", "agents"])
@pytest.mark.parametrize("trouble", ["down", "slow"])
def test_without_persist_every_verb_says_so(verb: str, trouble: str) -> None:
    stages = stages_with()
    if trouble == "down":
        stages.down.add("persist")
    else:
        stages.hangs |= {"cover", "fetch", "timeline", "sessions", "agents"}
    began = stages.clock.now
    request = {"search": {"query": "q"}, "get": {"ids": ["e1"]}, "expand": {"id": "e1"}}.get(verb, {})
    error = refused(stages, verb, **request)
    assert error.code == ("unavailable" if trouble == "down" else "timeout")
    assert stages.clock.now - began <= ANSWER_S


def test_search_without_hits_still_notices_that_persist_is_down() -> None:
    stages = stages_with()
    stages.ranking = []
    assert ask(stages, "search", query="q")["fresh"]["record"] == 5
    stages.down.add("persist")
    assert refused(stages, "search", query="q").code == "unavailable"


def test_hits_that_persist_no_longer_holds_are_made_up_for() -> None:
    stages = stages_with(30)
    stages.erased_ids = {f"e{n}" for n in range(12)}
    assert ids(ask(stages, "search", query="q", limit=5)) == [f"e{n}" for n in range(12, 17)]


def test_when_nearly_all_are_gone_the_index_is_asked_for_more() -> None:
    stages = stages_with(250)
    stages.erased_ids = {f"e{n}" for n in range(240)}
    reply = ask(stages, "search", query="q", limit=5)
    assert ids(reply) == [f"e{n}" for n in range(240, 245)]
    assert [r.limit for r in called(stages, "find")] == [100, 400]


def test_search_pages_hold_everything_once_and_end() -> None:
    stages = stages_with(23)
    stages.erased_ids = {"e3", "e22"}
    found = pages(stages, "search", "hits", query="q", limit=5)
    held = [f"e{n}" for n in range(23) if n not in (3, 22)]
    assert [id_ for page in found for id_ in page] == held
    assert [len(page) for page in found] == [5, 5, 5, 5, 1]


def test_a_full_last_page_has_no_cursor() -> None:
    assert pages(stages_with(4), "search", "hits", query="q", limit=2) == [["e0", "e1"], ["e2", "e3"]]


def test_fetches_that_are_cut_are_continued() -> None:
    stages = stages_with(9)
    stages.cut_at = 2
    stages.erased_ids = {"e1"}
    assert ids(ask(stages, "search", query="q", limit=6)) == ["e0", "e2", "e3", "e4", "e5", "e6"]


def test_large_replies_stop_with_a_cursor_and_lose_nothing() -> None:
    stages = stages_with(7, "x" * 300_000)
    found = pages(stages, "search", "hits", query="q", limit=7)
    assert [id_ for page in found for id_ in page] == [f"e{n}" for n in range(7)]
    assert len(found) > 2
    giants = stages_with(2, "x" * (limits.REPLY_BYTES_MAX + 1))
    assert pages(giants, "search", "hits", query="q") == [["e0"], ["e1"]]
    giants.down.add("index")
    assert pages(giants, "search", "hits", query="q") == [["e1"], ["e0"]]


def test_a_cursor_of_another_question_is_refused() -> None:
    stages = stages_with()
    cursor = ask(stages, "search", query="q", limit=2)["cursor"]
    assert ids(ask(stages, "search", query="q", limit=1, cursor=cursor)) == ["e2"]
    for request in ({"query": "p"}, {"query": "q", "agent": "alice"}, {"query": "q", "mode": "text"}):
        error = refused(stages, "search", limit=2, cursor=cursor, **request)
        assert (error.code, error.field) == ("bad_cursor", "cursor")


def test_after_waits_for_the_entry_that_covers_it() -> None:
    stages = stages_with()
    reply = ask(stages, "search", query="q", after=5, wait_ms=1000)
    assert called(stages, "cover")[0].after == 5
    assert (called(stages, "find")[0].rseq, called(stages, "find")[0].wait_ms) == (5, 1000)
    assert not reply["stale"]


def test_what_is_not_recorded_in_time_is_stale() -> None:
    stages = stages_with()
    reply = ask(stages, "search", query="q", after=99, wait_ms=1000)
    assert (reply["stale"], reply["degraded"], reply["fresh"]["record"]) == (True, ["record"], 5)
    assert called(stages, "find")[0].wait_ms == 0
    reply = ask(stages, "timeline", after=99)
    assert (reply["stale"], reply["degraded"]) == (True, ["record"])


def test_an_arm_that_is_late_is_named() -> None:
    stages = stages_with()
    stages.late = ["vector"]
    stages.vector_rseq = 2
    reply = ask(stages, "search", query="q", after=5)
    assert (reply["mode"], reply["degraded"], reply["stale"]) == ("hybrid", ["vector"], True)
    assert reply["fresh"] == {"record": 5, "text": 5, "vector": 2}
    words = ask(stages, "search", query="q", mode="text", after=5)
    assert (words["degraded"], words["stale"], words["fresh"]["vector"]) == ([], False, 2)


def test_get_lists_what_is_missing_and_pages() -> None:
    stages = stages_with()
    reply = ask(stages, "get", ids=["e3", "nope", "e1", "e3"])
    assert (ids(reply, "events"), reply["missing"]) == (["e3", "e1"], ["nope"])
    assert "cursor" not in reply
    stages.cut_at = 2
    assert pages(stages, "get", "events", ids=["e0", "nope", "e1", "e2"]) == [["e0", "e1"], ["e2"]]
    large = stages_with(3, "x" * 500_000)
    assert pages(large, "get", "events", ids=["e0", "e1", "e2"]) == [["e0"], ["e1"], ["e2"]]


def test_get_of_many_is_asked_in_parts() -> None:
    stages = stages_with(450)
    found = pages(stages, "get", "events", ids=[f"e{n}" for n in range(450)])
    assert [id_ for page in found for id_ in page] == [f"e{n}" for n in range(450)]


def test_expand_shows_what_came_before_and_after_in_order() -> None:
    reply = ask(stages_with(), "expand", id="e2", before_events=1, after_events=2)
    assert reply["event"]["id"] == "e2"
    assert ids(reply, "events") == ["e1", "e2", "e3", "e4"]
    assert (ids(reply, "before"), ids(reply, "after")) == (["e1"], ["e3", "e4"])


def test_expand_of_an_unknown_id_is_an_error() -> None:
    error = refused(stages_with(), "expand", id="nope")
    assert (error.code, error.field) == ("not_found", "id")


def test_timeline_pages_both_ways() -> None:
    stages = stages_with()
    assert pages(stages, "timeline", "events", limit=2) == [["e4", "e3"], ["e2", "e1"], ["e0"]]
    assert pages(stages, "timeline", "events", limit=3, order="asc") == [["e0", "e1", "e2"], ["e3", "e4"]]
    large = stages_with(4, "x" * 400_000)
    assert pages(large, "timeline", "events") == [["e3", "e2"], ["e1", "e0"]]


def test_sessions_and_agents() -> None:
    stages = stages_with()
    reply = ask(stages, "sessions", agent="alice", since=1)
    assert called(stages, "sessions")[0].agent == "alice"
    assert reply["sessions"][0]["id"] == "s1"
    assert reply["sessions"][0]["events"] == 5
    assert reply["sessions"][0]["last"] == "2023-11-14T22:13:25.000Z"
    ask(stages, "sessions", agent="alice", since=1, cursor=reply["cursor"])
    assert called(stages, "sessions")[1].cursor == b"more"
    assert refused(stages, "sessions", cursor=reply["cursor"]).code == "bad_cursor"
    assert ask(stages, "agents")["agents"][0] == {
        "id": "alice", "events": 5, "sessions": 1,
        "first": "2023-11-14T22:13:21.000Z", "last": "2023-11-14T22:13:25.000Z",
    }  # fmt: skip


def test_status_tells_of_every_stage() -> None:
    reply = ask(stages_with(), "status")
    assert [(s["stage"], s["state"]) for s in reply["stages"]] == [
        ("persist", "ok"), ("embed", "ok"), ("index", "ok"), ("summarize", "ok"), ("learn", "ok"), ("query", "ok")
    ]  # fmt: skip
    assert (reply["events"], reply["pending_vectors"], reply["dead_letters"]) == (5, 3, 4)
    assert reply["fresh"] == {"record": 5, "text": 2, "vector": 1, "toc": 4, "procedures": 3, "tasks": 2}


def test_status_answers_when_everything_is_down() -> None:
    stages = stages_with()
    stages.down |= {"persist", "embed", "index", "summarize", "learn", "broker"}
    reply = ask(stages, "status", after=3)
    assert [s["state"] for s in reply["stages"]] == [*["down"] * 5, "ok"]
    degraded = ["record", "text", "vector", "toc", "procedures", "tasks"]
    assert (reply["degraded"], reply["stale"], reply["dead_letters"]) == (degraded, True, None)


def test_status_says_purging_until_no_stage_may_hold_what_was_erased() -> None:
    def purging(**state: Any) -> int:
        stages = stages_with()
        for name, value in state.items():
            setattr(stages, name, value)
        count: int = ask(stages, "status")["purging"]
        return count

    assert purging() == 0
    assert purging(forgot_seq=2) == 0  # the index is at 2
    assert purging(forgot_seq=3) == 1  # and has yet to hear of this one
    assert purging(forgot_seq=2, index_purging=1) == 1
    assert purging(forgot_seq=2, down={"index"}) == 1
    assert purging(down={"index", "embed"}) == 0  # nothing was ever erased


def test_status_waits_for_vectors_with_after() -> None:
    stages = stages_with()
    reply = ask(stages, "status", after=5)
    assert (reply["stale"], reply["degraded"], reply["fresh"]["vector"]) == (False, [], 5)
    stages.vector_rseq = 2
    reply = ask(stages, "status", after=5)
    assert (reply["stale"], reply["degraded"], reply["fresh"]["text"]) == (True, ["vector"], 5)


def test_status_shows_the_kind_of_an_error_and_not_its_words() -> None:
    stages = stages_with()
    stages.last_error = "OSError: while writing for tenant other"
    assert "other" not in json.dumps(ask(stages, "status"))
    assert ask(stages, "status")["stages"][0]["last_error"] == "OSError"


def test_forget_is_published_and_applied() -> None:
    stages = stages_with()
    assert ids(ask(stages, "search", query="q", limit=1)) == ["e0"]
    reply = ask(stages, "forget", ids=["e0", "e1"], reason="asked to")
    assert (reply["state"], reply["erased"], reply["waiting"]) == ("applied", 2, [])
    subject, body = stages.published[0]
    command = msgspec.json.decode(body, type=Forget)
    assert subject == "mem.acme.forget._._"
    assert (command.ids, command.reason, reply["seq"]) == (["e0", "e1"], "asked to", 6)
    assert command.id
    assert ids(ask(stages, "search", query="q", limit=1)) == ["e2"]


def test_forget_of_a_session_goes_to_its_subject() -> None:
    stages = stages_with()
    ask(stages, "forget", agent="alice", session="s1")
    assert stages.published[0][0] == "mem.acme.forget.alice.s1"


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        ({}, "empty_forget", ""),
        ({"reason": "x"}, "empty_forget", ""),
        ({"all": False}, "empty_forget", ""),
        ({"session": "s1"}, "missing_field", "agent"),
        ({"all": True, "author": "Ann"}, "bad_field", "all"),
        ({"ids": []}, "bad_field", "ids"),
        ({"before": 1e300}, "bad_time", "before"),
        ({"id": "e1"}, "bad_field", "id"),
    ],
)
def test_a_forget_that_selects_nothing_erases_nothing(request_: dict[str, Any], code: str, field: str) -> None:
    stages = stages_with()
    error = refused(stages, "forget", **request_)
    assert (error.code, error.field) == (code, field)
    assert stages.published == []
    assert len(ask(stages, "search", query="q")["hits"]) == 5


def test_forget_is_published_again_under_the_same_id() -> None:
    stages = stages_with()
    stages.lost_acks = 2
    assert ask(stages, "forget", ids=["e0"])["state"] == "applied"
    assert len(stages.published) == 3
    assert len(set(stages.published)) == 1


def test_forget_without_an_acknowledgement_is_an_error() -> None:
    stages = stages_with()
    stages.lost_acks = 1_000
    assert refused(stages, "forget", ids=["e0"]).code == "unavailable"


@pytest.mark.parametrize(
    ("slow", "waiting"),
    [("cover", ["persist", "index", "summarize", "learn"]), ("applied", ["index", "summarize", "learn"])],
)
def test_forget_says_who_has_not_applied_it(slow: str, waiting: list[str]) -> None:
    stages = stages_with()
    stages.hangs.add(slow)
    began = stages.clock.now
    reply = ask(stages, "forget", ids=["e0"])
    assert (reply["state"], reply["waiting"], reply["stale"]) == ("accepted", waiting, True)
    assert reply["seq"] == 6
    assert stages.clock.now - began < QuerySettings().forget_wait_s + ANSWER_S


@pytest.fixture
def guess_in_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection that is added later."""
    guess = msgspec.structs.replace(flow.stage("index"), name="guess", arms=("guesses",))
    monkeypatch.setattr(flow, "STAGES", (*flow.STAGES[:-1], guess, flow.STAGES[-1]))


@pytest.mark.usefixtures("guess_in_the_flow")
def test_a_projection_that_is_added_is_awaited_like_any_other() -> None:
    stages = stages_with()
    reply = ask(stages, "status", after=5)
    assert (reply["fresh"]["guesses"], reply["degraded"], reply["stale"]) == (5, [], False)
    assert [s["stage"] for s in reply["stages"]] == [
        "persist", "embed", "index", "summarize", "learn", "guess", "query"
    ]  # fmt: skip
    stages.down = {"index"}
    reply = ask(stages, "status", after=5)
    assert (reply["fresh"]["guesses"], reply["degraded"], reply["stale"]) == (5, ["text", "vector"], True)
    stages.down = {"guess"}
    reply = ask(stages, "status", after=5)
    assert (reply["degraded"], reply["stale"]) == (["guesses"], True)
    assert [s["state"] for s in reply["stages"]] == ["ok", "ok", "ok", "ok", "ok", "down", "ok"]
    assert ask(stages, "search", query="q")["degraded"] == []


@pytest.mark.usefixtures("guess_in_the_flow")
def test_a_forget_waits_for_every_projection() -> None:
    stages = stages_with()
    assert ask(stages, "forget", ids=["e0"])["state"] == "applied"
    stages.hangs = {"guess.applied"}
    reply = ask(stages, "forget", ids=["e1"])
    assert (reply["state"], reply["waiting"], reply["degraded"]) == ("accepted", ["guess"], ["guesses"])
    stages.hangs = {"cover"}
    assert ask(stages, "forget", ids=["e2"])["waiting"] == ["persist", "index", "summarize", "learn", "guess"]


def test_a_verb_of_the_contract_that_nobody_answers_is_noticed_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = stages_with()
    monkeypatch.setitem(VERBS, "dreams", VERBS["status"])
    with pytest.raises(Broken, match="every verb"):
        Query(stages, QuerySettings(), stages.clock, Tally())


def test_a_forget_can_be_asked_for_until_it_is_purged() -> None:
    stages = stages_with()
    seq = ask(stages, "forget", ids=["e0"])["seq"]

    def state(**of: Any) -> tuple[str, int, list[str]]:
        for name, value in of.items():
            setattr(stages, name, value)
        reply = ask(stages, "forget", seq=seq)
        assert reply["seq"] == seq
        return reply["state"], reply["erased"], reply["waiting"]

    assert state(purged=False, index_purging=1) == ("applied", 2, [])
    assert state(purged=True, index_purging=1) == ("applied", 2, [])
    assert state(purged=False, index_purging=0) == ("applied", 2, [])
    assert state(purged=True, index_purging=0) == ("purged", 2, [])
    assert state(late=["text"]) == ("accepted", 2, ["index"])
    assert state(late=[], down={"index"}) == ("accepted", 2, ["index"])
    assert state(down=set(), reached=seq - 1, memory_end=seq) == (
        "accepted",
        0,
        ["persist", "index", "summarize", "learn"],
    )
    assert len(stages.published) == 1


def test_the_state_of_what_is_no_forget_is_not_found() -> None:
    stages = stages_with()
    error = refused(stages, "forget", seq=3)
    assert (error.code, error.field) == ("not_found", "seq")
    stages.down.add("persist")
    assert refused(stages, "forget", seq=3).code == "unavailable"
    assert refused(stages, "forget", seq=0).code == "bad_field"


def test_the_state_of_what_nobody_has_published_is_not_found() -> None:
    stages = stages_with()
    error = refused(stages, "forget", seq=stages.reached + 1)
    assert (error.code, error.field) == ("not_found", "seq")
    assert "the stream has no message of this sequence" in error.message
    stages.memory_end = stages.reached + 1
    assert ask(stages, "forget", seq=stages.memory_end)["state"] == "accepted"
    assert refused(stages, "forget", seq=stages.memory_end + 1).code == "not_found"
    stages.memory_end = None
    assert ask(stages, "forget", seq=10**6)["state"] == "accepted", "nobody knows better"


def test_the_broker_is_asked_where_memory_ends_only_where_persist_has_not_read_that_far() -> None:
    stages = stages_with()
    seq = ask(stages, "forget", ids=["e0"])["seq"]
    ask(stages, "forget", seq=seq)
    assert "last_seq" not in [verb for verb, _ in stages.calls]


@pytest.mark.parametrize("more", [{"all": True}, {"ids": ["e0"]}, {"reason": "x"}])
def test_the_state_is_asked_for_with_nothing_else(more: dict[str, Any]) -> None:
    stages = stages_with()
    seq = ask(stages, "forget", ids=["e4"])["seq"]
    error = refused(stages, "forget", seq=seq, **more)
    assert (error.code, error.field) == ("bad_field", "seq")
    assert len(stages.published) == 1


def test_every_answer_is_counted_by_verb_and_code() -> None:
    stages = stages_with()
    tally = Tally()
    query = Query(stages, QuerySettings(), stages.clock, tally)
    asyncio.run(query.answer("mem.acme.query.agents", b""))
    for subject in ("mem.acme.query.agents", "mem.acme.query.zzz"):
        with pytest.raises(RequestFailed):
            asyncio.run(query.answer(subject, b"{"))
    assert (tally.of("agents")["num_requests"], tally.of("agents")["num_errors"]) == (2, 1)
    assert tally.of("agents")["last_error"] == "bad_json"
    assert tally.of("unknown")["num_errors"] == 1


def test_who_waits_keeps_nobody_from_an_answer_and_too_many_are_refused() -> None:
    class Waits(FakeStages):
        async def ask(self, stage, verb, tenant, request, reply, timeout_s):
            if verb == "cover" and request.after > 5:
                await released.wait()
            return await super().ask(stage, verb, tenant, request, reply, timeout_s)

    async def go() -> None:
        stages = Waits()
        stages.add("acme", "e0", "hello")
        query = Query(stages, QuerySettings(), stages.clock, Tally())
        late = json.dumps({"ids": ["e0"], "after": 99, "wait_ms": 60_000}).encode()
        waiting = [
            asyncio.create_task(query.answer("mem.mallory.query.get", late)) for _ in range(limits.REQUESTS_WAITING_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(RequestFailed) as caught:
            await query.answer("mem.mallory.query.get", late)
        assert caught.value.code == "busy"
        _, _, body, _ = await asyncio.wait_for(query.answer("mem.acme.query.get", b'{"ids":["e0"],"after":1}'), 10)
        assert [e["id"] for e in json.loads(body)["events"]] == ["e0"]
        released.set()
        await asyncio.gather(*waiting)
        await query.answer("mem.mallory.query.get", late)

    released = asyncio.Event()
    asyncio.run(go())
