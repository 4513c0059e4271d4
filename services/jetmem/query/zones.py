"""The time zones that questions are understood in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple, TypeVar

import msgspec

from jetmem.adapters.tenant_settings import TenantWatch
from jetmem.query.ports import Zones
from jetmem_schemas.asking import Request
from jetmem_schemas.requests import Route

R = TypeVar("R", bound=Request)
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


def whose(zones: Zones, tenant: str, request: Request) -> tzinfo:
    """Where a question's times are that name no offset, and where its answer is read."""
    now = request.now if isinstance(request, Route) else None
    if isinstance(now, datetime) and now.tzinfo is not None:
        return here(zones, tenant, now).tzinfo or UTC
    return zones.own(tenant) or zones.default


def placed(request: R, zone: tzinfo) -> R:
    """The request with every time that names no offset on the clock of a zone.

    A time that this clock skips counts as if it had not: a day whose midnight is skipped begins at the leap. Of one
    that comes twice the first is meant.
    """
    times = {name: value for name in request.__struct_fields__ if isinstance(value := getattr(request, name), datetime)}
    local = {name: value.replace(tzinfo=zone) for name, value in times.items() if value.tzinfo is None}
    return msgspec.structs.replace(request, **local) if local else request


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
