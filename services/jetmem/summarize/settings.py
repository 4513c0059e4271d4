"""Settings of summarize."""

from __future__ import annotations

from typing import Annotated, Literal

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
        vectors_rest_s: A segment that is still open and did not change for so long is made again with vectors, like a
            closed one.
        jitter: Both are longer by up to this share, so that not all are made at once.
        rollup_schedule: When days that changed are made again, and what is above them: five cron fields in the tenant's
            time zone, like `*/15 * * * *` or `30 0 * * *`; empty for as they change. Segments are made as they change.
        rollup_jitter_s: Each tenant is so much later than the schedule, at most; always by the same part of it.
        endpoint_url: Base address of an OpenAI-compatible endpoint that tells nodes at rest in its own words, like
            `https://host/v1`; "" for none. What was said is sent there.
        endpoint_model: The model that it is asked for.
        endpoint_key_file: File that holds its key, or "".
        endpoint_key_variable: … or the environment variable that does, or "".
        endpoint_reply: How it is asked for JSON: by schema, as an object, or by words alone.
        endpoint_limit: How a request names `endpoint_reply_tokens`: models that reason take the second only.
        endpoint_timeout_s: A reply that is not whole by then has failed.
        endpoint_tries: Questions about one node, until it stays extractive.
        endpoint_at_once: Questions at the same time.
        endpoint_rest_s: A day, week, month or year is told when it did not change for so long.
        endpoint_tokens_hour: Tokens that it may be asked for in an hour, by each process of this stage. What is to be
            asked is estimated, rather too high; then nodes stay extractive until the next hour.
        endpoint_reply_tokens: Tokens that one reply may have.
        topics_every_s: Topics of a tenant are grouped again this often, at most, and if enough is new.
        sessions_max: Sessions held in memory; others are loaded when something is said in them.
        read_threads: Questions answered at once.
    """

    lateness_days: Annotated[float, Meta(gt=0, le=36_500)] = 7.0
    open_every_s: Seconds = 10.0
    rollup_every_s: Seconds = 5.0
    vectors_rest_s: Seconds = 300.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2
    rollup_schedule: str = ""
    rollup_jitter_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    endpoint_url: Annotated[str, Meta(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    endpoint_model: str = ""
    endpoint_key_file: str = ""
    endpoint_key_variable: str = ""
    endpoint_reply: Literal["json_schema", "json_object", "text"] = "json_schema"
    endpoint_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    endpoint_timeout_s: Seconds = 60.0
    endpoint_tries: Annotated[int, Meta(ge=1, le=10)] = 3
    endpoint_at_once: Annotated[int, Meta(ge=1, le=32)] = 2
    endpoint_rest_s: Seconds = 120.0
    endpoint_tokens_hour: Annotated[int, Meta(ge=1_000, le=10**9)] = 200_000
    endpoint_reply_tokens: Annotated[int, Meta(ge=100, le=32_000)] = 1_000
    topics_every_s: Seconds = 60.0
    sessions_max: Count = 4_096
    read_threads: Threads = 1

    def __post_init__(self) -> None:
        if self.rollup_schedule:
            checked(self.rollup_schedule)
