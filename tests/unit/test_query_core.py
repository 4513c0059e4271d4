"""What query decides without asking anyone."""

from typing import Any

import msgspec
import pytest

from jetmem import flow
from jetmem.query import core
from jetmem.query.core import Standing
from jetmem.query.highlights import HIGHLIGHTS_MAX, Marker, merged, stem
from jetmem.runtime import limits
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.errors import REQUEST_CODES, SchemaError
from jetmem_schemas.events import TS_MIN_MS, Event
from jetmem_schemas.internal import AppliedReply, CoverReply, Entry, Filters, Found, Head
from jetmem_schemas.requests import Item, Search, Timeline

encode = msgspec.msgpack.encode


def refusal(subject: str, payload: bytes) -> SchemaError | RequestFailed:
    """The refusal of one request, wherever it is raised."""
    with pytest.raises((SchemaError, RequestFailed)) as caught:
        tenant, verb, request = core.parse(subject, payload)
        if isinstance(request, Search | Timeline):
            core.filters_of(request)
            core.place_of(request.cursor, core.digest_of(tenant, verb, request))
    error = caught.value
    assert isinstance(error, SchemaError | RequestFailed)
    return error


SEARCH = "mem.acme.query.search"
BAD = [
    ("mem.acme.query.nope", b"{}", "unknown_verb", "verb"),
    ("mem.acme.query.", b"{}", "unknown_verb", "verb"),
    ("mem.acme.query.search.more", b"{}", "unknown_verb", "verb"),
    ("mem._.query.search", b"{}", "bad_subject", "tenant"),
    ("mem.a$b.query.search", b"{}", "bad_subject", "tenant"),
    ("mem." + "x" * 65 + ".query.search", b"{}", "bad_subject", "tenant"),
    (SEARCH, b"", "missing_field", "query"),
    (SEARCH, b"{}", "missing_field", "query"),
    (SEARCH, b"\xff{}", "bad_utf8", ""),
    (SEARCH, b"{", "bad_json", ""),
    (SEARCH, b"hello", "bad_json", ""),
    (SEARCH, b"[]", "bad_field", ""),
    (SEARCH, b"null", "bad_field", ""),
    (SEARCH, b"[" * 10_000, "too_deep", ""),
    (SEARCH, b'{"query":"a","x":' + b"[" * 40 + b"]" * 40 + b"}", "too_deep", ""),
    (SEARCH, b" " * 300_000, "too_large", ""),
    (SEARCH, b'{"query":""}', "bad_field", "query"),
    (SEARCH, b'{"query":" \\n\\t\\u3000"}', "bad_field", "query"),
    (SEARCH, b'{"query":"' + b"x" * 100_000 + b'"}', "bad_field", "query"),
    (SEARCH, b'{"query":7}', "bad_field", "query"),
    (SEARCH, b'{"query":"a","limit":1000000000}', "bad_field", "limit"),
    (SEARCH, b'{"query":"a","limit":0}', "bad_field", "limit"),
    (SEARCH, b'{"query":"a","limit":' + b"9" * 400 + b"}", "bad_field", "limit"),
    (SEARCH, b'{"query":"a","after":99999999999999999999}', "bad_field", "after"),
    (SEARCH, b'{"query":"a","wait_ms":3600000}', "bad_field", "wait_ms"),
    (SEARCH, b'{"query":"a","mode":"magic"}', "bad_field", "mode"),
    (SEARCH, b'{"query":"a","sesion":"s1"}', "bad_field", "sesion"),
    (SEARCH, b'{"query":"a","agent":"a b"}', "bad_field", "agent"),
    (SEARCH, b'{"query":"a","session":"a.b"}', "bad_field", "session"),
    (SEARCH, b'{"query":"a","author":""}', "bad_field", "author"),
    (SEARCH, b'{"query":"a","kind":"Not A Kind"}', "bad_field", "kind"),
    (SEARCH, b'{"query":"a","role":["user","usr"]}', "bad_field", "role"),
    (SEARCH, b'{"query":"a","tags":"x"}', "bad_field", "tags"),
    (SEARCH, b'{"query":"a","tags":[""]}', "bad_field", "tags"),
    (SEARCH, b'{"query":"a","since":"yesterday"}', "bad_time", "since"),
    (SEARCH, b'{"query":"a","since":"0000-01-01T00:00:00Z"}', "bad_time", "since"),
    (SEARCH, b'{"query":"a","until":"2026-01-01T00:61:00"}', "bad_time", "until"),
    (SEARCH, b'{"query":"a","until":1e300}', "bad_time", "until"),
    (SEARCH, b'{"query":"a","since":-62135596800001}', "bad_time", "since"),
    (SEARCH, b'{"query":"a","since":5,"until":5}', "bad_field", "since"),
    (SEARCH, b'{"query":"a","cursor":"zz"}', "bad_cursor", "cursor"),
    (SEARCH, b'{"query":"a","cursor":"!?"}', "bad_cursor", "cursor"),
    (SEARCH, b'{"query":"a","cursor":"\\u00e9"}', "bad_cursor", "cursor"),
    (SEARCH, b'{"query":"a","cursor":""}', "bad_cursor", "cursor"),
    (SEARCH, b'{"query":"a","cursor":"' + b"A" * 600 + b'"}', "bad_field", "cursor"),
    ("mem.acme.query.timeline", b'{"order":"up"}', "bad_field", "order"),
    ("mem.acme.query.get", b'{"ids":[]}', "bad_field", "ids"),
    ("mem.acme.query.get", b'{"ids":["a b"]}', "bad_field", "ids[0]"),
    ("mem.acme.query.expand", b"{}", "missing_field", "id"),
    ("mem.acme.query.expand", b'{"id":"a","grip":"b"}', "bad_field", "grip"),
    ("mem.acme.query.toc", b'{"version":1}', "bad_field", "version"),
    ("mem.acme.query.toc", b'{"node":"toc:year:2026","version":0}', "bad_field", "version"),
    ("mem.acme.query.browse", b"{}", "missing_field", "node"),
    ("mem.acme.query.route", b'{"query":" "}', "bad_field", "query"),
    ("mem.acme.query.route", b'{"query":"a","budget":{"nodes":0}}', "bad_field", "budget.nodes"),
    ("mem.acme.query.route", b'{"query":"a","budget":{"tokens":1}}', "bad_field", "tokens"),
    ("mem.acme.query.route", b'{"query":"a","now":"today"}', "bad_time", "now"),
    ("mem.acme.query.status", b'{"tenant":"other"}', "bad_field", "tenant"),
]


@pytest.mark.parametrize(("subject", "payload", "code", "field"), BAD)
def test_bad_requests_are_refused_with_code_and_field(subject: str, payload: bytes, code: str, field: str) -> None:
    error = refusal(subject, payload)
    assert (error.code, error.field) == (code, field)
    assert code in REQUEST_CODES


def test_an_empty_payload_is_an_empty_request() -> None:
    tenant, verb, request = core.parse("mem.acme.query.timeline", b"")
    assert (tenant, verb, request) == ("acme", "timeline", Timeline())


def test_filters_are_taken_over_and_times_become_ms() -> None:
    search = Search(
        query="q",
        agent="a",
        session="s",
        author="Ann",
        kind="note",
        role=["user", "tool"],
        tags=["x"],
        since=5.5,
        until=9,
    )
    assert core.filters_of(search) == Filters("a", "s", "Ann", ["note"], ["user", "tool"], ["x"], 5, 9)
    _, _, dated = core.parse(SEARCH, b'{"query":"a","since":"2026-01-15T10:00:00+01:00"}')
    assert isinstance(dated, Search)
    assert core.filters_of(dated).since == 1_768_467_600_000


def test_errors_fit_a_header_line() -> None:
    error = core.one_line(SchemaError("bad_field", "unknown 'a\r\nb: ü'" + "x" * 999, "a\nb" + "y" * 999))
    assert error.message.startswith("unknown 'a  b: \\xfc'")
    assert len(error.message) == 300
    assert len(error.field) == 100
    assert (error.message + error.field).isprintable()


def test_metric_labels_come_from_a_fixed_set() -> None:
    subjects = ("mem.t.query.search", "mem.t.query.x", "mem.t.query.x.search")
    assert [core.verb_label(s) for s in subjects] == ["search", "unknown", "unknown"]


def test_a_cursor_leads_on_in_its_own_question_only() -> None:
    digest = core.digest_of("acme", "search", Search(query="q", limit=5, after=3, wait_ms=9))
    cursor = core.cursor_to(digest, 40)
    same = core.digest_of("acme", "search", Search(query="q", limit=7, cursor=cursor))
    assert core.place_of(cursor, same).at == 40
    for other in (
        core.digest_of("acme", "search", Search(query="q2")),
        core.digest_of("acme", "search", Search(query="q", agent="a")),
        core.digest_of("other", "search", Search(query="q")),
        core.digest_of("acme", "timeline", Timeline()),
    ):
        with pytest.raises(RequestFailed) as caught:
            core.place_of(cursor, other)
        assert caught.value.code == "bad_cursor"


@pytest.mark.parametrize("at", [-1, 10**9])
def test_a_forged_place_is_refused(at: int) -> None:
    digest = b"12345678"
    with pytest.raises(RequestFailed, match="not one that this verb gave out"):
        core.place_of(core.cursor_to(digest, at), digest)


def test_pages_of_one_question_are_cut_from_the_same_window() -> None:
    assert core.find_limit(0, 10) == core.find_limit(80, 10) == 100
    assert core.find_limit(90, 10) == 200
    assert core.find_limit(0, 1000) > 1000


def test_standing_lifts_arms_to_after_unless_late() -> None:
    standing = Standing(9)
    standing.covered(CoverReply(True, 5, Head(5, 7), 9))
    standing.arm_at("text", 7, late=False)
    standing.arm_at("vector", 4, late=True)
    standing.late(["vector"])
    assert standing.common(1.0) == {
        "fresh": {"record": 9, "text": 9, "vector": 4},
        "degraded": ["vector"],
        "stale": True,
        "took_ms": 1.0,
        "timezone": "UTC",
    }


def test_standing_claims_nothing_that_the_record_has_not_reached() -> None:
    standing = Standing(50)
    standing.covered(CoverReply(False, 0, Head(5, 7), 9))
    standing.arm_at("text", 7, late=False)
    assert standing.fresh == {"record": 9, "text": 7}
    assert standing.stale
    assert standing.degraded == ["record"]


def test_arms_are_listed_in_the_order_of_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*arms: str) -> Any:
        standing = Standing(0)
        standing.without(arms)
        return standing.common(0)["degraded"]

    assert listed("vector", "text", "record") == ["record", "text", "vector"]
    assert flow.arms() == ["record", "text", "vector", "toc", "procedures", "tasks"]
    guess = msgspec.structs.replace(flow.stage("index"), name="guess", arms=("guesses", "graph"))
    monkeypatch.setattr(flow, "STAGES", (*flow.STAGES, guess))
    assert listed("graph", "guesses", "procedures", "vector", "text", "record") == [
        "record", "text", "vector", "procedures", "guesses", "graph"
    ]  # fmt: skip
    assert listed("zz", "unheard", "text") == ["text", "unheard", "zz"], "a stage that is gone from the flow"


def test_an_arm_is_wholly_there_when_nothing_of_it_is_pending() -> None:
    reply = AppliedReply({"text": Head(9, 90), "vector": Head(7, 70), "toc": Head(9, 90)}, ["toc"])
    assert core.wholly_late(reply, 9) == ["vector", "toc"]
    assert core.wholly_late(reply, 7) == ["toc"]
    assert core.wholly_late(AppliedReply({}, []), 9) == []


def test_a_missing_arm_is_degraded_but_not_stale() -> None:
    standing = Standing(0)
    standing.without(["vector", "vector", "text"])
    assert standing.common(0)["degraded"] == ["text", "vector"]
    assert not standing.stale


@pytest.mark.parametrize(
    ("wanted", "missing", "left"),
    [
        ("hybrid", [], "hybrid"),
        ("hybrid", ["vector"], "text"),
        ("hybrid", ["text"], "vector"),
        ("hybrid", ["text", "vector"], "none"),
        ("text", ["vector"], "text"),
        ("vector", ["vector"], "none"),
    ],
)
def test_mode_is_what_is_left(wanted: str, missing: list[str], left: str) -> None:
    assert core.mode_of(wanted, missing) == left


def entry(text: str, ts: int = 1_700_000_000_000) -> bytes:
    body = msgspec.json.encode(Event(text=text, id="e1", tags=["t"], meta={"k": 1}, author="Ann"))
    return encode(Entry(1, 2, 1_700_000_000_500, "event", "acme", "alice", "s1", "e1", ts, body))


def test_a_hit_shows_the_record_and_explains_only_if_asked() -> None:
    found = Found("e1", 0.5, ["text"], {"turn": 2.0})
    hit = core.hit(found, entry("we moved"), [entry("a")], [], Marker("moving"), explain=True)
    assert (hit.text, hit.author, hit.tags, hit.meta, hit.score) == ("we moved", "Ann", ["t"], {"k": 1}, 0.5)
    assert (hit.ts, hit.at, hit.seq) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.500Z", 2)
    assert hit.highlights == [(3, 8)]
    assert hit.explain == {"turn": 2.0}
    assert [each.text for each in hit.before] == ["a"]
    assert core.hit(found, entry("x"), [], [], Marker("y"), explain=False).explain == {}


def test_a_time_below_year_one_is_shown_as_year_one() -> None:
    assert core.item(entry("x", TS_MIN_MS - 14 * 3_600_000)).ts == "0001-01-01T00:00:00.000Z"


def shown(text: str, id_: str = "e") -> Item:
    return Item(id=id_, agent="a", session="s", ts="", at="", seq=1, kind="message", text=text)


def test_replies_stop_at_their_bound_after_at_least_one() -> None:
    assert core.fitting([]) == 0
    assert core.fitting([shown("x" * 2_000_000), shown("y")]) == 1
    assert core.fitting([shown("x" * 400_000)] * 5) == 2
    assert core.fitting([shown("x")] * 1000) == 1000


def test_expand_keeps_the_nearest_neighbours_that_fit_twice() -> None:
    before, after = [shown("b" * 100_000, f"b{i}") for i in range(5)], [shown("a", "a0")]
    kept_before, kept_after = core.around(shown("x"), before, after)
    assert [each.id for each in kept_before] == ["b1", "b2", "b3", "b4"]
    assert [each.id for each in kept_after] == ["a0"]
    size = 2 * sum(len(msgspec.json.encode(each)) for each in [*kept_before, *kept_after])
    assert size < limits.REPLY_BYTES_MAX


@pytest.mark.parametrize(
    ("question", "text", "marked"),
    [
        ("Where did they move?", "They moved; moving is hard. Remove it", ["moved", "moving"]),
        ("PIZZA", "pizzas, Pizza. pizzeria", ["pizzas", "Pizza"]),
        ("running studies", "he runs to study and ran", ["runs", "study"]),
        ("who is who", "who are they", ["who"]),
        ("Zürich café", "zürich and CAFÉ", ["zürich", "CAFÉ"]),
        ("a.*b (", "a.*b", ["b"]),
        ("???", "???", []),
        ("hello", "", []),
    ],
)
def test_highlights_mark_words_of_the_question(question: str, text: str, marked: list[str]) -> None:
    assert [text[start:end] for start, end in Marker(question).ranges(text)] == marked


def test_highlights_are_bounded_and_merged() -> None:
    ranges = Marker("x1 " * 4000).ranges("x1 " * 500)
    assert len(ranges) == HIGHLIGHTS_MAX
    assert merged([(0, 3), (2, 5), (5, 6), (8, 9)]) == [(0, 6), (8, 9)]


def test_stems_join_forms_of_a_word_and_leave_short_ones() -> None:
    for one, other in [
        ("moving", "moved"),
        ("studies", "study"),
        ("boxes", "box"),
        ("called", "call"),
        ("likes", "like"),
    ]:
        assert stem(one) == stem(other)
    assert stem("bus") == "bus"
    assert stem("is") == "is"
