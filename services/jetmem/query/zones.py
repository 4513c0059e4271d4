"""The time zones that questions are understood in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from jetmem.adapters.tenant_settings import TenantWatch
from jetmem.query.ports import Zones

_NONE: Final = timedelta()


class WatchedZones:
    """`ports.Zones` over the settings of tenants."""

    def __init__(self, watch: TenantWatch, default: tzinfo) -> None:
        self.default = default
        self._watch = watch

    def own(self, tenant: str) -> tzinfo | None:
        """As the bucket has it."""
        return self._watch.zone(tenant)


class FixedZones(NamedTuple):
    """`ports.Zones` where no tenant has its own."""

    default: tzinfo = UTC

    def own(self, tenant: str) -> tzinfo | None:
        """None."""
        return None


def here(zones: Zones, tenant: str, now: datetime) -> datetime:
    """The same moment where the tenant is: in its own zone; else in that of `now`, if it tells; else in the default.

    An offset of zero is how programs write times, and says nothing of where anybody is. At the ends of the calendar,
    where a zone would leave it, `now` stays as it is.
    """
    own = zones.own(tenant)
    if own is None and now.utcoffset() not in (None, _NONE):
        return now
    try:
        return now.astimezone(own or zones.default)
    except OverflowError:
        return now
