"""`jetmem toc rebuild|pause|resume`: nodes made again, or not made for a while."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console import ending
from jetmem.console.calling import LOCAL, NO_TENANT, AsJson, Creds, Server, call, fail, for_people
from jetmem.console.operator_commands import ask_stage
from jetmem.console.tenant_commands import in_bucket

if TYPE_CHECKING:
    from jetmem.adapters.tenant_settings import Bucket
    from jetmem.client import Client

STAGE: Final = "summarize"
_LOOK_EVERY_S: Final = 0.1
#: A dry run makes every node; some thousand a second.
_DRY_RUN_S: Final = 3_600.0
#: How long a stage may be away, restarting, before who waits for it gives up.
_AWAY_S: Final = 60.0

OneOrAll = Annotated[str | None, typer.Argument(help="Of whom; everyone if not given.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for command in (rebuild, pause, resume):
        group.command(command.__name__)(command)


def rebuild(
    tenant: Annotated[str | None, typer.Argument(help="Whose nodes.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of every tenant.")] = False,
    first: Annotated[str, typer.Option("--from", help="From this day on, like 2026-01-15, with all above.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be made, and change.")] = False,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Make nodes of the table of contents again from what is segmented; what says the same is not published again.

    A dry run counts a node above one that would change as one that would. Interrupted, the stage goes on by itself.
    """
    if (tenant is None) != every:
        fail("one of TENANT, --all is needed", 2)
    _check_day(first)

    async def work(client: Client) -> None:
        tenants = [tenant] if tenant is not None else await _everyone(client)
        for name in tenants:
            await _rebuild(client, name, first, dry_run, for_people(as_json))
        if not tenants:
            typer.echo("nothing is segmented of any tenant", err=True)

    try:
        call(server, creds, tenant or NO_TENANT, work)
    except KeyboardInterrupt:
        going_on = "nothing was changed" if dry_run else f"what was asked for so far goes on in {STAGE}"
        typer.echo(f"jetmem: interrupted; {going_on}", err=True)
        raise typer.Exit(ending.INTERRUPTED) from None


def _check_day(first: str) -> None:
    from datetime import date

    try:
        if first:
            date.fromisoformat(first)
    except ValueError:
        fail(f"--from must be a day like 2026-01-15; not {first}", 2)


async def _everyone(client: Client) -> list[str]:
    from jetmem_schemas.subjects import PARTITIONS

    found: list[str] = []
    for place in range(PARTITIONS):
        found += (await ask_stage(client, STAGE, "tenants", {}, place=place))["tenants"]
    return sorted(found)


async def _rebuild(client: Client, tenant: str, first: str, dry_run: bool, people: bool) -> None:
    from jetmem_schemas.remaking import RemakeRequest
    from jetmem_schemas.subjects import partition_of

    request = RemakeRequest(tenant, first, dry_run)
    place = partition_of(tenant)
    if dry_run:
        async with _spinner(f"rehearsing {tenant}", people):
            reply = await ask_stage(client, STAGE, "remake", request, place=place, wait_s=_DRY_RUN_S)
        _show_dry(tenant, first, reply, people)
        return
    reply = await ask_stage(client, STAGE, "remake", request, place=place)
    asked = 0 if reply["paused"] else await _until_made(client, tenant, place, people)
    if not people:
        told = {"tenant": tenant, "from": first or None, "paused": reply["paused"], "made": asked}
        typer.echo(json.dumps(told | {"dry_run": False}))
    elif reply["paused"]:
        typer.echo(f"{tenant} is paused: its nodes are made again after `jetmem toc resume`")
    else:
        from jetmem.console.tables import count

        typer.echo(f"{tenant}: {count(asked, 'node')} made again" if asked else _nothing(tenant, first))


@asynccontextmanager
async def _spinner(text: str, people: bool) -> AsyncIterator[None]:
    if not people:
        yield
        return
    from jetmem.console import tables

    with tables.console(stderr=True).status(text):
        yield


async def _until_made(client: Client, tenant: str, place: int, people: bool) -> int:
    """Wait until the stage has made what was asked for; how many nodes that was."""
    from rich.progress import Progress

    from jetmem.console import tables

    with Progress(console=tables.console(stderr=True), disable=not people, transient=True) as progress:
        task = progress.add_task(tenant, total=None)
        while True:
            left, asked = await _left(client, tenant, place)
            if not left:
                return asked
            progress.update(task, total=max(asked, left), completed=max(0, asked - left))
            await asyncio.sleep(_LOOK_EVERY_S)


async def _left(client: Client, tenant: str, place: int) -> tuple[int, int]:
    """Nodes still to be made, and those that were asked for; a stage that restarts goes on where it was.

    Raises:
        ClientError: It is away for good.
    """
    from jetmem.client import TimedOut, Unavailable

    loop = asyncio.get_running_loop()
    until = loop.time() + _AWAY_S
    while True:
        try:
            counts = (await ask_stage(client, STAGE, "status", {"tenant": tenant}, place=place))["counts"]
            return 0 if counts["paused"] else int(counts["remaking"]), int(counts["remake_asked"])
        except (Unavailable, TimedOut):
            if loop.time() > until:
                raise
        await asyncio.sleep(_LOOK_EVERY_S)


def _show_dry(tenant: str, first: str, reply: dict[str, Any], people: bool) -> None:
    levels = {level: {"made": made, "changed": changed} for level, (made, changed) in reply["levels"].items()}
    if not people:
        told = {"tenant": tenant, "from": first or None, "paused": reply["paused"], "levels": levels, "dry_run": True}
        typer.echo(json.dumps(told))
        return
    from jetmem.console import tables

    if not any(counts["made"] for counts in levels.values()):
        typer.echo(_nothing(tenant, first))
        return
    typer.echo(f"{tenant}, by level; nothing was changed:")
    table = tables.lines("level", ">would be made again", ">would change")
    for level, counts in levels.items():
        table.add_row(level, f"{counts['made']:,}", f"{counts['changed']:,}")
    tables.console().print(table)


def _nothing(tenant: str, first: str) -> str:
    """Why nothing is made again."""
    if first:
        return f"{tenant} has no nodes from {first} on"
    return f"{tenant} has nothing in the table of contents; is the name spelt right?"


def pause(tenant: OneOrAll = None, server: Server = LOCAL, creds: Creds = "") -> None:
    """Make no nodes for a while; what is said is still segmented, and what is forgotten still goes at once."""
    _set_paused(tenant, True, server, creds)
    typer.echo(f"paused: {tenant or 'everyone'}; `jetmem toc resume{' ' + tenant if tenant else ''}` goes on")


def resume(tenant: OneOrAll = None, server: Server = LOCAL, creds: Creds = "") -> None:
    """Make nodes again."""
    still = _set_paused(tenant, False, server, creds)
    typer.echo(f"resumed: {tenant or 'everyone'}")
    if still:
        typer.echo(f"still paused: {', '.join(still)}", err=True)


def _set_paused(tenant: str | None, paused: bool, server: str, creds: str) -> list[str]:
    """Set it; who else keeps nodes from being made."""
    from jetmem_schemas.tenants import EVERYONE

    async def work(bucket: Bucket) -> list[str]:
        await bucket.change(tenant or EVERYONE, {"toc_paused": paused})
        if paused:
            return []
        every = {name for name, value in (await bucket.every()).items() if _paused(value)}
        if tenant is None:
            return sorted(every)
        return ["everyone (jetmem toc resume)"] if EVERYONE in every else []

    return in_bucket(server, creds, tenant or NO_TENANT, work)


def _paused(value: bytes) -> bool:
    """Whether settings say so; what stages cannot read either says nothing."""
    from jetmem_schemas.errors import SchemaError
    from jetmem_schemas.tenants import decode

    try:
        return decode(value).toc_paused
    except SchemaError:
        return False
