"""Windows of jobs: take, encode in a thread, hand to `Replies`; one window at a time, the next one waits ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from jetmem.adapters.nats_shell import Shell
from jetmem.adapters.nats_work import Work, WorkQueue
from jetmem.embed import core
from jetmem.embed.ports import Encoder
from jetmem.embed.recent import Recent
from jetmem.embed.replies import Held, Replies
from jetmem.runtime import limits, metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Broken, Poison, Retryable
from jetmem_schemas import subjects

#: Jobs asked for at once.
PULL_JOBS: Final = 16
#: Small jobs held at once, beside the bound on their texts.
JOBS_HELD_MAX: Final = 512
#: Vectors kept for redeliveries: two askers' worth of what is in EMBED at once, 6 MiB.
RECENT_TEXTS: Final = 4_096
#: A job is kept from other replicas this long at most; a window takes seconds.
HOLD_MAX_S: Final = 10 * limits.JOB_ACK_WAIT_S
#: Three chances that the word arrives before the broker gives the job to another.
PROGRESS_EVERY_S: Final = limits.JOB_ACK_WAIT_S / 3
#: Encodes for certain; if it does not, it is the encoder that is broken and not a text.
PROBE: Final = "a question"
REASON_MAX: Final = 200


class Windows:
    """The batch side of embed.

    Attributes:
        texts: Texts encoded since start.
        busy_s: Seconds spent in that.
        held: Jobs delivered and not answered for, by delivery.
        stopping: Nothing new is begun.
    """

    def __init__(self, shell: Shell, encoder: Callable[[], Encoder], window_texts: int) -> None:
        self.texts = 0
        self.busy_s = 0.0
        self.stopping = False
        self.held: dict[str, Held] = {}
        self.queue = WorkQueue(
            lambda: shell.nc, subjects.EMBED, "embed", shell.common, accept=self._accept, room=self._room
        )
        self.replies = Replies(shell, self.queue, self.held)
        self._shell = shell
        self._encoder = encoder
        self._window_texts = window_texts
        self._thread = ThreadPoolExecutor(1, "batches")
        self._recent = Recent(RECENT_TEXTS)
        self._waiting: deque[Held] = deque()
        self._waiting_texts = 0
        self._since: dict[str, float] = {}
        self._refused: deque[tuple[Work, str]] = deque(maxlen=PULL_JOBS)
        self._careful = False
        self._wake = asyncio.Event()
        self._spent: deque[tuple[int, float]] = deque(maxlen=32)

    @property
    def lag(self) -> int:
        """Jobs that wait here or in the queue."""
        return self.queue.pending + len(self.held)

    @property
    def rate(self) -> float:
        """Texts a second while encoding, over the last windows."""
        seconds = sum(s for _, s in self._spent)
        return sum(n for n, _ in self._spent) / seconds if seconds else 0.0

    async def run(self) -> None:
        """Encode windows until `stop`; then the window in hand is finished and nothing else begun.

        Raises:
            Broken: The encoder cannot encode even the probe.
        """
        while not self.stopping:
            await self._refuse()
            if not self._waiting:
                await self._rest()
            elif core.suspect(self._waiting[0].times):
                await self._one_suspect()
            else:
                await self._one_window()

    async def stop(self) -> None:
        """Take nothing more. `run` then ends after the window in hand; await that, then `give_back`."""
        self.stopping = True
        self._wake.set()
        await self.queue.pause()

    async def give_back(self) -> None:
        """Wait for what is being sent; let others have what was taken and not begun.

        What was begun and not finished is left over by a broken encoder: it is delivered again soon, and counted.
        """
        await self.replies.idle()
        await self._put_back_waiting()
        for held in list(self.held.values()):
            await self.replies.again(held)

    async def keep(self) -> None:
        """Tell the broker, for ever, that the jobs held are in work."""
        while True:
            await asyncio.sleep(PROGRESS_EVERY_S)
            now = self._shell.clock.monotonic()
            self._since = {key: self._since.get(key, now) for key in self.held}
            for key, held in list(self.held.items()):
                if now - self._since[key] < HOLD_MAX_S:
                    await self.queue.working(held.work)

    def on_tick(self, error: Exception | None) -> None:
        """What the queue's loop saw."""
        if error is not None:
            self._shell.health.failed(error)
            self._shell.health.behind(max(self.lag, 1))
        elif self.held:
            self._shell.health.behind(self.lag)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _accept(self, work: Work) -> None:
        if work.key in self.held:
            return  # redelivered while it is in work here: the answer to come counts for both
        metrics.received.labels("embed").inc()
        try:
            job = core.read(work.data)
        except Poison as error:
            self._refused.append((work, error.message))
        else:
            held = Held(work, job, core.deliveries(job, work.deliveries))
            self.held[work.key] = held
            self._waiting.append(held)
            self._waiting_texts += len(job.texts)
        self._wake.set()

    def _room(self) -> int:
        if self.stopping or self._waiting_texts >= self._window_texts or len(self.held) >= JOBS_HELD_MAX:
            return 0
        return 1 if self._careful else PULL_JOBS

    def _pop(self) -> Held:
        held = self._waiting.popleft()
        self._waiting_texts -= len(held.job.texts)
        return held

    async def _refuse(self) -> None:
        while self._refused:
            work, reason = self._refused.popleft()
            await self.replies.refuse(work, reason)

    async def _rest(self) -> None:
        if self.queue.live and not self.queue.pending:
            self._shell.health.progressed(self.lag)
        else:
            self._shell.health.behind(max(self.lag, 1))
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.READ_HEARTBEAT_S):
                await self._wake.wait()

    async def _one_window(self) -> None:
        self._careful = False
        count = core.window([(each.job, each.times) for each in self._waiting], self._window_texts)
        taken = [self._pop() for _ in range(count)]
        self.queue.pull()
        jobs: list[Held] = []
        for each in taken:
            # Only once: at its second delivery it is encoded, so that what is given back then is known to be harmless.
            if each.times == 1 and self.replies.away_s(each.job):
                await self.replies.wait_for_asker(each)
            else:
                jobs.append(each)
        if jobs:
            metrics.batch_size.labels("embed").observe(len(jobs))
            await self._encode_and_send(jobs)

    async def _one_suspect(self) -> None:
        """A job that may have ended a process: alone, and nothing else is held that its end would count against."""
        self._careful = True
        held = self._pop()
        plan = core.plan_suspect(held.job, held.times, self._recent.known(each.text for each in held.job.texts))
        if isinstance(plan, core.Split):
            self._shell.log.warning("job split", texts=len(plan.jobs), deliveries=held.times)
            await self.replies.split(held, plan.jobs)
        elif isinstance(plan, core.Answer):
            if any(isinstance(each, core.Failed) for each in plan.results.values()):
                self._shell.log.error("text given up", tenant=held.job.tenant, deliveries=held.times)
            await self.replies.start(held, self._encoder().model, plan.results)
        else:
            await self.queue.pause()
            await self._put_back_waiting()
            await self.replies.idle()
            await self._encode_and_send([held])
            await self.replies.idle()
            if not self.stopping:
                self.queue.resume()

    async def _put_back_waiting(self) -> None:
        while self._waiting:
            await self.replies.put_back(self._pop())

    async def _encode_and_send(self, jobs: Sequence[Held]) -> None:
        known = self._recent.known(each.text for held in jobs for each in held.job.texts)
        groups = core.to_encode((held.job for held in jobs), known)
        results: dict[str, core.Result] = dict(known)
        if groups:
            results |= await self._encode(groups)
        model = self._encoder().model
        for held in jobs:
            await self.replies.start(held, model, results)
        self._shell.health.reached(jobs[-1].work.at)
        self._shell.health.progressed(self.lag)

    async def _encode(self, groups: Sequence[Sequence[str]]) -> dict[str, core.Result]:
        """Vectors by text; what fails is tried in smaller pieces until the failing text is alone.

        Raises:
            Broken: The encoder itself fails.
        """
        texts = [text for group in groups for text in group]
        try:
            return await self._in_thread(texts)
        except Broken:
            raise
        except Exception as error:
            cause = error
        found: dict[str, core.Result] = {}
        pieces = core.narrower(groups)
        if not pieces:
            return {texts[0]: await self._failed(cause)}
        for piece in pieces:
            found |= await self._encode(piece)
        return found

    async def _in_thread(self, texts: Sequence[str]) -> dict[str, core.Result]:
        """Encode, trying again for as long as the encoder says that it may work later."""
        wait_s = limits.RETRY_FIRST_S
        while True:
            crashpoint("embed:before-encode")
            started = time.perf_counter()
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._vectors, texts)
            except (Retryable, TimeoutError, ConnectionError) as error:
                self._shell.health.failed(error)
                metrics.retried.labels("embed").inc(len(texts))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, limits.RETRY_LAST_S)
                continue
            took_s = time.perf_counter() - started
            self._spent.append((len(texts), took_s))
            self.texts += len(texts)
            self.busy_s += took_s
            self._recent.keep((text, data) for text, data in results.items() if isinstance(data, bytes))
            return results

    def _vectors(self, texts: Sequence[str]) -> dict[str, core.Result]:
        """In the thread: encode and turn into bytes."""
        with metrics.encode_seconds.labels("job").time():
            rows = np.asarray(self._encoder().encode(texts), dtype="<f4")
        metrics.embedded.labels("job").inc(len(texts))
        finite = np.isfinite(rows).all(axis=1)
        return {
            text: rows[at].tobytes() if finite[at] else core.Failed("the encoder gave no finite vector")
            for at, text in enumerate(texts)
        }

    async def _failed(self, error: Exception) -> core.Failed:
        """A text that fails alone gets no vector, unless nothing can be encoded at all.

        Raises:
            Broken: The probe fails as well.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._vectors, [PROBE])
        except Exception as broken:
            raise Broken(f"the encoder fails on every text: {broken}") from broken
        self._shell.log.error("text cannot be encoded", error=str(error), exc_info=error)
        return core.Failed(f"{type(error).__name__}: {error}"[:REASON_MAX])
