"""The project's own sample holds what its readers rely on: shape, order, evidence."""

import json
import re
from collections import Counter
from datetime import datetime, timedelta
from importlib import resources

import pytest

from jetmem_schemas.events import decode

TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
EVENT_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
KINDS = {"message", "note", "tool_call", "tool_result", "session_start", "session_end"}
KINDS_WITH_TEXT = {"message", "note", "tool_result"}
ROLES = {"user", "assistant", "tool"}
LONG_TEXT_BYTES_MIN = 5_000  # far beyond one window of the encoder, so that it must be cut


def read_lines(name):
    """Read one JSONL file of the sample; a blank or broken line fails."""
    text = resources.files("jetmem.sample").joinpath(name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


@pytest.fixture(scope="module")
def lines():
    return read_lines("events.jsonl")


@pytest.fixture(scope="module")
def events(lines):
    return [line["event"] for line in lines]


@pytest.fixture(scope="module")
def by_id(events):
    return {event["id"]: event for event in events}


@pytest.fixture(scope="module")
def questions():
    return read_lines("questions.jsonl")


@pytest.fixture(scope="module")
def runs():
    return read_lines("runs.jsonl")


def test_size_is_that_of_a_short_read(lines):
    assert 300 <= len(lines) <= 400
    assert 18 <= len({line["session"] for line in lines}) <= 24
    assert 2 <= len({line["agent"] for line in lines}) <= 3


def test_lines_have_exactly_the_envelope_and_valid_tokens(lines):
    for line in lines:
        assert set(line) == {"tenant", "agent", "session", "event"}
        assert line["tenant"] == "demo"
        assert TOKEN.fullmatch(line["agent"]), line["agent"]
        assert TOKEN.fullmatch(line["session"]), line["session"]
        assert "_" not in (line["agent"], line["session"])


def test_a_session_belongs_to_one_agent(lines):
    pairs = {(line["agent"], line["session"]) for line in lines}
    assert len(pairs) == len({session for _, session in pairs})


def test_ids_are_valid_and_unique(events, by_id):
    assert all(EVENT_ID.fullmatch(event["id"]) for event in events)
    assert len(by_id) == len(events)


def test_times_are_rfc3339_utc_and_ordered_within_a_session(lines):
    last = {}
    for line in lines:
        ts = line["event"]["ts"]
        assert RFC3339_UTC.fullmatch(ts), ts
        moment = datetime.fromisoformat(ts)
        assert moment.utcoffset() == timedelta(0)
        assert last.get(line["session"], moment) <= moment, line["event"]["id"]
        last[line["session"]] = moment


def test_times_span_about_six_weeks_of_autumn_2026(events):
    moments = sorted(datetime.fromisoformat(event["ts"]) for event in events)
    assert moments[0].date().isoformat() >= "2026-09-01"
    assert moments[-1].date().isoformat() <= "2026-10-31"
    assert timedelta(weeks=5) <= moments[-1] - moments[0] <= timedelta(weeks=7)


def test_kinds_and_roles_are_known_and_all_used(events):
    assert {event["kind"] for event in events} == KINDS
    assert {event["role"] for event in events} == ROLES


def test_text_is_there_where_it_is_required(events):
    for event in events:
        text = event.get("text", "" if event["kind"] in KINDS_WITH_TEXT else "not required")
        assert isinstance(text, str) and text.strip(), event["id"]


def test_optional_fields_have_their_types(events):
    for event in events:
        assert isinstance(event["author"], str) and event["author"]
        assert all(isinstance(tag, str) and tag for tag in event.get("tags", []))
        assert 0 <= event.get("importance", 0) <= 1
        for key, value in event.get("meta", {}).items():
            assert isinstance(key, str)
            assert isinstance(value, str | int | float | bool), event["id"]


def test_corrections_name_an_earlier_event(events, by_id):
    corrections = [event for event in events if "supersedes" in event]
    assert corrections
    for event in corrections:
        corrected = by_id[event["supersedes"]]
        assert datetime.fromisoformat(corrected["ts"]) < datetime.fromisoformat(event["ts"])


def test_one_long_tool_result_hides_its_decisive_line(events):
    results = [event["text"] for event in events if event["kind"] == "tool_result"]
    long = [text for text in results if len(text.encode()) >= LONG_TEXT_BYTES_MIN]
    assert len(long) == 1
    assert 0.4 < long[0].index('"Atlantic/Faroe" is not in the image') / len(long[0]) < 0.8


def test_questions_have_evidence_that_exists(questions, by_id):
    assert len(questions) >= 12
    for line in questions:
        assert set(line) == {"question", "evidence", "note"}
        assert line["question"].strip() and line["note"].strip()
        assert line["evidence"] and len(set(line["evidence"])) == len(line["evidence"])
        assert set(line["evidence"]) <= set(by_id), line["question"]


def test_questions_are_asked_once(questions):
    assert len({line["question"] for line in questions}) == len(questions)


def test_evidence_is_never_a_superseded_event(questions, events):
    superseded = {event["supersedes"] for event in events if "supersedes" in event}
    for line in questions:
        assert not superseded & set(line["evidence"]), line["question"]


def test_runs_are_of_the_same_team_and_name_procedures_that_differ(lines, runs):
    assert 100 <= len(runs) <= 150
    assert {line["agent"] for line in runs} == {line["agent"] for line in lines}
    assert len({line["run"]["id"] for line in runs}) == len(runs)
    tried = Counter()
    for line in runs:
        assert set(line) == {"tenant", "agent", "session", "run"} and line["tenant"] == "demo"
        run = decode("run", json.dumps(line["run"]).encode())
        assert run.success == (not run.failure) == run.steps[-1].ok
        tried[run.procedure, run.success] += 1
    procedures = {name for name, _ in tried}
    assert "" not in procedures and len(procedures) == 7
    assert tried["plan-then-code", True] > tried["plan-then-code", False]
    assert tried["guess", True] < tried["guess", False]
