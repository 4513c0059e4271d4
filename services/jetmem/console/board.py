"""The table of what runs, live on a terminal and printed once elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jetmem.adapters.data_folder import State

_COLOURS = {"ok": "green", "starting": "yellow", "waiting": "dim", "restarting": "red", "unhealthy": "red"}


def ready_line(state: State) -> str:
    """What `jetmem up` says on standard output when questions are answered."""
    return f"ready {state.server}"


def table(state: State) -> Group:
    """One line for each process, and below what is to be said of any, however long."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "pid", "state", "restarts", "health"):
        shown.add_column(name, justify="right" if name in ("pid", "restarts") else "left", no_wrap=True)
    for each in state.processes:
        shown.add_row(
            each.name,
            str(each.pid or "-"),
            Text(each.state, style=_COLOURS.get(each.state, "")),
            str(each.restarts),
            f"127.0.0.1:{each.http_port}",
        )
    told = [Text(f"{each.name}: {each.detail}", style="dim") for each in state.processes if each.detail]
    return Group(shown, *told)


class Board:
    """Shows states as they come; standard output gets nothing but the ready line, unless it is a terminal.

    Without a terminal the table is printed once, on standard error, when all is ready or the start failed.
    """

    def __init__(self) -> None:
        self._error = Console(stderr=True, highlight=False)
        self._live_on_output = sys.stdout.isatty()
        self._live: Live | None = None
        self._ready = False
        self._last: State | None = None
        if self._live_on_output or sys.stderr.isatty():
            console = Console(highlight=False) if self._live_on_output else self._error
            # No refreshing thread: children are started from this one.
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()
        elif self._last and self._last.processes and not self._ready:
            self._error.print(table(self._last))

    def show(self, state: State) -> None:
        """Take in what runs now."""
        first_ready = state.ready and not self._ready
        self._ready = self._ready or state.ready
        self._last = state
        if self._live:
            parts: list[Any] = [table(state)]
            if state.ready and self._live_on_output:
                ending = next((e.state for e in state.processes if e.state in ("stopping", "stopped")), "")
                parts.append(Text(ending or ready_line(state), style="" if ending else "bold green"))
            self._live.update(Group(*parts), refresh=True)
        if first_ready:
            if self._live is None:
                self._error.print(table(state))
            if not self._live_on_output:
                sys.stdout.write(ready_line(state) + "\n")
                sys.stdout.flush()

    def tell(self, sentence: str) -> None:
        """One sentence for a person, on standard error."""
        console = self._live.console if self._live and not self._live_on_output else self._error
        console.print(Text(sentence, style="yellow"), soft_wrap=True)
