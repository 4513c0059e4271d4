"""When rollups are made if they wait for a schedule: cron in the tenant's own time zone, each tenant a bit later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from hashlib import blake2b
from typing import Final

from cronsim import CronSim, CronSimError

_HASH_BITS: Final = 64
_FIELDS: Final = 5


def checked(schedule: str) -> str:
    """The schedule, if it is one.

    Raises:
        ValueError: It is none, or no day of it ever comes.
    """
    text = (
        f"it must be five cron fields, minute, hour, day, month and weekday, like */15 * * * *; not {schedule[:80]!r}"
    )
    if len(schedule.split()) != _FIELDS:  # the library takes a sixth for seconds
        raise ValueError(text)
    try:
        next(CronSim(schedule, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(f"{text} ({error})") from error
    return schedule


class Timetable:
    """Firings of a schedule, in epoch ms. Without a schedule there are none, and nothing waits."""

    def __init__(self, schedule: str, jitter_s: float, zone: Callable[[str], tzinfo]) -> None:
        """`zone` says whose days a tenant's days are."""
        self._schedule = schedule
        self._jitter_ms = jitter_s * 1000
        self._zone = zone

    def __bool__(self) -> bool:
        return bool(self._schedule)

    def after(self, tenant: str, now_ms: int) -> int:
        """The tenant's first firing after a time.

        An hour that the clocks skip fires at its end, one that they repeat fires once if the schedule names the hour.
        """
        later_ms = self._later_ms(tenant)
        local = datetime.fromtimestamp((now_ms - later_ms) / 1000, self._zone(tenant))
        return int(next(CronSim(self._schedule, local)).timestamp() * 1000) + later_ms

    def _later_ms(self, tenant: str) -> int:
        """The tenant's own part of the jitter, the same whenever and wherever it is asked."""
        drawn = int.from_bytes(blake2b(tenant.encode(), digest_size=_HASH_BITS // 8).digest())
        return int(self._jitter_ms * drawn / 2**_HASH_BITS)
