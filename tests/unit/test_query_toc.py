"""`toc`, `browse`, `expand` of a grip, and search without an index, over fake stages."""

from typing import Any

import msgspec
import pytest

from harness.fake_stages import FakeStages
from harness.planted import TALKS, ask, ids, plant, refused, segments
from jetmem.query.contents import after_child


@pytest.fixture
def stages() -> FakeStages:
    found = FakeStages()
    plant(found, "acme", TALKS)
    return found


def test_the_root_shows_years_in_order_of_time(stages: FakeStages) -> None:
    reply = ask(stages, "toc")
    assert ids(reply) == ["toc:year:2026"]  # a week belongs to the year of its Thursday
    assert (reply["nodes"][0]["start"], reply["nodes"][0]["end"]) == (
        "2025-12-30T09:00:00.000Z", "2026-02-10T08:01:00.000Z"
    )  # fmt: skip
    assert (reply["degraded"], reply["stale"]) == ([], False)
    assert reply["fresh"]["toc"] == reply["fresh"]["record"] == 10
    plant(stages, "acme", {"2024-05-05T10:00": ["older"]})
    assert ids(ask(stages, "toc")) == ["toc:year:2024", "toc:year:2026"]
    assert "node" not in reply


def test_a_node_is_shown_without_what_only_a_walk_reads(stages: FakeStages) -> None:
    shown = ask(stages, "toc", node=segments(stages)[1])["node"]
    assert (shown["title"], shown["session"], shown["events"], shown["agents"]) == (
        "tea with lemon",
        "s1",
        2,
        ["alice"],
    )
    assert shown["bullets"][0]["grips"]
    assert not {"terms", "sources", "grips", "gone"} & set(shown)
    told = ask(stages, "toc", node=shown["id"], explain=True)["node"]
    assert told["sources"] == [[1, 9]]
    assert told["terms"]["lemon"] == 2


def test_an_older_version_stays_readable(stages: FakeStages) -> None:
    day = "toc:day:2026-01-05"
    newer = msgspec.structs.replace(stages.nodes_held[day][0], version=20, title="newer")
    stages.nodes_held[day].append(newer)
    assert ask(stages, "toc", node=day)["node"]["title"] == "newer"
    assert ask(stages, "toc", node=day, version=10)["node"]["title"] == "tea with lemon"
    assert refused(stages, "toc", node=day, version=11) == ("not_found", "node")


@pytest.mark.parametrize("verb", ["toc", "browse"])
def test_unknown_and_malformed_nodes_are_refused(stages: FakeStages, verb: str) -> None:
    assert refused(stages, verb, node="toc:day:2020-01-01") == ("not_found", "node")
    for bad in ("toc:day:yesterday", "day", "toc:decade:2020", "toc:day:2026-01-05:x"):
        assert refused(stages, verb, node=bad) == ("bad_field", "node")
    assert refused(stages, verb, node="white space") == ("bad_field", "node")
    assert refused(stages, verb, nod="toc:year:2026")[0] == "bad_field"


def test_a_version_goes_with_a_node_and_browse_needs_one(stages: FakeStages) -> None:
    assert refused(stages, "toc", version=3) == ("bad_field", "version")
    assert refused(stages, "browse") == ("missing_field", "node")


def test_a_node_that_is_gone_is_not_found(stages: FakeStages) -> None:
    day = "toc:day:2026-01-05"
    assert ask(stages, "toc", node=day)["node"]["id"] == day
    stages.nodes_held[day].append(type(stages.nodes_held[day][0])(id=day, version=30, gone=True))
    assert refused(stages, "toc", node=day) == ("not_found", "node")
    assert ids(ask(stages, "browse", node="toc:week:2026-W02")) == ["toc:day:2026-01-06"]


def test_another_tenant_sees_nothing() -> None:
    class Strict(FakeStages):
        def nodes(self, stage: str, tenant: str, request: Any) -> Any:
            assert request.tenant == tenant
            return super().nodes(stage, tenant, request)

    stages = Strict()
    assert ask(stages, "toc", tenant="other")["nodes"] == []


def test_browse_pages_children_in_order_of_time(stages: FakeStages) -> None:
    year = ask(stages, "browse", node="toc:year:2026")
    assert ids(year) == ["toc:month:2026-01", "toc:month:2026-02"]
    assert "cursor" not in year
    first = ask(stages, "browse", node="toc:month:2026-01", limit=1)
    assert ids(first) == ["toc:week:2026-W01"]
    second = ask(stages, "browse", node="toc:month:2026-01", limit=1, cursor=first["cursor"])
    assert ids(second) == ["toc:week:2026-W02"]
    assert "cursor" not in second
    assert ids(ask(stages, "browse", node=segments(stages)[0])) == []
    assert refused(stages, "browse", node="toc:year:2026", cursor=first["cursor"]) == ("bad_cursor", "cursor")


def test_replies_of_persist_that_are_full_are_continued(stages: FakeStages) -> None:
    plant(stages, "acme", {"2023-05-05T10:00": ["older"], "2024-05-05T10:00": ["old"]})
    stages.nodes_at_once = 1
    assert ids(ask(stages, "toc")) == ["toc:year:2023", "toc:year:2024", "toc:year:2026"]
    assert ids(ask(stages, "browse", node="toc:year:2026")) == ["toc:month:2026-01", "toc:month:2026-02"]


def test_large_nodes_fill_a_page_and_lose_nothing(stages: FakeStages) -> None:
    week = "toc:week:2026-W02"
    for id_ in stages.nodes_held[week][0].children:
        bullets = [msgspec.structs.replace(stages.nodes_held[id_][0].bullets[0], text="x" * 2_000)] * 64
        big = msgspec.structs.replace(stages.nodes_held[id_][0], bullets=bullets, summary="y" * 20_000)
        stages.nodes_held[id_] = [msgspec.structs.replace(big, keywords=["k" * 9_000] * 64)]
    first = ask(stages, "browse", node=week)
    assert ids(first) == ["toc:day:2026-01-05"]
    assert ids(ask(stages, "browse", node=week, cursor=first["cursor"])) == ["toc:day:2026-01-06"]


def test_a_page_goes_on_after_its_last_child_whatever_came_before_it() -> None:
    assert after_child(["a", "b", "c"], "", 0) == 0
    assert after_child(["a", "new", "b", "c"], "b", 2) == 3
    assert after_child(["a", "c"], "b", 2) == 2
    assert after_child(["a"], "b", 2) == 1


@pytest.mark.parametrize("trouble", ["down", "hangs"])
def test_without_summarize_the_nodes_held_answer_and_say_so(stages: FakeStages, trouble: str) -> None:
    if trouble == "down":
        stages.down.add("summarize")
    else:
        stages.hangs.add("summarize.applied")
    for verb, request in (("toc", {}), ("browse", {"node": "toc:year:2026"}), ("route", {"query": "what's new?"})):
        reply = ask(stages, verb, **request)
        assert (reply["degraded"], reply["stale"]) == (["toc"], False)
        assert reply["nodes"]
    late = ask(stages, "toc", after=3)
    assert (late["degraded"], late["stale"]) == (["toc"], True)


def test_after_waits_for_the_table_of_contents(stages: FakeStages) -> None:
    reply = ask(stages, "toc", after=10, wait_ms=1_000)
    assert (reply["stale"], reply["degraded"]) == (False, [])
    asked = [request for verb, request in stages.calls if verb == "applied"]
    assert (asked[0].rseq, asked[0].wait_ms) == (10, 1_000)
    stages.late = ["text", "vector", "toc"]
    reply = ask(stages, "browse", node="toc:year:2026", after=10)
    assert (reply["stale"], reply["degraded"]) == (True, ["toc"])
    reply = ask(stages, "toc", after=99)
    assert (reply["stale"], "record" in reply["degraded"]) == (True, True)


def test_without_persist_it_is_an_error(stages: FakeStages) -> None:
    stages.down.add("persist")
    assert refused(stages, "toc")[0] == "unavailable"


def grip(stages: FakeStages, number: int, place: int) -> str:
    return stages.nodes_held[segments(stages)[number]][0].grips[place].id


def test_a_grip_shows_its_very_words_and_what_was_said_around_them(stages: FakeStages) -> None:
    own = grip(stages, 2, 1)
    reply = ask(stages, "expand", grip=own)
    assert reply["excerpt"] == "fixed the build with a pin"
    assert reply["node"] == segments(stages)[2]
    assert (reply["grip"]["id"], reply["grip"]["first"], reply["grip"]["last"]) == (own, "2-1", "2-1")
    assert reply["grip"]["ts"] == "2026-01-06T10:01:00.000Z"
    assert reply["event"]["id"] == "2-1"
    assert reply["excerpt"] in reply["event"]["text"]
    asked = [request for verb, request in stages.calls if verb == "fetch"][0]
    assert (asked.before, asked.after, asked.within_ms) == (3, 3, 30 * 60_000)


def test_a_grip_of_several_events_shows_all_of_them(stages: FakeStages) -> None:
    segment = segments(stages)[2]
    node = stages.nodes_held[segment][0]
    wide = msgspec.structs.replace(node.grips[0], id=f"{node.grips[0].id[:-4]}0000", last="2-2")
    stages.nodes_held[segment] = [msgspec.structs.replace(node, grips=[wide])]
    reply = ask(stages, "expand", grip=wide.id, before_events=0, after_events=1)
    assert ids(reply, "events")[:3] == ["2-0", "2-1", "2-2"]
    assert ids(reply, "after") == ids(reply, "events")[3:]
    assert ids(reply, "before") == []


def test_a_grip_whose_events_were_erased_is_not_found(stages: FakeStages) -> None:
    own = grip(stages, 2, 1)
    assert ask(stages, "expand", grip=own)["event"]["id"] == "2-1"
    stages.erased_ids = {"2-1"}
    assert refused(stages, "expand", grip=own) == ("not_found", "grip")


def test_expand_takes_exactly_one_of_id_and_grip(stages: FakeStages) -> None:
    own = grip(stages, 0, 0)
    assert refused(stages, "expand") == ("missing_field", "id")
    assert refused(stages, "expand", id="0-0", grip=own) == ("bad_field", "grip")
    for bad in ("grip", "grip:x", "toc:day:2026-01-05", "grip:2026-01-05:ab"):
        assert refused(stages, "expand", grip=bad) == ("bad_field", "grip")
    assert refused(stages, "expand", grip=f"{own[:-4]}beef") == ("not_found", "grip")
    assert refused(stages, "expand", grip="grip:2020-01-05:abc:12") == ("not_found", "grip")


@pytest.mark.parametrize("trouble", ["down", "hangs"])
def test_without_the_index_a_search_is_answered_by_a_walk(stages: FakeStages, trouble: str) -> None:
    if trouble == "down":
        stages.down.add("index")
    else:
        stages.hangs.add("find")
    reply = ask(stages, "search", query="who broke the build?", limit=2, explain=True)
    assert (reply["mode"], reply["degraded"]) == ("toc", ["text", "vector"])
    assert ids(reply, "hits")[0] in ("2-0", "2-1")
    best = reply["hits"][0]
    assert (best["arms"], best["segment"]) == (["toc"], segments(stages)[2])
    assert 0 < best["score"] <= 1
    assert set(best["explain"]) == {"segment", "turn", "window"}
    assert best["highlights"]
    assert reply["fresh"]["toc"] == 10


def test_a_walk_is_paged_and_shows_neighbours(stages: FakeStages) -> None:
    stages.down.add("index")
    found: list[str] = []
    more: dict[str, Any] = {}
    for _ in range(10):
        reply = ask(stages, "search", query="lemon build", limit=3, **more)
        found += ids(reply, "hits")
        if "cursor" not in reply:
            break
        more = {"cursor": reply["cursor"]}
    assert sorted(found) == sorted(
        f"{n}-{place}" for n, texts in enumerate(TALKS.values()) for place in range(len(texts))
    )
    hit = ask(stages, "search", query="fixed", limit=1, around=1)["hits"][0]
    assert (hit["id"], ids(hit, "before"), ids(hit, "after")) == ("2-1", ["2-0"], ["2-2"])


def test_a_walk_keeps_to_the_filters(stages: FakeStages) -> None:
    stages.down.add("index")
    since = "2026-01-06T10:01:00Z"
    reply = ask(stages, "search", query="build", since=since, until="2026-01-07T00:00:00Z")
    assert sorted(ids(reply, "hits")) == ["2-1", "2-2"]
    reply = ask(stages, "search", query="build", session="s1")
    assert sorted(ids(reply, "hits")) == ["1-0", "1-1"]
    ask(stages, "search", query="build", agent="alice", role="user", tags=["t"], author="Ann")
    asked = [request for verb, request in stages.calls if verb == "timeline"][-1]
    assert (asked.agent, asked.roles, asked.tags, asked.author) == ("alice", ["user"], ["t"], "Ann")


def test_a_walk_that_comes_to_nothing_leaves_the_newest(stages: FakeStages) -> None:
    stages.down.add("index")
    reply = ask(stages, "search", query="build", session="nobody")
    assert (reply["mode"], reply["hits"]) == ("recent", [])
    stages.nodes_held = {}
    assert ask(stages, "search", query="build", limit=1)["mode"] == "recent"
    stages.hangs.add("nodes")
    reply = ask(stages, "search", query="build", limit=1)
    assert (reply["mode"], len(reply["hits"])) == ("recent", 1)


def test_what_is_erased_is_not_reached_by_a_walk(stages: FakeStages) -> None:
    stages.down.add("index")
    assert "2-1" in ids(ask(stages, "search", query="fixed build"), "hits")
    stages.erased_ids = {"2-1"}
    assert "2-1" not in ids(ask(stages, "search", query="fixed build"), "hits")
