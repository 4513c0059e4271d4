"""What can be set of a tenant: what is refused, and what of others' writing is kept."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import msgspec
import pytest

from jetmem.query.times import span_in
from jetmem.query.zones import FixedZones, here
from jetmem.runtime.settings import Common, SettingsError, load
from jetmem_schemas import subjects, tenants, toc
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.tenants import OFFERED, Retention, TenantSettings

AMSTERDAM = ZoneInfo("Europe/Amsterdam")


def test_pairs_become_changes():
    assert tenants.parsed(["timezone=Europe/Amsterdam"]) == {"timezone": "Europe/Amsterdam"}
    assert tenants.parsed(["timezone="]) == {"timezone": ""}
    assert tenants.parsed([]) == {}


def retained(*pairs, value=b""):
    return tenants.decode(tenants.changed(value, tenants.parsed(list(pairs)))).retention


def test_a_retention_is_the_offered_one_or_set_level_by_level():
    assert retained() == Retention() == retained("retention=off") == TenantSettings().retention
    assert retained("retention=offered") == OFFERED == Retention(segment=30, day=365, week=1826)
    assert [OFFERED.days(level) for level in toc.LEVELS] == [0, 0, 1826, 365, 30], "years and months never leave"
    assert retained("retention=offered", "retention.segment=10") == Retention(segment=10, day=365, week=1826)
    assert retained("retention.segment=10", "retention=offered") == OFFERED, "the later one holds"
    assert retained("retention=off", "retention.week=7", "retention=offered", "retention.day=") == Retention(
        segment=30, week=1826
    )


def test_a_level_is_changed_beside_what_others_and_newer_versions_set():
    held = b'{"retention":{"segment":3,"event":9},"timezone":"Asia/Tokyo"}'
    assert retained(value=held) == Retention(segment=3)
    made = tenants.changed(held, {"retention.day": 8, "retention.segment": 0})
    assert msgspec.json.decode(made) == {"retention": {"event": 9, "day": 8}, "timezone": "Asia/Tokyo"}
    assert tenants.changed(made, tenants.parsed(["retention=off"])) == b'{"timezone":"Asia/Tokyo"}'
    assert tenants.changed(b'{"retention":{"day":8}}', {"retention.day": 0}) == b"{}"


@pytest.mark.parametrize(
    ("pair", "told", "field"),
    [
        ("colour=red", "no setting 'colour'; there is timezone", "colour"),
        ("toc_paused=true", "no setting 'toc_paused'; there is timezone", "toc_paused"),
        ("timezone", "'timezone' is not timezone=value", "timezone"),
        ("timezone=Mars/Phobos", "timezone must be an IANA name like Europe/Amsterdam, not 'Mars/Phobos'", "timezone"),
        ("timezone=../etc/passwd", "not '../etc/passwd'", "timezone"),
        ("timezone=Europe", "not 'Europe'", "timezone"),
        ("retention=30", "retention must be offered or off, not '30'", "retention"),
        ("retention.segment=0", "a whole number of days, 1 to 36500, or empty for ever; not '0'", "retention.segment"),
        ("retention.day=1y", "retention.day must be a whole number of days", "retention.day"),
        ("retention.week=99999", "1 to 36500", "retention.week"),
        ("retention.month=30", "no setting 'retention.month'; there is timezone", "retention.month"),
    ],
)
def test_what_cannot_be_set_is_a_sentence(pair, told, field):
    with pytest.raises(SchemaError) as caught:
        tenants.parsed([pair])
    assert told in caught.value.message
    assert (caught.value.code, caught.value.field) == ("bad_field", field)


def test_a_change_leaves_what_a_newer_version_wrote():
    newer = b'{"colour":{"segment":"red"},"timezone":"Asia/Tokyo","x":[1,2]}'
    assert tenants.decode(newer) == TenantSettings(timezone="Asia/Tokyo")
    made = tenants.changed(newer, {"toc_paused": True})
    assert msgspec.json.decode(made) == {
        "colour": {"segment": "red"}, "timezone": "Asia/Tokyo", "x": [1, 2], "toc_paused": True
    }  # fmt: skip
    assert tenants.changed(made, {"toc_paused": False, "timezone": ""}) == b'{"colour":{"segment":"red"},"x":[1,2]}'
    assert tenants.changed(b"", {}) == b"{}"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"{", "bad_json"), (b"\xff", "bad_utf8"), (b'{"timezone":"\xff\xfe"}', "bad_utf8"),
        (b'{"x":' + b"[" * 4_000, "too_deep"), (b"[]", "bad_field"), (b'{"timezone":3}', "bad_field"),
        (b'{"timezone":"Mars"}', "bad_field"), (b'{"retention":{"day":-1}}', "bad_field"),
        (b'{"retention":30}', "bad_field"),
    ],
)  # fmt: skip
def test_what_others_wrote_wrongly_is_refused(value, code):
    with pytest.raises(SchemaError) as caught:
        tenants.decode(value)
    assert caught.value.code == code


def test_the_bucket_names_tenants():
    assert subjects.settings_tenant(subjects.tenant_settings("acme")) == "acme"
    assert subjects.settings_tenant(subjects.tenant_settings(tenants.EVERYONE)) == "_"
    assert subjects.settings_tenant("$KV.TENANTS.a.b") == ""


def test_the_default_zone_is_checked_where_settings_are():
    assert load({"": Common}, environ={"JETMEM_TIMEZONE": "Asia/Tokyo"})[""].timezone == "Asia/Tokyo"
    with pytest.raises(SettingsError, match="JETMEM_TIMEZONE is Mars/Phobos; .*IANA name like Europe/Amsterdam"):
        load({"": Common}, environ={"JETMEM_TIMEZONE": "Mars/Phobos"})


class Zones(FixedZones):
    """acme has its own."""

    def own(self, tenant):
        return AMSTERDAM if tenant == "acme" else None


def test_a_zone_that_was_known_once_keeps_nobody_from_starting():
    assert tenants.decode_known(b'{"timezone":"Mars/Olympus"}') == TenantSettings()
    assert tenants.decode_known(b'{"timezone":"Asia/Tokyo"}').timezone == "Asia/Tokyo"


def test_a_question_is_understood_where_the_tenant_is():
    noon = datetime(2026, 5, 5, 12, tzinfo=UTC)
    tokyo = noon.astimezone(timezone(timedelta(hours=9)))
    zones = Zones(default=ZoneInfo("America/New_York"))
    assert here(zones, "acme", tokyo).tzinfo is AMSTERDAM
    assert here(zones, "other", tokyo) is tokyo
    assert here(zones, "other", noon).tzinfo is zones.default
    assert here(FixedZones(), "other", noon) == noon


@pytest.mark.parametrize(
    ("zone", "now"),
    [
        ("America/New_York", datetime(1, 1, 1, tzinfo=UTC)),
        ("Pacific/Kiritimati", datetime(9999, 12, 31, 23, tzinfo=UTC)),
    ],
)
def test_at_the_ends_of_the_calendar_a_question_is_understood_as_it_is_asked(zone, now):
    assert here(Zones(default=ZoneInfo(zone)), "other", now) is now


@pytest.mark.parametrize(("now", "hours"), [("2026-03-30", 23), ("2026-10-26", 25), ("2026-05-05", 24)])
def test_yesterday_is_as_long_as_the_clocks_made_it(now, hours):
    asked = here(Zones(), "acme", datetime.fromisoformat(f"{now}T10:00:00+00:00"))
    span = span_in("what was said yesterday?", asked)
    assert span.until - span.since == hours * 3_600_000
    assert datetime.fromtimestamp(span.until / 1000, AMSTERDAM) == datetime.fromisoformat(now).replace(tzinfo=AMSTERDAM)
