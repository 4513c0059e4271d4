"""Settings of summarize."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from jetmem.runtime.settings import Count, Seconds, Threads
from jetmem.summarize.timetable import checked


class SummarizeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How summarize cuts sessions, and how often it makes nodes again.

    Attributes:
        lateness_days: An event that is further behind its session's newest is filed apart, in segments of late ones.
            A change counts for what comes afterwards.
        open_every_s: A segment that grows is made again this often, at most.
        rollup_every_s: … and a day, week, month or year.
        jitter: Both are longer by up to this share, so that not all are made at once.
        rollup_schedule: When days that changed are made again, and what is above them: five cron fields in the tenant's
            time zone, like `*/15 * * * *` or `30 0 * * *`; empty for as they change. Segments are made as they change.
        rollup_jitter_s: Each tenant is so much later than the schedule, at most; always by the same part of it.
        sessions_max: Sessions held in memory; others are loaded when something is said in them.
        read_threads: Questions answered at once.
    """

    lateness_days: Annotated[float, Meta(gt=0, le=36_500)] = 7.0
    open_every_s: Seconds = 10.0
    rollup_every_s: Seconds = 5.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    rollup_schedule: str = ""
    rollup_jitter_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    sessions_max: Count = 4_096
    read_threads: Threads = 1

    def __post_init__(self) -> None:
        if self.rollup_schedule:
            checked(self.rollup_schedule)
