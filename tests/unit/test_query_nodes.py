"""`search` for nodes of the table of contents, and the segment of each event, over fake stages."""

from typing import Any

import msgspec
import pytest

from harness.fake_stages import FakeStages
from harness.planted import TALKS, ask, ids, plant, refused, segments
from jetmem_schemas.internal import FindRequest

DAY = "toc:day:2026-01-05"


@pytest.fixture
def stages() -> FakeStages:
    found = FakeStages()
    plant(found, "acme", TALKS)
    found.nodes_found = [segments(found)[1], DAY, "toc:year:2026"]
    return found


def asked(stages: FakeStages, verb: str) -> list[Any]:
    return [request for name, request in stages.calls if name == verb]


def test_events_are_asked_for_unless_nodes_are(stages: FakeStages) -> None:
    reply = ask(stages, "search", query="lemon")
    assert asked(stages, "find")[0].target == "events"
    assert not {"type", "level", "title", "start"} & set(reply["hits"][0])
    assert not asked(stages, "nodes")


def test_nodes_are_hits_with_their_time_and_level(stages: FakeStages) -> None:
    reply = ask(stages, "search", query="lemons", target="nodes", kind="observation", since=1, explain=True)
    assert ids(reply, "hits") == stages.nodes_found
    request: FindRequest = asked(stages, "find")[0]
    assert (request.target, request.filters.kinds, request.filters.since) == ("nodes", ["observation"], 1)
    assert not asked(stages, "fetch") and not asked(stages, "segments_of")
    hit = reply["hits"][0]
    assert (hit["type"], hit["level"], hit["kind"], hit["agent"], hit["session"]) == (
        "node", "segment", "observation", "alice", "s1"
    )  # fmt: skip
    assert hit["start"] == hit["ts"] == "2026-01-05T10:00:00.000Z"
    assert hit["end"] == hit["at"] == "2026-01-05T10:01:00.000Z"
    assert hit["text"].startswith(hit["title"] + "\n")
    assert [hit["text"][a:b] for a, b in hit["highlights"]] == ["lemon"] * 3
    assert hit["explain"] == {"words": 1.0}
    assert (reply["mode"], reply["degraded"]) == ("hybrid", [])
    assert reply["fresh"]["toc"] == 10


def test_both_come_in_one_ranking_and_page_through_it(stages: FakeStages) -> None:
    everything = ask(stages, "search", query="lemon", target="both", limit=100)
    assert {hit.get("type", "event") for hit in everything["hits"][:3]} == {"event", "node"}
    assert len(everything["hits"]) == 10 + 3
    found: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = ask(stages, "search", query="lemon", target="both", limit=2, **more)
        found += ids(page, "hits")
        if "cursor" not in page:
            break
        more = {"cursor": page["cursor"]}
    assert found == ids(everything, "hits")
    assert refused(stages, "search", query="lemon", target="nodes", **more) == ("bad_cursor", "cursor")


def test_a_full_reply_of_persist_loses_no_hit(stages: FakeStages) -> None:
    stages.cut_at = 1
    reply = ask(stages, "search", query="lemon", target="both", limit=8)
    whole = FakeStages()
    plant(whole, "acme", TALKS)
    whole.nodes_found = stages.nodes_found
    assert ids(reply, "hits") == ids(ask(whole, "search", query="lemon", target="both", limit=8), "hits")


def test_a_node_that_persist_does_not_hold_is_not_shown(stages: FakeStages) -> None:
    stages.nodes_held[DAY].append(type(stages.nodes_held[DAY][0])(id=DAY, version=30, gone=True))
    stages.nodes_found.insert(0, "toc:day:2020-01-01")
    reply = ask(stages, "search", query="lemon", target="nodes", limit=2)
    assert ids(reply, "hits") == [segments(stages)[1], "toc:year:2026"]


def test_an_event_may_be_called_like_a_node(stages: FakeStages) -> None:
    stages.add("acme", DAY, "an impostor")
    stages.ranking = [DAY]
    both = ask(stages, "search", query="lemon", target="both")["hits"]
    assert [hit["text"] for hit in both if hit["id"] == DAY and "type" not in hit] == ["an impostor"]
    assert ids(ask(stages, "search", query="x"), "hits") == [DAY]


@pytest.mark.parametrize(("field", "value"), [("author", "Ann"), ("role", "user"), ("tags", ["a"])])
@pytest.mark.parametrize("target", ["nodes", "both"])
def test_what_only_events_have_is_refused(stages: FakeStages, field: str, value: Any, target: str) -> None:
    assert refused(stages, "search", query="q", target=target, **{field: value}) == ("bad_field", field)
    assert refused(stages, "search", query="q", target="trees") == ("bad_field", "target")


def test_with_the_index_down_a_walk_finds_nodes(stages: FakeStages) -> None:
    stages.down.add("index")
    reply = ask(stages, "search", query="lemon cake", target="nodes")
    assert (reply["mode"], reply["degraded"]) == ("toc", ["text", "vector"])
    assert ids(reply, "hits") == [segments(stages)[1]]
    assert reply["hits"][0]["arms"] == ["toc"]
    assert ask(stages, "search", query="lemon", target="nodes", kind="procedure")["hits"] == []
    nothing = ask(stages, "search", query="zebra", target="nodes")
    assert (nothing["hits"], nothing["mode"], nothing["degraded"]) == ([], "toc", ["text", "vector"])
    both = ask(stages, "search", query="lemon cake", target="both", limit=2)
    assert both["mode"] == "toc"
    assert {hit.get("type", "event") for hit in both["hits"]} == {"event", "node"}


def test_with_the_record_down_too_nobody_says_that_there_are_no_nodes(stages: FakeStages) -> None:
    stages.down |= {"index", "persist"}
    assert refused(stages, "search", query="lemon", target="nodes") == ("unavailable", "")


def test_pages_of_a_walk_go_on(stages: FakeStages) -> None:
    stages.down.add("index")
    first = ask(stages, "search", query="the", target="nodes", mode="text", limit=1)
    assert first["hits"] == [], "a question without words finds nothing"
    first = ask(stages, "search", query="lemon garden", target="nodes", mode="text", limit=1)
    second = ask(stages, "search", query="lemon garden", target="nodes", mode="text", limit=1, cursor=first["cursor"])
    assert {*ids(first, "hits"), *ids(second, "hits")} == {segments(stages)[1], segments(stages)[3]}
    assert "cursor" not in second


def test_index_must_have_read_what_tells_of_what_was_said(stages: FakeStages) -> None:
    ask(stages, "search", query="lemon", target="nodes", after=2, wait_ms=100)
    assert asked(stages, "find")[0].rseq == 10, "not 2: the nodes came after"
    ask(stages, "search", query="lemon", after=2, wait_ms=100)
    assert asked(stages, "find")[1].rseq == 2


def test_events_name_their_segment(stages: FakeStages) -> None:
    own = segments(stages)[0]
    stages.segments = {1: own, 2: own}
    hits = ask(stages, "search", query="q", limit=3)["hits"]
    assert [hit.get("segment") for hit in hits] == [own, own, None]
    assert asked(stages, "segments_of")[0].rseqs == [1, 2, 3]


@pytest.mark.parametrize("trouble", ["down", "hangs"])
def test_without_summarize_search_goes_on(stages: FakeStages, trouble: str) -> None:
    stages.segments = {1: DAY}
    if trouble == "down":
        stages.down.add("summarize")
    else:
        stages.hangs.add("segments_of")
    reply = ask(stages, "search", query="q", limit=3)
    assert len(reply["hits"]) == 3
    assert (reply["degraded"], [hit for hit in reply["hits"] if "segment" in hit]) == ([], [])


def test_large_nodes_fill_a_page(stages: FakeStages) -> None:
    for id_ in stages.nodes_found:
        big = msgspec.structs.replace(stages.nodes_held[id_][0], summary="y" * 20_000, title="x" * 300)
        stages.nodes_held[id_] = [big]
    assert ids(ask(stages, "search", query="q", target="nodes"), "hits") == stages.nodes_found
