"""`jetmem load`, `jetmem runs load`."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from jetmem.console import ending
from jetmem.console.calling import LOCAL, NO_TENANT, Creds, Server, code_of, connecting, fail, told

if TYPE_CHECKING:
    from jetmem.loading import Arm, Kind, Loader, Report, Source

#: Bad lines that are told one by one; the rest is counted.
BAD_TOLD_MAX: Final = 20
#: Without a terminal, how often a line says how far it is.
_SAY_EVERY_S: Final = 5.0
_UNREAD_TOLD_MAX: Final = 10
_AGAIN: Final = "run it again, that begins at line 1: nothing is stored twice"


#: Until when to wait, and the arm that says so.
_WAITS: Final[dict[Kind, dict[str, Arm | None]]] = {
    "event": {"stored": None, "text": "text", "vector": "vector"},
    "run": {"stored": None, "learnt": "procedures"},
}

_Told = AbstractContextManager[Callable[["Report"], None]]
File = Annotated[str, typer.Argument(help="FILE.jsonl or FILE.jsonl.gz; - reads standard input.")]
GiveUp = Annotated[float, typer.Option(help="Seconds without progress; inf for never.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("load")(load)
    runs = typer.Typer(no_args_is_help=True, help="Runs of procedures.")
    runs.command("load")(load_runs)
    runs.callback()(lambda: None)  # so that `load` stays a command of its own though it is the only one
    app.add_typer(runs, name="runs")


def load(
    file: File,
    wait: Annotated[str, typer.Option(help="stored, text or vector: until when to wait.")] = "stored",
    give_up: GiveUp = 300.0,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Load lines {"tenant","agent","session","event":{…}}.

    The same file may be loaded again: nothing is stored twice. A bad line is reported and the rest goes on; the
    exit code is then 1. Ended by Ctrl-C or SIGTERM it says what is acknowledged, and the exit code is 130. Compressed
    with gzip or not is seen from the first bytes.
    """
    _load("event", file, wait, give_up, server, creds)


def load_runs(
    file: File,
    wait: Annotated[str, typer.Option(help="stored or learnt: until when to wait.")] = "stored",
    give_up: GiveUp = 300.0,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Load lines {"tenant","agent","session","run":{…}}.

    As `jetmem load` does events: nothing is stored twice, a bad line is reported and the rest goes on with exit code 1.
    """
    _load("run", file, wait, give_up, server, creds)


def _load(kind: Kind, file: str, wait: str, give_up: float, server: str, creds: str) -> NoReturn:
    from jetmem.client import ClientError
    from jetmem.console import temporary
    from jetmem.loading import GaveUp, LoadError, Source
    from jetmem_schemas import wording

    if wait not in _WAITS[kind]:
        fail(f"--wait must be {wording.listed(list(_WAITS[kind]), 'or')}, not {wait}", 2)
    if not give_up > 0:  # so written, nan is refused too
        fail(f"--give-up must be a number of seconds above 0, or inf for never, not {give_up:g}", 2)
    work = _Work(kind, wait, give_up if math.isfinite(give_up) else None, server, creds)
    try:
        with Source(file) as source:
            temporary.run(work.run(source))
    except OSError as error:
        fail(f"{file} cannot be opened: {error.strerror}", 2)
    except KeyboardInterrupt:
        work.summary("interrupted; loaded again it begins at line 1, and nothing is stored twice")
        raise typer.Exit(ending.INTERRUPTED) from None
    except GaveUp as error:
        work.summary(f"gave up: {error}; all is on disk and will be found when that is over")
        raise typer.Exit(1) from None
    except LoadError as error:
        hint = "what comes before is loaded; the file has to be mended or made again" if error.damaged else _AGAIN
        work.summary(f"stopped: {error}; {hint}")
        raise typer.Exit(1) from None
    except ClientError as error:
        work.summary(f"stopped: {told(error)}" + (f"; {_AGAIN}" if work.begun else ""))
        raise typer.Exit(code_of(error)) from None
    work.summary("")
    raise typer.Exit(1 if work.bad else 0)


class _Work:
    """One run of the command, and what it says."""

    def __init__(self, kind: Kind, wait: str, give_up_s: float | None, server: str, creds: str) -> None:
        self._kind: Kind = kind
        self._arm = _WAITS[kind][wait]
        self._give_up_s = give_up_s
        self._server = server
        self._creds = creds
        self._loader: Loader | None = None
        self._said = time.monotonic()
        self._seen = ""
        self._say = _say

    @property
    def begun(self) -> bool:
        """Whether anything may be stored."""
        return self._loader is not None

    @property
    def bad(self) -> int:
        """Bad lines so far."""
        return 0 if self._loader is None else self._loader.report.bad

    async def run(self, source: Source) -> None:
        """Connect, load, wait."""
        from jetmem.loading import Loader, wait_fresh

        async with connecting(self._server, self._creds, NO_TENANT, "jetmem load") as client:
            with self._bar(source) as moved:
                self._loader = Loader(client, on_bad=self._on_bad, on_stored=moved, kind=self._kind)
                report = await self._loader.run(source, self._give_up_s)
            for tenant, seq in report.last_seqs.items():
                if self._arm is not None:
                    await wait_fresh(client, tenant, seq, self._arm, self._on_waiting, timeout_s=self._give_up_s)

    def summary(self, ending: str) -> None:
        """The last lines on standard error."""
        if self.bad > BAD_TOLD_MAX:
            self._say(f"{self.bad - BAD_TOLD_MAX} more bad lines")
        if self._loader is not None:
            report = self._loader.report
            rate = report.stored / report.seconds if report.seconds else 0.0
            self._say(
                f"{report.stored:,} {self._kind}s acknowledged in {report.seconds:.3g} s ({rate:,.0f}/s), "
                f"{report.bad:,} bad lines, last sequence {report.last_seq}; "
                "what was recorded before is not stored again"
            )
            if report.unread:
                self._say(f"fields that mean nothing: {_counted(report.unread, self._kind)}")
        if ending:
            self._say(ending)

    def _bar(self, source: Source) -> _Told:
        if not sys.stderr.isatty():
            return nullcontext(self._on_stored)
        bar = _Bar(source, self._kind)
        self._say = bar.say
        return bar

    def _on_bad(self, number: int, code: str, reason: str) -> None:
        if self.bad <= BAD_TOLD_MAX:
            self._say(f"line {number}: {code}: {reason}")

    def _on_stored(self, report: Report) -> None:
        if time.monotonic() - self._said >= _SAY_EVERY_S:
            self._said = time.monotonic()
            self._say(f"{report.stored} {self._kind}s acknowledged ({report.stored / report.seconds:.0f}/s)")

    def _on_waiting(self, tenant: str, pending: int, obstacle: str) -> None:
        whats = {"text": "words", "vector": "vectors", "procedures": "what is learnt"}
        lack = "" if self._arm == "text" else f": {pending:,} texts"
        seen = f"waiting for {whats[self._arm or 'text']} of {tenant}{lack}" + (f"; {obstacle}" if obstacle else "")
        news = seen != self._seen and sys.stderr.isatty()
        if news or time.monotonic() - self._said >= _SAY_EVERY_S:
            self._said, self._seen = time.monotonic(), seen
            self._say(seen)


def _counted(unread: Counter[str], kind: str) -> str:
    """`athor (2 events), bogus (1)`: the most frequent first."""
    shown = [f"{name} ({number})" for name, number in unread.most_common(_UNREAD_TOLD_MAX)]
    shown[0] = shown[0].removesuffix(")") + (f" {kind}s)" if unread.most_common(1)[0][1] != 1 else f" {kind})")
    more = len(unread) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


class _Bar:
    """A progress bar on standard error; calling what it gives moves it."""

    def __init__(self, source: Source, kind: Kind) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._source = source
        self._kind = kind
        columns = (SpinnerColumn(), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))

    def __enter__(self) -> Callable[[Report], None]:
        self._progress.start()
        task = self._progress.add_task("connecting", total=self._source.total)

        def moved(report: Report) -> None:
            rate = report.stored / report.seconds if report.seconds else 0.0
            told = f"{report.stored:,} {self._kind}s  {rate:,.0f}/s" + (f"  {report.bad} bad" if report.bad else "")
            self._progress.update(task, completed=self._source.position, description=told)

        return moved

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Say something above the bar while it is there; after it, on the next line."""
        self._progress.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _say(text: str) -> None:
    typer.echo(text, err=True)
