"""Health that tells the truth: a stage is healthy only while it makes progress or has nothing to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
from prometheus_client import make_wsgi_app

from jetmem.runtime import metrics, scraping
from jetmem.runtime.clock import Clock
from jetmem.runtime.errors import Broken, Poison, RequestFailed, Retryable
from jetmem.runtime.limits import PROGRESS_DEADLINE_S
from jetmem_schemas.errors import DEAD_CODES, REQUEST_CODES, SchemaError

_ERROR_CHARS_MAX: Final = 500


class LastError(msgspec.Struct, frozen=True):
    """What went wrong last, and when (epoch ms)."""

    kind: str
    text: str
    at: int


class Health:
    """Progress of one process, told by its loops, read by `/healthz` and `status`.

    A loop says `behind` before it begins something that may hang, and `progressed` when it is done or has nothing to
    do; one that has spoken once must go on speaking. Thread-safe for readers: each field is one assignment.

    Attributes:
        dead_letters: How many DEAD holds; None where the stage does not know.
        note: What works less well than it could while the stage is healthy; "" for nothing.
    """

    def __init__(self, stage: str, clock: Clock) -> None:
        self.stage = stage
        self.lag = 0
        self.ready = False
        self.broken = ""
        self.note = ""
        self.dead_letters: int | None = None
        self.error: LastError | None = None
        self._clock = clock
        self._progress_at = clock.monotonic()
        self._heard_at: float | None = None
        self._level_ms = 0
        self._reached_ms = 0
        self._began_ms = clock.now_ms()

    def progressed(self, lag: int) -> None:
        """Work was done, or there was none; `lag` messages remain."""
        self._progress_at = self._heard_at = self._clock.monotonic()
        self.lag = lag
        if not lag:
            self._level_ms = self._clock.now_ms()
        metrics.lag.labels(self.stage).set(lag)

    def reached(self, at: int) -> None:
        """Applied up to a message that the broker stored then (epoch ms)."""
        self._reached_ms = at

    def lag_s(self) -> float:
        """Age of the oldest message not applied, in seconds; at most, as it is behind what was applied last.

        Neither what waits is looked at nor what came while nothing waited: both would cost a request.
        """
        if not self.lag:
            return 0.0
        since = max(self._level_ms, self._reached_ms) or self._began_ms
        return max(0, self._clock.now_ms() - since) / 1000

    def behind(self, lag: int) -> None:
        """`lag` messages wait, and nothing was done about it just now, or is about to be."""
        self._heard_at = self._clock.monotonic()
        if self.lag == 0:
            self._progress_at = self._heard_at
        self.lag = lag
        metrics.lag.labels(self.stage).set(lag)

    def failed(self, error: BaseException) -> None:
        """Remember the last error; it does not by itself make the stage unhealthy."""
        at = self._clock.now_ms()
        self.error = LastError(type(error).__name__, str(error)[:_ERROR_CHARS_MAX], at)
        metrics.last_error.labels(self.stage, error_code(error)).set(at / 1000)

    def counted(self, dead_letters: int) -> None:
        """So many dead letters wait for somebody to look at them."""
        self.dead_letters = dead_letters
        metrics.dead_letters_held.set(dead_letters)

    def stop(self, why: str) -> None:
        """The process cannot go on."""
        self.broken = why

    @property
    def last_error(self) -> str:
        """What went wrong last and how long ago, so that what is over does not look broken; "" for nothing."""
        error = self.error
        if error is None:
            return ""
        return f"{error.kind} {_age((self._clock.now_ms() - error.at) / 1000)} ago: {error.text}"

    def verdict(self) -> tuple[bool, str]:
        """Healthy or not, and why."""
        if self.broken:
            return False, self.broken
        if not self.ready:
            return False, "starting"
        now = self._clock.monotonic()
        idle_s = now - self._progress_at
        if self.lag and idle_s > PROGRESS_DEADLINE_S:
            return False, f"{self.lag} messages wait and none was handled for {idle_s:.0f} s"
        silent_s = now - (now if self._heard_at is None else self._heard_at)
        if silent_s > PROGRESS_DEADLINE_S:
            return False, f"nothing was heard of its loop for {silent_s:.0f} s"
        return True, self.note or "ok"

    def report(self) -> dict[str, Any]:
        """What `/healthz` says."""
        good, why = self.verdict()
        return {
            "stage": self.stage,
            "healthy": good,
            "detail": why,
            "lag": self.lag,
            "last_error": self.last_error,
            "last_error_at": self.error.at if self.error else None,
            "dead_letters": self.dead_letters,
        }


def error_code(error: BaseException) -> str:
    """One word for an error, from a fixed set: safe as a metric label."""
    if isinstance(error, Poison | RequestFailed | SchemaError):
        return error.code if error.code in DEAD_CODES or error.code in REQUEST_CODES else "other"
    if isinstance(error, Retryable):
        return "retryable"
    if isinstance(error, Broken):
        return "broken"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        return "os"
    return "broker" if type(error).__module__.startswith("nats.") else "other"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is wsgiref's
        """Scrapes are not news."""


def serve_http(health: Health, host: str, port: int) -> Callable[[], None]:
    """Serve `/metrics` and `/healthz` from a thread; returns what stops it.

    `/metrics` is OpenMetrics for who accepts `application/openmetrics-text`, else Prometheus' own text.
    """
    scrape = make_wsgi_app(metrics.REGISTRY)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        said = health.report()
        metrics.healthy.labels(health.stage).set(1 if said["healthy"] else 0)
        if environ.get("PATH_INFO") != "/healthz":
            metrics.lag_seconds.labels(health.stage).set(health.lag_s())
            scraping.observe()
            scraped: Iterable[bytes] = scrape(environ, start_response)
            return scraped
        status = "200 OK" if said["healthy"] else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(said).encode() + b"\n"]

    server: WSGIServer = make_server(host, port, app, handler_class=_QuietHandler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
