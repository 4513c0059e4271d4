"""Work that takes seconds, in a process of its own with the lowest priority.

It holds the interpreter and the threads of the numeric libraries, for which an answer would wait. The work is a
function of a module with its arguments: they go in by standard input, the result comes out by standard output, and the
process ends; one that lost its parent ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar, cast

from jetmem.adapters.priority import give_way
from jetmem.runtime.errors import Retryable

T = TypeVar("T")
#: Several times what the most that is ever asked takes on a busy core; beyond it something hangs.
TIMEOUT_S: Final = 600.0
_LOWEST: Final = 19
_STDERR_CHARS: Final = 800
#: Threads of the numeric libraries; the other cores are for those who are waited for.
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


async def aside(work: Callable[..., T], *given: object) -> T:
    """Call `work(*given)` in a process of its own.

    Args:
        work: A function that a module defines; its result can be pickled.
        given: Its arguments; they can be pickled.

    Raises:
        Retryable: The process failed, or took too long; carries the end of what it said.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environ |= dict.fromkeys(_ONE_THREAD, "1")
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe, env=environ
        )
    except OSError as error:
        raise Retryable(f"{work.__name__} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate(await asyncio.to_thread(pickle.dumps, (work, given)))
    except TimeoutError as error:
        raise Retryable(f"{work.__name__} took more than {TIMEOUT_S:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        said = err.decode(errors="replace")[-_STDERR_CHARS:]
        raise Retryable(f"{work.__name__} failed ({process.returncode}): {said}")
    return cast(T, await asyncio.to_thread(pickle.loads, out))


def main() -> None:
    """The child."""
    give_way(_LOWEST)
    work, given = pickle.load(sys.stdin.buffer)  # noqa: S301  # from our own parent
    sys.stdout.buffer.write(pickle.dumps(work(*given)))


if __name__ == "__main__":
    main()
