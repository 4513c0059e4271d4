"""Structured logs: readable on a terminal, JSON otherwise. No memory text at info level or above.

What is said again and again is said a few times, then now and then with how often it was not.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

#: Lines of one event and severity that are shown within a window: enough to see what varies.
_SHOWN_MAX: Final = 10
_WINDOW_S: Final = 30.0
#: Events are constants of the code; libraries might make some up.
_EVENTS_MAX: Final = 512


@dataclass(slots=True)
class _Window:
    until: float
    shown: int = 0
    left_out: int = 0


class Repeats:
    """Leaves out lines of an event that was said `_SHOWN_MAX` times within `_WINDOW_S`. From any thread.

    The first one shown in a later window says in `left_out` how many were not. Lines count together whatever their
    fields are: what differs for each of a thousand messages is the same news.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, _: Any, severity: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Let a line pass, as structlog's processors do.

        Raises:
            structlog.DropEvent: It is left out.
        """
        now = self._monotonic()
        with self._lock:
            key = (severity, str(line.get("event", "")))
            window = self._windows.get(key)
            if window is None or now >= window.until:
                left_out = window.left_out if window is not None else 0
                window = self._windows[key] = _Window(now + _WINDOW_S)
                self._windows.move_to_end(key)
                if len(self._windows) > _EVENTS_MAX:
                    self._windows.popitem(last=False)
                if left_out:
                    line["left_out"] = left_out
            if window.shown >= _SHOWN_MAX:
                window.left_out += 1
                raise structlog.DropEvent
            window.shown += 1
        return line


class _Libraries(logging.Handler):
    """What libraries log, as lines like ours: the event is the library's logger, so that its floods are cut, too."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage  # not every thread of theirs has our context

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record. It may come from any thread, and must not raise."""
        try:
            severity = logging.ERROR if record.levelno >= logging.ERROR else record.levelno
            said = {"stage": self._stage, "message": record.getMessage(), "exc_info": record.exc_info}
            logger().log(severity, record.name, **said)
        except Exception:  # what a library says must not end what it says it of
            self.handleError(record)


def configure(level: str, form: str, stage: str) -> None:
    """Set up logging of this process once, on standard error.

    Args:
        level: debug, info, warning or error.
        form: auto, json or console.
        stage: Name bound to every line.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    # plain: the default prints local variables, which hold what was said
    people: Any = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = people if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            Repeats(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not console else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(stage=stage)
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries(stage)])


def logger() -> Any:
    """A logger; bind fields to it, pass values as fields."""
    return structlog.get_logger()
