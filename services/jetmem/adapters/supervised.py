"""One child process that is kept running: what is known of it, and when it is started again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from jetmem.adapters import processes
from jetmem.adapters.data_folder import Running

#: Exit code of a process that cannot begin as things are (settings, a store of another format).
_REFUSED: Final = 2


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the supervisor is.

    Attributes:
        restart_first_s: Delay before the first restart; it doubles with each death.
        restart_last_s: … up to this.
        healthy_reset_s: A process healthy for so long starts again from the first delay.
        failures_told: Starts without becoming healthy after which a person is told, each time so many are added.
        ready_within_s: `up` gives up after this if a process keeps failing.
        alive_within_s: … and after this even if all live and are only slow (the first start exports a model).
        stop_s: From SIGTERM to SIGKILL; longer than a stage drains.
        unhealthy_restart_s: A process that was healthy and then says for so long that it is not is restarted; 0 never.
    """

    restart_first_s: float = 0.2
    restart_last_s: float = 10.0
    healthy_reset_s: float = 30.0
    failures_told: int = 5
    ready_within_s: float = 60.0
    alive_within_s: float = 300.0
    stop_s: float = 25.0
    unhealthy_restart_s: float = 300.0


class UpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `jetmem up` does with the processes that it keeps.

    Attributes:
        unhealthy_restart_s: One that was healthy and then is not for so long is restarted; 0 leaves it alone.
    """

    unhealthy_restart_s: Annotated[float, Meta(ge=0, le=86_400)] = Timing().unhealthy_restart_s


class Child:
    """One supervised process and what is known of it."""

    def __init__(
        self, name: str, argv: Sequence[str], environ: Mapping[str, str], log: Path, http_port: int, timing: Timing
    ) -> None:
        self.name = name
        self.log = log
        self.http_port = http_port
        self.state = "waiting"
        self.detail = ""
        self.restarts = 0
        self.failures = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._argv = argv
        self._environ = dict(environ)
        self._timing = timing
        self._deaths = 0
        self._restart_at = 0.0
        self._healthy_since: float | None = None
        self._unhealthy_since: float | None = None
        self.refused = False
        self._ending = ""
        self._kill_at = 0.0
        self._log_from = 0

    def start(self) -> None:
        """Start it once; a failure to start counts as a death."""
        processes.rotate(self.log)
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        self._healthy_since = self._unhealthy_since = None
        self._ending = ""
        self.state, self.detail = "starting", ""
        try:
            self.process = processes.spawn(self._argv, self._environ, self.log)
        except OSError as error:
            self._died(f"cannot be started: {error}", time.monotonic())
        self._environ.pop("JETMEM_CRASH", None)  # a test's crash point is armed in the first life only

    def tick(self, now: float) -> str:
        """Notice a death, restart when due; returns a sentence for a person, or ""."""
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            self.refused = code == _REFUSED and self._healthy_since is None
            return self._died(self._ending or processes.last_line(self.log, self._log_from) or _exit(code), now)
        if self.process is not None and (self._ending or self._hopeless(now)):
            return self._end(self.process, now)
        if self.state == "restarting" and now >= self._restart_at:
            self.restarts += 1
            self.start()
        if self._healthy_since is not None and now - self._healthy_since > self._timing.healthy_reset_s:
            self._deaths = 0
        return ""

    def judged(self, healthy: bool, detail: str, now: float) -> None:
        """Take in what `/healthz` said."""
        if self.process is None or self._ending:
            return
        if healthy:
            self.failures = 0
            self._unhealthy_since = None
            self._healthy_since = self._healthy_since or now
            self.state, self.detail = "ok", ""
        elif self._healthy_since is None and self.state == "starting":
            self.detail = "" if detail == "starting" else detail
        else:
            self._healthy_since = None
            self._unhealthy_since = now if self._unhealthy_since is None else self._unhealthy_since
            self.state, self.detail = "unhealthy", detail

    def _hopeless(self, now: float) -> bool:
        patience_s = self._timing.unhealthy_restart_s
        return bool(patience_s) and self._unhealthy_since is not None and now - self._unhealthy_since > patience_s

    def _end(self, process: subprocess.Popen[bytes], now: float) -> str:
        """Tell it to end, and kill it if it does not; its death is then one like any other."""
        if self._ending:
            if now > self._kill_at:
                process.kill()
            return ""
        waited_s = now - (self._unhealthy_since or now)
        self._ending = f"was unhealthy for {waited_s:.0f} s: {self.detail}"
        self._kill_at = now + self._timing.stop_s
        process.terminate()
        return f"{self.name} was unhealthy for {waited_s:.0f} s and is restarted: {self.detail}"

    def running(self) -> Running:
        """For the table and the state file."""
        return Running(
            name=self.name,
            pid=self.process.pid if self.process else 0,
            state=self.state,
            restarts=self.restarts,
            http_port=self.http_port,
            detail=self.detail,
        )

    def _died(self, why: str, now: float) -> str:
        was_healthy = self._healthy_since is not None
        delay = min(self._timing.restart_first_s * 2**self._deaths, self._timing.restart_last_s)
        self._deaths = min(self._deaths + 1, 32)
        self.failures = 0 if was_healthy else self.failures + 1
        self._healthy_since = None
        self._restart_at = now + delay
        self.state, self.detail = "restarting", why
        if was_healthy:
            return f"{self.name} ended and is restarted in {delay:g} s: {why}"
        if self.failures and self.failures % self._timing.failures_told == 0:
            return f"{self.name} failed to start {self.failures} times, last: {why}; log {self.log}; trying on"
        return ""


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
