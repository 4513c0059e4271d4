"""Whose clock the times of questions and answers are on."""

from datetime import UTC, tzinfo
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest

from harness.fake_stages import FakeStages
from harness.planted import TALKS, ask, plant
from jetmem_schemas.events import Forget, epoch_ms, rfc3339

AMSTERDAM = ZoneInfo("Europe/Amsterdam")


class Own(NamedTuple):
    """`ports.Zones` of one installation."""

    of: dict[str, tzinfo]
    default: tzinfo = UTC

    def own(self, tenant: str) -> tzinfo | None:
        return self.of.get(tenant)


ZONES = Own({"acme": AMSTERDAM, "nile": ZoneInfo("Africa/Cairo")}, ZoneInfo("Asia/Tokyo"))


@pytest.fixture
def stages() -> FakeStages:
    found = FakeStages()
    plant(found, "acme", TALKS)
    return found


def asked(stages: FakeStages, verb: str) -> list[Any]:
    return [request for name, request in stages.calls if name == verb]


@pytest.mark.parametrize(
    ("tenant", "given", "taken"),
    [
        ("acme", "2026-01-15T00:00:00", "2026-01-14T23:00:00.000Z"),
        ("acme", "2026-07-15T00:00:00", "2026-07-14T22:00:00.000Z"),
        ("acme", "2026-03-29T02:30:00", "2026-03-29T01:30:00.000Z"),  # skipped there
        ("acme", "2026-10-25T02:30:00", "2026-10-25T00:30:00.000Z"),  # twice there: the first
        ("nile", "2026-04-24T00:00:00", "2026-04-23T22:00:00.000Z"),  # a day that begins at one
        ("other", "2026-01-15T00:00:00", "2026-01-14T15:00:00.000Z"),
        ("acme", "2026-01-15T00:00:00Z", "2026-01-15T00:00:00.000Z"),
        ("acme", "2026-01-15T00:00:00+09:00", "2026-01-14T15:00:00.000Z"),
        ("acme", 1768435200000, "2026-01-15T00:00:00.000Z"),
    ],
)
def test_a_time_without_an_offset_is_on_the_clock_of_the_tenant(
    stages: FakeStages, tenant: str, given: Any, taken: str
) -> None:
    for field in ("since", "until"):
        ask(stages, "timeline", tenant, zones=ZONES, **{field: given})
        assert rfc3339(getattr(asked(stages, "timeline")[-1], field)) == taken
    ask(stages, "forget", tenant, zones=ZONES, before=given)
    before = msgspec.json.decode(stages.published[-1][1], type=Forget).before
    assert before is not None and rfc3339(epoch_ms(before)) == taken


@pytest.mark.parametrize("verb", ["timeline", "sessions", "agents", "toc", "status"])
def test_every_answer_names_the_zone(stages: FakeStages, verb: str) -> None:
    assert ask(stages, verb, zones=ZONES)["timezone"] == "Europe/Amsterdam"
    assert ask(stages, verb, "other", zones=ZONES)["timezone"] == "Asia/Tokyo"
    assert ask(stages, verb)["timezone"] == "UTC"


def test_so_does_that_of_a_forget(stages: FakeStages) -> None:
    reply = ask(stages, "forget", zones=ZONES, all=True)
    assert reply["timezone"] == "Europe/Amsterdam"


@pytest.mark.parametrize(
    ("tenant", "now", "since", "timezone"),
    [
        ("acme", "2026-01-15T00:30:00+09:00", "2026-01-12T23:00:00.000Z", "Europe/Amsterdam"),
        ("acme", "2026-01-15T00:30:00", "2026-01-13T23:00:00.000Z", "Europe/Amsterdam"),
        ("other", "2026-01-15T00:30:00+02:00", "2026-01-13T22:00:00.000Z", "UTC+02:00"),
        ("other", "2026-01-15T00:30:00Z", "2026-01-13T15:00:00.000Z", "Asia/Tokyo"),
        ("other", "2026-01-15T00:30:00", "2026-01-13T15:00:00.000Z", "Asia/Tokyo"),
    ],
)
def test_a_route_names_the_zone_that_it_understood_its_words_in(
    stages: FakeStages, tenant: str, now: str, since: str, timezone: str
) -> None:
    reply = ask(stages, "route", tenant, zones=ZONES, query="what happened yesterday?", now=now)
    assert (reply["since"], reply["timezone"]) == (since, timezone)


def test_times_at_the_ends_of_the_calendar_are_refused_or_answered_and_never_fatal(stages: FakeStages) -> None:
    for given in ("0001-01-01T00:00:00", "9999-12-31T23:59:59"):
        for tenant in ("acme", "other"):
            try:
                ask(stages, "timeline", tenant, zones=ZONES, since=given)
                ask(stages, "route", tenant, zones=ZONES, query="yesterday?", now=given)
            except Exception as error:  # noqa: BLE001 (which kind is what is asserted)
                assert getattr(error, "code", "") == "bad_time"
