"""Waiting for a condition under a generous deadline; nothing else in the tests waits."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

#: Only a test that fails waits so long; a busy machine of two cores takes ten times as long as an idle one.
DEADLINE_S = 120.0
_STEP_S = 0.02


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(_STEP_S)


async def until_async(condition: Callable[[], Awaitable[Any]], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """As `until`, for a condition that is awaited."""
    end = time.monotonic() + deadline_s
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(_STEP_S)
