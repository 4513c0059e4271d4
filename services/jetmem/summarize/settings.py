"""Settings of summarize."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from jetmem.runtime.settings import Count, Seconds, Threads


class SummarizeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How summarize cuts sessions, and how often it makes nodes again.

    Attributes:
        lateness_days: An event that is further behind its session's newest is filed apart, in segments of late ones.
            A change counts for what comes afterwards.
        open_every_s: A segment that grows is made again this often, at most.
        rollup_every_s: … and a day, week, month or year.
        jitter: Both are longer by up to this share, so that not all are made at once.
        topics_every_s: Topics of a tenant are grouped again this often, at most, and if enough is new.
        timezone: Whose days a tenant's days are: an IANA name.
        timezones: Tenants with another one: `acme=Europe/Amsterdam,beta=Asia/Tokyo`.
        sessions_max: Sessions held in memory; others are loaded when something is said in them.
        read_threads: Questions answered at once.
    """

    lateness_days: Annotated[float, Meta(gt=0, le=36_500)] = 7.0
    open_every_s: Seconds = 10.0
    rollup_every_s: Seconds = 5.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    topics_every_s: Seconds = 60.0
    timezone: str = "UTC"
    timezones: str = ""
    sessions_max: Count = 4_096
    read_threads: Threads = 1

    def __post_init__(self) -> None:
        zones(self)


def zones(settings: SummarizeSettings) -> dict[str, ZoneInfo]:
    """The zone of each tenant that has its own, and under "" that of all others.

    Raises:
        ValueError: There is no such zone, or the text is not `tenant=zone,tenant=zone`.
    """
    found = {"": _zone(settings.timezone)}
    for pair in filter(None, (part.strip() for part in settings.timezones.split(","))):
        tenant, equals, name = pair.partition("=")
        if not equals or not tenant.strip():
            raise ValueError(f"{pair!r} is not tenant=zone")
        found[tenant.strip()] = _zone(name.strip())
    return found


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone like Europe/Amsterdam") from error
