"""When a schedule fires: in the tenant's own time, through both changes of the clocks, each tenant a bit later."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from jetmem.runtime.settings import SettingsError, load
from jetmem.summarize.settings import SummarizeSettings
from jetmem.summarize.timetable import Timetable

AMSTERDAM = ZoneInfo("Europe/Amsterdam")
MINUTE = 60_000


def ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def fired(schedule, since, count, *, zone=AMSTERDAM, jitter_s=0.0, tenant="acme"):
    table = Timetable(schedule, jitter_s, lambda _: zone)
    at, found = ms(since), []
    for _ in range(count):
        later = table.after(tenant, at)
        assert later > at
        at = later
        found.append(datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="minutes").removesuffix("+00:00"))
    return found


def test_a_night_in_the_tenants_own_time():
    assert fired("30 0 * * *", "2026-05-05T00:00:00+02:00", 2) == ["2026-05-04T22:30", "2026-05-05T22:30"]
    tokyo = ZoneInfo("Asia/Tokyo")
    assert fired("30 0 * * *", "2026-05-05T00:00:00+02:00", 1, zone=tokyo) == ["2026-05-05T15:30"]


def test_an_hour_that_is_skipped_fires_at_its_end_and_one_that_is_repeated_fires_once():
    assert fired("30 2 * * *", "2026-03-28T12:00:00+01:00", 2) == ["2026-03-29T01:00", "2026-03-30T00:30"]
    assert fired("30 2 * * *", "2026-10-24T12:00:00+02:00", 2) == ["2026-10-25T00:30", "2026-10-26T01:30"]


@pytest.mark.parametrize("since", ["2026-03-29T00:05:00+00:00", "2026-10-24T23:35:00+00:00"])
def test_a_quarter_of_an_hour_is_one_whatever_the_clocks_do(since):
    found = [datetime.fromisoformat(each) for each in fired("*/15 * * * *", since, 16)]
    assert {(b - a).seconds for a, b in zip(found, found[1:], strict=False)} == {900}


def test_sunday_is_0_as_everywhere():
    assert fired("0 0 * * 0", "2026-05-05T00:00:00+00:00", 1, zone=UTC) == ["2026-05-10T00:00"]


def test_each_tenant_has_its_own_part_of_the_jitter_and_keeps_it():
    exact = ms("2026-05-05T10:00:00+00:00")
    tables = [Timetable("0 * * * *", 600.0, lambda _: UTC) for _ in range(2)]
    firings = {name: tables[0].after(name, exact - 30 * MINUTE) for name in (f"t{n}" for n in range(200))}
    assert all(exact <= at < exact + 10 * MINUTE for at in firings.values())
    assert len(set(firings.values())) > 190
    for name, at in firings.items():
        assert tables[1].after(name, at - 1) == at
        assert tables[1].after(name, at) == at + 60 * MINUTE


def test_a_jitter_longer_than_the_period_leaves_no_firing_out():
    table = Timetable("*/5 * * * *", 3_600.0, lambda _: UTC)
    first = table.after("acme", 0)
    assert [table.after("acme", first + n * 5 * MINUTE) for n in range(3)] == [
        first + n * 5 * MINUTE for n in range(1, 4)
    ]


def test_without_a_schedule_nothing_waits():
    assert not Timetable("", 60.0, lambda _: UTC)
    assert Timetable("* * * * *", 60.0, lambda _: UTC)


@pytest.mark.parametrize("wrong", ["x", "* * * *", "*/5 * * * * *", "61 * * * *", "0 0 31 2 *", "@daily"])
def test_a_schedule_is_checked_where_settings_are(wrong):
    with pytest.raises(SettingsError, match="JETMEM_SUMMARIZE_ROLLUP_SCHEDULE is .*five cron fields"):
        load(
            {"": SummarizeSettings, "summarize": SummarizeSettings},
            environ={"JETMEM_SUMMARIZE_ROLLUP_SCHEDULE": wrong},
        )
