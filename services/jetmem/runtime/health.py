"""Health that tells the truth: a stage is healthy only while it makes progress or has nothing to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from jetmem.runtime import metrics
from jetmem.runtime.clock import Clock
from jetmem.runtime.limits import PROGRESS_DEADLINE_S


class Health:
    """Progress of one process, told by its loops, read by `/healthz` and `status`.

    Thread-safe for readers: each field is one assignment.
    """

    def __init__(self, stage: str, clock: Clock) -> None:
        self.stage = stage
        self.lag = 0
        self.last_error = ""
        self.ready = False
        self.broken = ""
        self._clock = clock
        self._progress_at = clock.monotonic()

    def progressed(self, lag: int) -> None:
        """Work was done, or there was none; `lag` messages remain."""
        self.lag = lag
        self._progress_at = self._clock.monotonic()
        metrics.lag.labels(self.stage).set(lag)

    def behind(self, lag: int) -> None:
        """`lag` messages wait, and nothing was done about it just now."""
        if self.lag == 0:
            self._progress_at = self._clock.monotonic()
        self.lag = lag
        metrics.lag.labels(self.stage).set(lag)

    def failed(self, error: BaseException) -> None:
        """Remember the last error; it does not by itself make the stage unhealthy."""
        self.last_error = f"{type(error).__name__}: {error}"[:500]

    def stop(self, why: str) -> None:
        """The process cannot go on."""
        self.broken = why

    def verdict(self) -> tuple[bool, str]:
        """Healthy or not, and why."""
        if self.broken:
            return False, self.broken
        if not self.ready:
            return False, "starting"
        idle_s = self._clock.monotonic() - self._progress_at
        if self.lag and idle_s > PROGRESS_DEADLINE_S:
            return False, f"{self.lag} messages wait and none was handled for {idle_s:.0f} s"
        return True, "ok"


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is wsgiref's
        """Scrapes are not news."""


def serve_http(health: Health, host: str, port: int) -> Callable[[], None]:
    """Serve `/metrics` and `/healthz` from a thread; returns what stops it."""
    scrape = make_wsgi_app(metrics.REGISTRY)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        good, why = health.verdict()
        metrics.healthy.labels(health.stage).set(1 if good else 0)
        if environ.get("PATH_INFO") != "/healthz":
            scraped: Iterable[bytes] = scrape(environ, start_response)
            return scraped
        body = {
            "stage": health.stage,
            "healthy": good,
            "detail": why,
            "lag": health.lag,
            "last_error": health.last_error,
        }
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(body).encode() + b"\n"]

    server: WSGIServer = make_server(host, port, app, handler_class=_QuietHandler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server.shutdown
