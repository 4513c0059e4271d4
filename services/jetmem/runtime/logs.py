"""Structured logs: readable on a terminal, JSON otherwise. No memory text at info level or above."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


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
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def logger() -> Any:
    """A logger; bind fields to it, pass values as fields."""
    return structlog.get_logger()
