"""`jetmem tenant set|show|list`: what holds for one tenant, durable and known to every stage that it concerns.

Its users are in `user_commands`; `list` shows both.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from jetmem.console.calling import LOCAL, NO_TENANT, AsJson, Creds, Server, Tenant, call, fail, for_people
from jetmem.console.moments import when, zone_told
from jetmem.console.operator_commands import ask_stage

if TYPE_CHECKING:
    from jetmem.adapters.tenant_settings import Bucket
    from jetmem.client import Client

T = TypeVar("T")
Pairs = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE",
        help="`timezone=Europe/Amsterdam`, `retention=offered` (or `off`), `retention.segment=30`; `timezone=` unsets.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Of a retention: only say what it would do, and change nothing.")
]
#: A dry run reads every node of the tenant.
_DRY_RUN_S: Final = 600.0

tenant_app = typer.Typer(help="Settings of tenants.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tenant_app, name="tenant")


@tenant_app.command("set")
def set_(
    tenant: Tenant,
    pairs: Pairs,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Change settings of a tenant; running stages follow at once, nodes move to their new days by and by.

    After a change of the time zone days, segments and grips have other ids, where they lie on another day.

    With a retention nodes of the table of contents leave the index so many days after they arrived; they stay recorded,
    and are found by walking.
    """
    from jetmem_schemas import tenants
    from jetmem_schemas.errors import SchemaError

    try:
        changes = tenants.parsed(pairs)
    except SchemaError as error:
        fail(f"{error.code}: {error.message}", 2)
    if dry_run:
        _rehearse(server, creds, tenant, changes, for_people(as_json))
        return
    value, revision = in_bucket(server, creds, tenant, lambda bucket: bucket.change(tenant, changes))
    _show(tenant, value, revision, as_json)


def _rehearse(server: str, creds: str, tenant: str, changes: dict[str, Any], people: bool) -> None:
    """Say what a retention would do, level by level."""
    from jetmem_schemas import tenants
    from jetmem_schemas.retention import RetentionRequest
    from jetmem_schemas.subjects import partition_of

    if any(key.partition(".")[0] != "retention" for key in changes):
        fail("bad_field: --dry-run is of a retention alone", 2)

    async def would(bucket: Bucket) -> tenants.Retention:
        value, _ = await bucket.get(tenant)
        return tenants.decode(tenants.changed(value, changes)).retention

    request = RetentionRequest(tenant, in_bucket(server, creds, tenant, would))
    ask = partial(ask_stage, stage="index", verb="retention", body=request, place=partition_of(tenant))
    reply = call(server, creds, tenant, lambda client: ask(client, wait_s=_DRY_RUN_S))
    levels = {level: _level(counts) for level, counts in reply["levels"].items()}
    if not people:
        typer.echo(json.dumps({"tenant": tenant, "dry_run": True, "levels": levels}))
        return
    from jetmem.console import tables

    zone, _ = call(server, creds, tenant, zone_told)
    next_leaves = f"next leaves ({zone})"
    counts = (">in the index", ">out of it", ">would leave", ">would come back")
    table = tables.lines(tenant, ">kept for", *counts, next_leaves)
    for level, told in levels.items():
        kept = f"{told['days']:,} days" if told["days"] else "ever"
        numbers = (f"{told[name]:,}" for name in ("indexed", "out", "leaving", "returning"))
        table.add_row(level, kept, *numbers, when(told["next"], zone) if told["next"] else "")
    tables.console().print(table)


def _level(counts: dict[str, Any]) -> dict[str, Any]:
    """As programs read it; `days` 0 is for ever, `next` null never."""
    from jetmem_schemas.events import rfc3339

    told = dict(counts)
    next_ms = told.pop("next_ms")
    return told | {"next": None if next_ms is None else rfc3339(next_ms)}


@tenant_app.command()
def show(tenant: Tenant, as_json: AsJson = False, server: Server = LOCAL, creds: Creds = "") -> None:
    """Show the settings of a tenant, with the defaults where it set nothing."""
    value, revision = in_bucket(server, creds, tenant, lambda bucket: bucket.get(tenant))
    _show(tenant, value, revision, as_json, _place(tenant, value, server, creds) if for_people(as_json) else "")


def _place(tenant: str, value: bytes, server: str, creds: str) -> str:
    """Where a tenant that set no time zone is taken to be; "" if the query service does not say."""
    if "timezone" in _known(value):
        return ""
    zone, why = call(server, creds, tenant, zone_told)
    return "" if why else str(zone)


@tenant_app.command("list")
def list_(
    users: Annotated[
        Path | None, typer.Option(help="Folder that `jetmem tenant add` wrote to: list its users, too.")
    ] = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List tenants with users or settings of their own; as JSON one object a line. `_` is what holds for all."""
    from jetmem_schemas.tenants import EVERYONE

    values = in_bucket(server, creds, NO_TENANT, lambda bucket: bucket.every())
    found = {tenant: known for tenant, value in values.items() if (known := _known(value))}
    named = _users(users) if users else {}
    every = sorted({*found, *named})
    if not for_people(as_json):
        for tenant in every:
            line = {"tenant": tenant, "settings": found.get(tenant, {})}
            typer.echo(json.dumps(line | ({"users": named.get(tenant, [])} if users else {})))
        return
    from jetmem.console import tables

    table = tables.lines("tenant", *(["users"] if users else []), "settings of its own")
    for tenant in every:
        own = ", ".join(f"{name} {_told(name, told)}" for name, told in found.get(tenant, {}).items())
        row = [", ".join(named.get(tenant, []))] if users else []
        table.add_row("every tenant" if tenant == EVERYONE else tenant, *row, tables.clean(own))
    nobody = "no tenant has users or settings of its own" if users else "no tenant has settings of its own"
    tables.console().print(table if every else nobody)


def _users(folder: Path) -> dict[str, list[str]]:
    """By tenant, its users: the role, with the agent if it is one's."""
    from jetmem.users import Users

    named: dict[str, list[str]] = {}
    for user in Users(folder).read():
        if user.tenant:
            named.setdefault(user.tenant, []).append(f"{user.agent}:{user.role}" if user.agent else user.role)
    return named


def in_bucket(server: str, creds: str, tenant: str, work: Callable[[Bucket], Awaitable[T]]) -> T:
    """Do something with the settings of tenants; what goes wrong is one sentence."""

    async def run(client: Client) -> T:
        from jetmem.adapters.tenant_settings import Bucket
        from jetmem.client.errors import of_reply
        from jetmem.runtime.errors import RequestFailed
        from jetmem_schemas.errors import SchemaError

        try:
            return await work(Bucket(client.nats))
        except (RequestFailed, SchemaError) as error:
            raise of_reply(error.code, error.message) from error

    return call(server, creds, tenant, run)


def _known(value: bytes) -> dict[str, Any]:
    """What is set, also by a newer version; unreadable ones as they are."""
    try:
        found = json.loads(value or b"{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):  # somebody else wrote it
        return {"unreadable": value.decode(errors="backslashreplace")}
    return found


def _told(name: str, value: Any) -> str:
    """A setting as people say it."""
    if name == "retention" and isinstance(value, dict):
        return ", ".join(f"{level}s {days:,} days" for level, days in value.items()) or "off"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)


def _show(tenant: str, value: bytes, revision: int, as_json: bool, place: str = "") -> None:
    """All settings of a tenant; `place` is where it is taken to be if it set no time zone."""
    known = _known(value)
    if not for_people(as_json):
        typer.echo(json.dumps({"tenant": tenant, "revision": revision, "settings": known}))
        return
    from jetmem.console import tables

    defaults = {"timezone": place or "that of the installation", "toc_paused": "no", "retention": "off"}
    undo = {"toc_paused": f"  (`jetmem toc resume {tenant}` goes on)"}
    table = tables.lines("setting", "value")
    for name in dict.fromkeys((*defaults, *known)):
        told = _told(name, known[name]) + undo.get(name, "") if name in known else f"{defaults[name]}  (default)"
        table.add_row(tables.clean(name), tables.clean(told))
    tables.console().print(table)
