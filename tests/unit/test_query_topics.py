"""`topics` and `topic` over fake stages, and how people see them."""

import io

import msgspec
import pytest
from typer.testing import CliRunner

from harness.fake_stages import FakeStages
from harness.planted import ask, ids, refused
from jetmem.cli import app
from jetmem.console import tables, topic_tables
from jetmem_schemas import requests, topics
from jetmem_schemas.internal import Head
from jetmem_schemas.topics import RelatedFacts, SegmentFacts, TopicFacts, TopicFound, TopicsFound

NAMES = [f"topic:{n:026d}" for n in range(3)]
DAY_1 = 1_767_607_200_000


class Topical(FakeStages):
    """summarize with three topics of two segments."""

    at = Head(3, 3)
    still = False

    def facts(self, n):
        return TopicFacts(NAMES[n], f"Title {n}", ["one", "two"], 3.0 - n, 2, 9, DAY_1, DAY_1 + 60_000, ["alice"])

    def topics(self, stage, tenant, request):
        names = NAMES if tenant == "acme" and request.agent in ("", "alice") else []
        start = names.index(request.last) + 1 if request.last else 0
        page = range(start, min(start + request.limit, len(names)))
        return TopicsFound([self.facts(n) for n in page], page.stop < len(names), self.at, self.still)

    def topic(self, stage, tenant, request):
        if request.id not in NAMES or tenant != "acme":
            return TopicFound(None, [], [], b"", self.at, self.still)
        segments = [
            SegmentFacts(f"toc:segment:2026-01-05:{n:026d}", f"Part {n}", DAY_1, DAY_1 + 1, 4, ["alice"], "s1", 0.5)
            for n in range(2)
        ]
        start = int(request.last or b"0")
        end = min(start + request.limit, 2)
        related = [RelatedFacts(NAMES[1], "Title 1", 0.5)]
        cursor = str(end).encode() if end < 2 else b""
        return TopicFound(
            self.facts(NAMES.index(request.id)), segments[start:end], related, cursor, self.at, self.still
        )


@pytest.fixture
def stages():
    found = Topical()
    for n in range(3):
        found.add("acme", f"e{n}", "hello")
    return found


def test_topics_come_by_importance_in_pages(stages):
    first = ask(stages, "topics", limit=2)
    assert ids(first, "topics") == NAMES[:2]
    assert (first["topics"][0]["first"], first["topics"][0]["importance"]) == ("2026-01-05T10:00:00.000Z", 3.0)
    assert (first["degraded"], first["fresh"]["topics"]) == ([], 3)
    second = ask(stages, "topics", limit=2, cursor=first["cursor"])
    assert ids(second, "topics") == NAMES[2:]
    assert "cursor" not in second
    assert refused(stages, "topics", cursor=first["cursor"], agent="alice") == ("bad_cursor", "cursor")
    assert ask(stages, "topics", agent="bob")["topics"] == []
    assert ask(stages, "topics", tenant="other")["topics"] == []
    assert refused(stages, "topics", since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z") == (
        "bad_field",
        "since",
    )


def test_a_topic_shows_its_segments_in_pages_and_its_relatives(stages):
    first = ask(stages, "topic", id=NAMES[0], limit=1)
    assert (first["topic"]["title"], len(first["segments"])) == ("Title 0", 1)
    assert first["related"] == [{"id": NAMES[1], "title": "Title 1", "strength": 0.5}]
    second = ask(stages, "topic", id=NAMES[0], limit=1, cursor=first["cursor"])
    assert second["segments"][0]["id"].endswith("1") and "cursor" not in second


def test_unknown_and_malformed_topics_are_refused(stages):
    assert refused(stages, "topic", id=f"topic:{9:026d}") == ("not_found", "id")
    for bad in ("topic:x", "toc:day:2026-01-05", NAMES[0] + "0"):
        assert refused(stages, "topic", id=bad) == ("bad_field", "id")
    assert refused(stages, "topic") == ("missing_field", "id")


def test_topics_that_are_late_or_stand_still_say_so(stages):
    stages.at = Head(1, 1)
    assert (ask(stages, "topics")["degraded"], ask(stages, "topics")["fresh"]["topics"]) == ([], 1)
    late = ask(stages, "topics", after=3)
    assert (late["degraded"], late["stale"]) == (["topics"], True)
    stages.still = True
    assert ask(stages, "topic", id=NAMES[0])["degraded"] == ["vector", "topics"]
    stages.at, stages.still = Head(3, 3), False
    assert (ask(stages, "topics", after=3)["degraded"], ask(stages, "topics", after=3)["stale"]) == ([], False)


def test_without_summarize_nobody_can_say(stages):
    stages.down.add("summarize")
    assert refused(stages, "topics")[0] == "unavailable"
    assert refused(stages, "topic", id=NAMES[0])[0] == "unavailable"


def shown(show, reply):
    console = tables.console()
    console.file, console.width = io.StringIO(), 160
    show(console, reply)
    return console.file.getvalue()


def test_people_see_titles_and_ids(stages):
    listed = msgspec.convert(ask(stages, "topics", limit=2), requests.TopicsReply)
    text = shown(topic_tables.show_topics, listed)
    assert all(part in text for part in ("Title 0", NAMES[1], "3.00", "2026-01-05", "--cursor"))
    one = msgspec.convert(ask(stages, "topic", id=NAMES[0]), requests.TopicReply)
    text = shown(topic_tables.show_topic, one)
    assert all(part in text for part in ("Title 0", "one, two", "Part 1", "toc:segment:2026-01-05", "~ 0.50  Title 1"))
    blank = msgspec.structs.replace(one.topic, title="", keywords=[])
    assert "being made again" in shown(topic_tables.show_topic, msgspec.structs.replace(one, topic=blank))
    assert "no topic fits" in shown(topic_tables.show_topics, msgspec.structs.replace(listed, topics=[]))


@pytest.mark.parametrize("arguments", [["topics", "acme", "--limit", "0"], ["topic", "acme", "x" * 70]])
def test_what_would_be_refused_is_not_asked(arguments):
    assert CliRunner().invoke(app, [*arguments, "--server", "nats://127.0.0.1:1"]).exit_code == 2


def test_ids_of_topics():
    assert topics.is_topic_id(NAMES[0]) and not topics.is_topic_id("topic:é" + "0" * 25)
