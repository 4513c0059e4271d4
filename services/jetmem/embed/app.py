"""Build and wire embed."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from jetmem.adapters.nats_shell import Endpoint, Shell
from jetmem.embed.handler import PROBE, Windows
from jetmem.embed.ports import Encoder
from jetmem.embed.questions import Questions
from jetmem.embed.settings import EmbedSettings
from jetmem.runtime import limits, metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import Broken
from jetmem.runtime.settings import Common
from jetmem.tasks import end
from jetmem_schemas import subjects
from jetmem_schemas.internal import EncodeRequest, StageStatus

#: A first start exports and measures for a minute: somebody watches the log.
LOG_EVERY_S: Final = 5.0
#: Left of the drain for flushing and closing.
_CLOSE_S: Final = 2.0


def build(
    common: Common,
    settings: EmbedSettings,
    *,
    encoder: Encoder | None = None,
    clock: Clock | None = None,
    broker: Any = None,
) -> Shell:
    """Build the process; nothing is connected and no model opened before `run`.

    Args:
        encoder: One that is open already; it is not closed here. Default: opened at start from the settings.
    """
    shell = Shell("embed", common, clock=clock, broker=broker)
    Embed(shell, settings, encoder).wire()
    return shell


class Embed:
    """The running stage: one encoder with two lanes, windows of jobs in one, questions in the other."""

    def __init__(self, shell: Shell, settings: EmbedSettings, encoder: Encoder | None) -> None:
        self.shell = shell
        self.settings = settings
        self.windows = Windows(shell, self._opened, settings.window_texts)
        self.questions = Questions(self._opened)
        self._encoder = encoder
        self._own = encoder is None
        self._work: asyncio.Task[None] | None = None
        self._draining = False

    def wire(self) -> None:
        """Add loops and endpoints to the shell."""
        shell = self.shell
        shell.on_start(self._open)
        shell.loop("queue", lambda: self.windows.queue.run(self.windows.on_tick))
        shell.loop("windows", self._run_windows)
        shell.loop("progress", self.windows.keep)
        shell.app.on_shutdown(self._drain)
        shell.on_stop(self._close)
        status = Endpoint(dict[str, Any], self._status)
        encode = Endpoint(EncodeRequest, self.questions.answer)
        shell.serve(subjects.service_all("embed", "any"), {"encode": encode, "status": status}, queue="embed")
        shell.serve(subjects.service_all("embed", "all"), {"status": status})

    def _opened(self) -> Encoder:
        if self._encoder is None:
            raise Broken("the encoder is not open yet")
        return self._encoder

    async def _open(self) -> None:
        """Open the model in a thread, saying so in the log, and encode one question to warm it."""
        started = time.monotonic()
        with ThreadPoolExecutor(1, "model") as thread:
            opening = asyncio.get_running_loop().run_in_executor(thread, self._open_encoder)
            while True:
                done, _ = await asyncio.wait({opening}, timeout=LOG_EVERY_S)
                if done:
                    break
                took_s = round(time.monotonic() - started)
                self.shell.log.info("opening the model, about a minute the first time", took_s=took_s)
            self._encoder = opening.result()
        metrics.model.labels(self._encoder.model, self._encoder.precision, self.settings.device).set(1)
        self.shell.log.info(
            "model open",
            model=self._encoder.model,
            precision=self._encoder.precision,
            took_s=round(time.monotonic() - started, 1),
        )

    def _open_encoder(self) -> Encoder:
        encoder = self._encoder
        if encoder is None:
            # Imported here: torch and onnxruntime take seconds, and a process with an encoder of its own needs neither.
            from jetmem.adapters.encoder import open_encoder

            encoder = open_encoder(
                cache_dir=Path(self.settings.cache or Path(self.shell.common.data) / "models"),
                model=self.settings.model,
                precision=self.settings.precision,
                batch_texts=self.settings.batch_texts,
                threads=self.settings.threads,
                device=self.settings.device,
            )
        encoder.encode([PROBE], interactive=True)
        return encoder

    async def _run_windows(self) -> None:
        # The shell cancels loops when it stops; the window in hand is finished by `_drain` instead.
        self._work = asyncio.create_task(self.windows.run(), name="embed windows")
        await asyncio.shield(self._work)
        if self._draining:
            await asyncio.Event().wait()

    async def _drain(self) -> None:
        """Finish the window in hand, send, acknowledge; give back the rest. The connection is still open here."""
        self._draining = True
        try:
            async with asyncio.timeout(limits.DRAIN_S - _CLOSE_S):
                await self.windows.stop()
                if self._work is not None:
                    await asyncio.wait({self._work})
                await self.windows.give_back()
                if self.shell.nc.is_connected:  # away, it would wait in vain
                    await self.shell.flush()
        except Exception as error:  # whatever was not finished is delivered again
            self.shell.log.warning("not drained", error=f"{type(error).__name__}: {error}")

    async def _close(self) -> None:
        if self._work is not None:
            await end(self._work)
        self.windows.close()
        self.questions.close()
        close = getattr(self._encoder, "close", None)
        if self._own and close is not None:
            close()

    async def _status(self, part: int, request: dict[str, Any]) -> StageStatus:
        windows = self.windows
        encoder = self._opened()
        counts: dict[str, int | float | str] = {
            "model": encoder.model,
            "precision": encoder.precision,
            "texts_total": windows.texts,
            "questions_total": self.questions.texts,
            "rate": round(windows.rate, 1),
            "busy_s": round(windows.busy_s, 3),
            "jobs_stored": windows.replies.acked,
            "held": len(windows.held),
            "remade": windows.queue.remade,
        }
        report = getattr(encoder, "report", None)
        if report is not None:
            counts |= {"processor": report.processor, "threads": report.threads, "why": report.why}
        counts |= await windows.queue.waiting()
        return self.shell.status(counts)
