"""`route`: what questions are taken for, how they are answered, and what is said of it."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from harness.fake_stages import FakeStages
from harness.planted import TALKS, ask, ids, plant, refused, segments
from jetmem.query.explaining import time_said
from jetmem.query.intents import intended
from jetmem.query.times import Span

NOW = "2026-01-12T12:00:00Z"


@pytest.fixture
def stages() -> FakeStages:
    found = FakeStages()
    plant(found, "acme", TALKS)
    return found


def route(stages: FakeStages, query: str, **more: Any) -> dict[str, Any]:
    return ask(stages, "route", query=query, now=NOW, **more)


def tried(reply: dict[str, Any]) -> list[tuple[str, int]]:
    return [(each["strategy"], each["found"]) for each in reply["tried"]]


@pytest.mark.parametrize(
    ("question", "intent", "explores"),
    [
        ("what did we talk about?", "explore", True),
        ("what were we discussing about pizza?", "explore", True),
        ("what happened?", "explore", True),
        ("what's new?", "explore", True),
        ("summarize the trip", "explore", True),
        ("tell me about the deploy", "explore", True),
        ("what did we talk about last week?", "time-boxed", True),
        ("yesterday?", "time-boxed", True),
        ("what did Ann say about tea in March", "time-boxed", False),
        ("when did Ann go to Paris", "locate", False),
        ("where is the key", "locate", False),
        ("which exactly", "locate", False),
        ('tell me about "the build"', "locate", False),
        ("what is Ann's job", "answer", False),
        ("what happened to the car", "answer", False),
        ("what did Ann do with the piano", "answer", False),
        ("why did the deploy fail?", "answer", False),
    ],
)
def test_a_question_is_taken_for_what_its_words_say(question: str, intent: str, explores: bool) -> None:
    meant = intended(question, datetime(2026, 1, 15, tzinfo=UTC))
    assert (meant.intent, meant.explores) == (intent, explores)


def test_an_overview_of_a_time_is_the_fewest_nodes_that_cover_it(stages: FakeStages) -> None:
    reply = route(stages, "what did we talk about last week?")
    assert (reply["intent"], reply["strategy"], reply["hits"]) == ("time-boxed", "toc", [])
    assert (reply["since"], reply["until"]) == ("2026-01-05T00:00:00.000Z", "2026-01-12T00:00:00.000Z")
    assert ids(reply) == ["toc:week:2026-W02"]
    assert reply["explanation"] == (
        "Understood as a question about a time, “last week” (2026-01-05 to 2026-01-11); "
        "answered from the table of contents."
    )
    assert ids(route(stages, "what happened on 6 January?")) == ["toc:day:2026-01-06"]
    assert ids(route(stages, "what happened since 6 January?")) == ["toc:day:2026-01-06", "toc:month:2026-02"]
    own = segments(stages)
    assert ids(ask(stages, "route", query="what happened this morning?", now="2026-01-06T12:00:00Z")) == own[2:3]
    assert ids(route(stages, "what happened in February 2026?")) == ["toc:month:2026-02"]
    assert ids(route(stages, "what happened in 2026?")) == ["toc:week:2026-W02", "toc:month:2026-02"]
    assert not {"terms", "sources"} & set(reply["nodes"][0])


def test_an_overview_of_a_matter_is_a_walk_to_its_segments(stages: FakeStages) -> None:
    reply = route(stages, "what did we talk about concerning the build?", limit=1)
    assert (reply["intent"], reply["strategy"], ids(reply)) == ("explore", "toc", [segments(stages)[2]])
    assert reply["nodes"][0]["score"] > 0
    assert "enough segments were opened" in reply["tried"][0]["why"]
    assert ids(route(stages, "tell me about the build")) == [segments(stages)[2]]
    assert tried(route(stages, "tell me about zebras")) == [("toc", 0), ("hybrid", 10)]
    assert ids(route(stages, "what did we talk about last week about lemon cake?", limit=1)) == [segments(stages)[1]]
    assert "since" not in reply


def test_an_overview_of_a_matter_at_a_time_without_it_is_a_walk_at_any_time(stages: FakeStages) -> None:
    reply = route(stages, "tell me about the build in March 2019")
    assert (reply["strategy"], ids(reply)) == ("toc", [segments(stages)[2]])
    assert [(each["found"], each["why"].rpartition(", ")[2]) for each in reply["tried"]] == [
        (0, "within the time"),
        (1, "at any time"),
    ]
    stages.ranking = []
    reply = route(stages, "what happened in March 2019?")
    assert tried(reply) == [("toc", 0), ("hybrid", 0)]
    assert (reply["strategy"], reply["nodes"], reply["hits"]) == ("none", [], []), "a time alone is asked for"
    assert not reply["widened"]
    assert route(stages, "tell me about the build in March 2019")["widened"]
    assert ids(route(stages, "what happened on the morning of 6 January?")) == [segments(stages)[2]]
    assert tried(route(stages, "what happened in the evening of 6 January?")) == [("toc", 0), ("hybrid", 0)]


def test_an_overview_of_nothing_named_is_the_latest(stages: FakeStages) -> None:
    assert ids(route(stages, "what have we been talking about lately?", limit=2)) == segments(stages)[:1:-1]


def test_an_answer_comes_from_the_index(stages: FakeStages) -> None:
    reply = route(stages, "why is the build broken?", limit=2)
    assert (reply["intent"], reply["strategy"], tried(reply)) == ("answer", "hybrid", [("hybrid", 2)])
    assert reply["nodes"] == []
    assert reply["explanation"] == "Understood as a question; answered by words and meaning."
    assert "cut" not in reply
    assert route(stages, 'who said "ship it"')["strategy"] == "text"


def test_a_question_in_a_time_is_searched_there_then_anywhere(stages: FakeStages) -> None:
    reply = route(stages, "why was the build broken on 6 January?")
    asked = [request for verb, request in stages.calls if verb == "find"]
    assert (asked[0].filters.since, asked[0].query) == (1767657600000, "why was the build broken ?")
    assert tried(reply) == [("hybrid", 10)]
    stages.ranking = []
    reply = route(stages, "why was the build broken on 6 January?")
    assert (reply["strategy"], tried(reply)) == ("none", [("hybrid", 0), ("hybrid", 0)])
    assert [each["why"] for each in reply["tried"]] == ["nothing found, within the time", "nothing found, at any time"]
    assert reply["explanation"].endswith("“on 6 January” (2026-01-06); nothing was found.")


def test_what_falls_back_is_said(stages: FakeStages) -> None:
    stages.down.add("index")
    reply = route(stages, "why is the build broken?", limit=1)
    assert (reply["strategy"], reply["degraded"]) == ("toc", ["text", "vector"])
    assert reply["tried"][-1]["why"] == "hybrid did not answer, a walk down the table of contents did"
    assert "the index did not answer; answered from the table of contents" in reply["explanation"]
    stages.nodes_held = {}
    assert route(stages, "why is the build broken?", limit=1)["strategy"] == "recent"
    stages.down.clear()
    reply = route(stages, "what's new?")
    assert tried(reply) == [("toc", 0), ("hybrid", 10)]
    assert reply["tried"][0]["why"] == "the table of contents is empty"
    assert "the table of contents has nothing of it; answered by words and meaning" in reply["explanation"]
    stages.hangs.add("nodes")
    assert "does not answer: timeout" in route(stages, "what's new?")["tried"][0]["why"]


def test_a_walk_stops_where_its_budget_does(stages: FakeStages) -> None:
    reply = route(stages, "tell me about the build", budget={"nodes": 3})
    assert "the budget of nodes was used up" in reply["tried"][0]["why"]
    assert len([each for verb, each in stages.calls if verb == "nodes"]) <= 3
    reply = route(stages, "what happened since 2020-01-01?", budget={"nodes": 1})
    assert ids(reply) == ["toc:year:2026"] and "cut" not in reply
    reply = route(stages, "what happened last week?", budget={"nodes": 1})
    assert (ids(reply), reply["cut"]) == (["toc:year:2026"], "nodes")
    assert "cut short, as the budget of nodes was used up" in reply["explanation"]
    reply = route(stages, "what happened in 2026?", limit=1)
    assert (ids(reply), reply["cut"]) == (["toc:week:2026-W02"], "limit")

    class Slow(FakeStages):
        def nodes(self, stage: str, tenant: str, request: Any) -> Any:
            self.clock.now += 0.2
            return super().nodes(stage, tenant, request)

    slow = Slow()
    plant(slow, "acme", TALKS)
    assert "the time was up" in route(slow, "tell me about the build", budget={"ms": 300})["tried"][0]["why"]


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        ("2026-01-05T00:00", "2026-01-12T00:00", "2026-01-05 to 2026-01-11"),
        ("2026-03-29T00:00", "2026-03-30T00:00", "2026-03-29"),  # of 23 hours
        ("2026-01-14T17:00", "2026-01-15T00:00", "2026-01-14 17:00 to 24:00"),
        ("2026-01-14T05:00", "2026-01-14T12:00", "2026-01-14 05:00 to 12:00"),
        ("2026-01-14T18:00", "2026-01-15T06:00", "2026-01-14 18:00 to 2026-01-15 06:00"),
        ("2026-01-14T00:00", None, "since 2026-01-14"),
        (None, "2026-01-14T17:00", "until 2026-01-14 17:00"),
    ],
)
def test_a_time_is_said_on_the_clock_of_the_tenant(since: str | None, until: str | None, said: str) -> None:
    zone = ZoneInfo("Europe/Amsterdam")
    ends = [
        None if end is None else int(datetime.fromisoformat(end).replace(tzinfo=zone).timestamp() * 1000)
        for end in (since, until)
    ]
    assert time_said(Span("", "", *ends), zone) == said


def test_now_is_the_services_clock_unless_told(stages: FakeStages) -> None:
    reply = ask(stages, "route", query="yesterday?")  # the fake clock stands in November 2023
    assert reply["since"] == "2023-11-13T00:00:00.000Z"
    assert ask(stages, "route", query="yesterday?", now=0)["since"] == "1969-12-31T00:00:00.000Z"
    assert refused(stages, "route", query="yesterday?", now=1e300) == ("bad_time", "now")


def test_read_your_writes_holds_for_a_route(stages: FakeStages) -> None:
    stages.late = ["toc"]
    reply = route(stages, "what's new?", after=10)
    assert (reply["stale"], reply["degraded"]) == (True, ["toc"])
    assert route(stages, "why?", after=99)["stale"]


def test_a_walk_comes_to_its_end_whatever_children_nodes_name(stages: FakeStages) -> None:
    for id_ in ("toc:year:2026", "toc:month:2026-01", "toc:day:2026-01-05"):
        node = stages.nodes_held[id_][0]
        children = [*node.children, id_, "toc:year:2026", "toc:day:1999-01-01", "no-node"]
        stages.nodes_held[id_] = [msgspec.structs.replace(node, children=children)]
    assert ids(route(stages, "tell me about lemon tea", limit=1)) == [segments(stages)[1]]
    assert ids(route(stages, "what happened last week?")) == ["toc:week:2026-W02"]
    assert len(ids(route(stages, "what's new?"))) == 4
