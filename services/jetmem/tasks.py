"""Ending tasks so that they have ended."""

import asyncio
from typing import Any

_AGAIN_S = 1.0


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and return when every one has ended, whatever it ended with.

    Asked once is not enough: before Python 3.12 `asyncio.wait_for`, which nats-py is made of, drops a cancellation
    that comes in the very turn in which its result does, and the task would go on for ever.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # so that no error is called "never retrieved"
