"""What a person sees while it runs and afterwards; starts no thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jetmem.runtime.errors import Broken

_REDRAW_S: Final = 0.2
#: The same wait is told again after so long.
_STILL_S: Final = 10.0
#: … and after so long without any change it is given up: something is broken.
_STUCK_S: Final = 120.0
#: Where no terminal says how wide it is.
_WIDTH: Final = 112


class Unwritable(Exception):
    """A file that a report goes into cannot be written; the message says which and why."""


def writable(*paths: Path | None) -> None:
    """Make the folders of files that are written at the end; known before what takes long.

    Raises:
        Unwritable: One of them cannot be written.
    """
    for path in filter(None, paths):
        there = path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        except OSError as error:
            raise Unwritable(f"{path} cannot be written ({error.strerror}); name another file") from error
        if not there:
            path.unlink()


def console(*, stderr: bool = False) -> Console:
    """Standard output for figures, standard error for how far it is."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = _WIDTH
    return made


class Told:
    """Says what is being done, on standard error: standard output is for figures."""

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self._began = self._said = time.perf_counter()
        self._still = ("", self._began)

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        self._said = time.perf_counter()
        self._still = ("", self._said)
        self._print(text)

    def _print(self, text: str) -> None:
        if self.console is not None:
            line = f"{time.perf_counter() - self._began:6.1f} s  {text}"
            self.console.print(line, style="dim", markup=False, soft_wrap=True)

    def still(self, text: str) -> None:
        """How far a wait is; told now and then.

        Raises:
            Broken: It says the same for `_STUCK_S`.
        """
        now = time.perf_counter()
        if text != self._still[0]:
            self._still = (text, now)
        if now - self._still[1] > _STUCK_S:
            raise Broken(f"nothing moved for {_STUCK_S:.0f} s: {text}")
        if now - self._said > _STILL_S:
            self._said = now
            self._print(text)

    def waiting(self, tenant: str, pending: int, obstacle: str) -> None:
        """For `wait_fresh`."""
        self.still(obstacle or f"{tenant}: {pending} texts without a vector")


@contextmanager
def progress(told: Told, text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far something is; call what it yields after each step."""
    if told.console is None or not told.console.is_terminal:
        told.say(text)
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=told.console, auto_refresh=False, transient=True)
    task = bar.add_task(text, total=total)
    drawn = 0.0

    def step() -> None:
        nonlocal drawn
        bar.advance(task)
        if time.perf_counter() - drawn > _REDRAW_S:
            drawn = time.perf_counter()
            bar.refresh()

    with bar:
        yield step


def facts(told: Mapping[str, str]) -> Table:
    """Names and values, two columns."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in told.items():
        shown.add_row(name, value)
    return shown
