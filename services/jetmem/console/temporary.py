"""The whole pipeline in a temporary folder, as long as a block lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import uvloop

from jetmem.console import configuration
from jetmem.supervisor import Plan, Supervisor

T = TypeVar("T")
#: How the stages are told where models are kept.
CACHE: Final = "JETMEM_EMBED_CACHE"
#: Not the user's to set here: each run has its own folder and ports.
_OWN: Final = ("JETMEM_DATA", "JETMEM_SERVER", "JETMEM_HTTP_PORT", "JETMEM_CRASH")


class Pipeline:
    """What runs.

    Attributes:
        url: The broker's address.
        root: The data folder.
        ready_s: From start to the first answer.
    """

    def __init__(self, supervisor: Supervisor, root: Path, ready_s: float) -> None:
        self.url = supervisor.url
        self.root = root
        self.ready_s = ready_s
        self._supervisor = supervisor

    def processes(self) -> dict[str, int]:
        """Process id by name: nats-server and every stage."""
        return {each.name: each.pid for each in self._supervisor.running()}

    def restarts(self) -> int:
        """How often any process died; figures of a run in which one did are worth nothing."""
        return sum(each.restarts for each in self._supervisor.running())


def model_cache() -> Path:
    """Outside any data folder, so that only the first run on a machine prepares the model."""
    told = os.environ.get(CACHE, "")
    if told:
        return Path(told)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "jetmem"


def environment() -> dict[str, str]:
    """What the stages are told: the caller's environment and the shared cache of models."""
    kept = {name: value for name, value in os.environ.items() if name not in _OWN}
    return {**kept, CACHE: str(model_cache())}


@asynccontextmanager
async def pipeline(
    prefix: str, tell: Callable[[str], None], more: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Pipeline]:
    """Start everything, wait until questions are answered, stop everything and remove the folder at the end.

    Args:
        prefix: Of the folder's name. After an error of ours the folder is kept for its logs.
        tell: Hears of processes that die.
        more: Settings of this run, as in the environment.

    Raises:
        StartFailed: Not ready in time.
        KeyboardInterrupt: SIGINT or SIGTERM; everything was stopped first.
    """
    environ = environment() | dict(more)
    settings = configuration.load(None, environ)
    root = Path(tempfile.mkdtemp(prefix=prefix))
    plan = Plan(root=root, port=0, common=settings[""], nats=settings[configuration.NATS], environ=environ)
    supervisor = Supervisor(plan, tell=tell)
    began = time.perf_counter()
    try:
        async with _running(supervisor):
            yield Pipeline(supervisor, root, time.perf_counter() - began)
    except Exception as error:
        error.add_note(f"the data folder and its logs are kept in {root}")
        raise
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    shutil.rmtree(root, ignore_errors=True)


@asynccontextmanager
async def _running(supervisor: Supervisor) -> AsyncIterator[None]:
    """Supervise while the body runs; an end of the supervisor ends the body too."""
    body = asyncio.current_task()
    stopping = False

    def ended(_: asyncio.Task[None]) -> None:
        if body is not None and not stopping:
            body.cancel()

    running = asyncio.create_task(supervisor.run())
    running.add_done_callback(ended)
    try:
        await supervisor.ready.wait()
        yield
    except asyncio.CancelledError:
        if running.done():
            running.result()  # why it ended, rather than that the body was cancelled
        raise
    finally:
        stopping = True
        await _stopped(supervisor, running)


async def _stopped(supervisor: Supervisor, running: asyncio.Task[None]) -> None:
    """Stop; a cancellation meanwhile means: hurry."""
    while not running.done():
        supervisor.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({running})
    if not running.cancelled():
        running.exception()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run from the main thread on uvloop, as the stages do.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM; `work` was cancelled and has cleaned up. Each further one hurries it.
    """
    interrupted = False

    async def guarded() -> T:
        nonlocal interrupted
        task = asyncio.ensure_future(work)

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        return await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(guarded())
        except asyncio.CancelledError:
            if interrupted:
                raise KeyboardInterrupt from None
            raise
