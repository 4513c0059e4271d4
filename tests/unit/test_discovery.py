"""NATS service discovery, as ADR-32 has it."""

import asyncio
import json
import re
from typing import Any

import jsonschema
import pytest

from harness.fake_stages import FakeClock
from jetmem.query.discovery import Discovery, Tally
from jetmem_schemas.requests import VERBS


def answer(discovery: Discovery, subject: str) -> dict[str, Any]:
    code, label, body, headers = asyncio.run(discovery.answer(subject, b""))
    assert (code, label, headers) == ("ok", "discovery", {})
    reply: dict[str, Any] = json.loads(body)
    return reply


def test_subjects_are_all_by_name_and_by_id() -> None:
    assert Discovery(Tally(), FakeClock(), "ID1").subjects() == [
        "$SRV.PING", "$SRV.PING.jetmem", "$SRV.PING.jetmem.ID1",
        "$SRV.INFO", "$SRV.INFO.jetmem", "$SRV.INFO.jetmem.ID1",
        "$SRV.STATS", "$SRV.STATS.jetmem", "$SRV.STATS.jetmem.ID1",
    ]  # fmt: skip


def test_two_replicas_have_two_ids() -> None:
    one, other = Discovery(Tally(), FakeClock()), Discovery(Tally(), FakeClock())
    assert one.id != other.id


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
@pytest.mark.parametrize("end", ["", ".jetmem", ".jetmem.ID1"])
def test_every_answer_says_who_and_what_type(verb: str, end: str) -> None:
    reply = answer(Discovery(Tally(), FakeClock(), "ID1"), f"$SRV.{verb}{end}")
    assert reply["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
    assert (reply["name"], reply["id"], reply["metadata"]) == ("jetmem", "ID1", {})
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", reply["version"])


def test_info_has_an_endpoint_for_each_verb_with_its_schemas() -> None:
    info = answer(Discovery(Tally(), FakeClock()), "$SRV.INFO")
    assert info["description"]
    by_name = {each["name"]: each for each in info["endpoints"]}
    assert set(by_name) == set(VERBS)
    assert by_name["search"]["subject"] == "mem.*.query.search"
    assert by_name["search"]["queue_group"] == "query"
    for each in by_name.values():
        assert all(isinstance(value, str) for value in each["metadata"].values())
        for name in ("request_schema", "reply_schema"):
            jsonschema.Draft202012Validator.check_schema(json.loads(each["metadata"][name]))
    schema = json.loads(by_name["search"]["metadata"]["request_schema"])
    jsonschema.validate({"query": "a"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"query": "a", "sesion": "s"}, schema)


def test_stats_count_by_endpoint() -> None:
    tally = Tally()
    tally.count("search", "ok", 0.002)
    tally.count("search", "bad_field", 0.004)
    tally.count("unknown", "unknown_verb", 0.001)
    stats = answer(Discovery(tally, FakeClock()), "$SRV.STATS.jetmem")
    assert stats["started"] == "2023-11-14T22:13:20.000Z"
    by_name = {each["name"]: each for each in stats["endpoints"]}
    assert set(by_name) == set(VERBS)
    assert by_name["search"] == {
        "name": "search", "subject": "mem.*.query.search", "queue_group": "query", "num_requests": 2, "num_errors": 1,
        "last_error": "bad_field", "processing_time": 6_000_000, "average_processing_time": 3_000_000,
    }  # fmt: skip
    assert by_name["get"]["num_requests"] == by_name["get"]["average_processing_time"] == 0
