"""`jetmem top`: what every process does just now, live on a terminal, one snapshot elsewhere."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from jetmem.console.calling import AsJson, fail, for_people
from jetmem.console.server_commands import Data
from jetmem_schemas import subjects

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from jetmem.console.top_figures import Look, Snapshot, Spread, StageFigures

#: Rates are over so long at most: a burst is seen, and stays long enough to be read.
_WINDOW_S: Final = 10.0
At = Annotated[
    list[str] | None,
    typer.Option(help="HTTP address of a process (http://HOST:PORT), may be repeated; else what runs on --data."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top")(top)


def top(
    data: Data = None,
    at: At = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600)] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show rates, lag, freshness, the slowest verbs and last errors of every process, until interrupted.

    As JSON it looks twice and prints one snapshot. Rates are of the last ten seconds, latencies too, or since the start
    where nothing was asked since.
    """
    from jetmem.console import configuration

    root = configuration.data_root(data, os.environ)
    processes = _named(at) if at else _running(root)
    asyncio.run(_live(processes, every) if for_people(as_json) else _once(processes, every))


def _named(at: list[str]) -> dict[str, tuple[str, int]]:
    """Host and port by what the user called it."""
    found = {}
    for address in at:
        try:
            parts = urlsplit(address if "//" in address else f"http://{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port:
            fail(f"--at {address} is no address like http://127.0.0.1:8080", 2)
        found[f"{host}:{port}"] = (host, port)
    return found


def _running(root: Any) -> dict[str, tuple[str, int]]:
    """The stages that a supervisor says it runs."""
    from jetmem import flow
    from jetmem.adapters.data_folder import DataFolder
    from jetmem.adapters.nats_server import LOOPBACK

    state = DataFolder(root).supervisor()
    if state is None:
        fail(f"nothing runs on {root}; start it with `jetmem up`, or name processes with --at http://HOST:PORT")
    return {each.name: (LOOPBACK, each.http_port) for each in state.processes if each.name in flow.NAMES}


async def _look(processes: dict[str, tuple[str, int]]) -> dict[str, Look]:
    from jetmem.adapters.http_health import told
    from jetmem.console.top_figures import Look, read

    async def one(host: str, port: int) -> Look:
        health, text = await told(port, host=host)
        return Look(time.monotonic(), health, read(text))

    looks = await asyncio.gather(*(one(host, port) for host, port in processes.values()))
    return dict(zip(processes, looks, strict=True))


async def _once(processes: dict[str, tuple[str, int]], every_s: float) -> None:
    import msgspec

    from jetmem.console.top_figures import snapshot

    before = await _look(processes)
    await asyncio.sleep(every_s)
    typer.echo(msgspec.json.format(msgspec.json.encode(snapshot(before, await _look(processes)))).decode())


async def _live(processes: dict[str, tuple[str, int]], every_s: float) -> None:
    from rich.live import Live

    from jetmem.console import tables
    from jetmem.console.top_figures import snapshot

    looks = deque([await _look(processes)], maxlen=max(1, round(_WINDOW_S / every_s)))
    with Live(console=tables.console(), auto_refresh=False, screen=sys.stdout.isatty()) as live:
        while True:
            now = await _look(processes)
            live.update(view(snapshot(looks[0], now), live.console.height), refresh=True)
            looks.append(now)
            await asyncio.sleep(every_s)


def view(snap: Snapshot, height: int | None = None) -> Group:
    """For people: processes, what is wrong with them, freshness, verbs; with a height, as much as has room."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(_head(snap), style="yellow" if snap.degraded or snap.dead_letters else "dim"), ""]
    said = _said(snap)
    parts += [_processes(snap), *([""] if said else []), *said]
    left = math.inf if height is None else height - 3 - len(snap.stages) - len(said) - bool(said)
    for title, spreads in (("freshness", snap.freshness), ("slowest verbs", snap.verbs)):
        rows = spreads[: int(max(0, min(left - 2, len(spreads))))]
        if rows:
            parts += ["", _spread_table(title, rows)]
            left -= 2 + len(rows)
    return Group(*parts)


def _said(snap: Snapshot) -> list[Text]:
    """What processes say of how they are, a line each: first who is unhealthy, last what is over."""
    from rich.text import Text

    from jetmem.console import tables

    wrong = [(each, each.detail, "red") for each in snap.stages if not each.healthy]
    notes = [(each, each.detail, "yellow") for each in snap.stages if each.healthy and each.detail not in ("", "ok")]
    past = [(each, each.last_error, "dim") for each in snap.stages if each.last_error]
    lines = ((f"{_name(each)}: {tables.clean(text)}", style) for each, text, style in (*wrong, *notes, *past))
    return [Text(line, style, no_wrap=True, overflow="ellipsis") for line, style in lines]


def _processes(snap: Snapshot) -> Any:
    from rich.text import Text

    apart = any(each.process != each.stage for each in snap.stages)
    shared = any(each.served not in (None, subjects.PARTITIONS) or each.moving for each in snap.stages)
    columns = ["process", *(["at"] if apart else []), "health", ">per s", ">behind", ">s behind"]
    shown = _table(*columns, *(["partitions"] if shared else []))
    for each in snap.stages:
        mark = Text("ok" if each.healthy else "unhealthy", style="green" if each.healthy else "red")
        rate = "-" if each.rate is None else f"{each.rate:,.1f}"
        cells = [_name(each), *([each.process] if apart else []), mark, rate, f"{each.lag:,}", f"{each.lag_s:,.1f}"]
        shown.add_row(*cells, *([_held(each)] if shared else []))
    return shown


def _name(each: StageFigures) -> str:
    return each.stage if each.shard is None else f"{each.stage}-{each.shard}"


def _held(each: StageFigures) -> str:
    moving = f", {each.moving} moving" if each.moving else ""
    return "" if each.served is None else f"{each.served}{moving}"


def _table(*columns: str) -> Any:
    """One line a row, whatever is in it."""
    from rich.table import Table

    from jetmem.console import tables

    made = Table(box=None, pad_edge=False, header_style="bold")
    return tables.add_columns(made, columns, no_wrap=True, overflow="ellipsis")


def _spread_table(title: str, spreads: list[Spread]) -> Any:
    shown = _table(title, ">count", ">p50", ">p99", "")
    for each in spreads:
        since = "since the start" if each.since_start else ""
        shown.add_row(each.name, f"{each.count:,}", _seconds(each.p50_s), _seconds(each.p99_s), since)
    return shown


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _head(snap: Snapshot) -> str:
    dead = "?" if snap.dead_letters is None else f"{snap.dead_letters:,}"
    parts = [f"last {snap.window_s:g} s", f"{dead} dead letters"]
    parts += [f"{share:.1%} of answers without {arm}" for arm, share in snap.degraded.items()]
    return " · ".join(parts)
