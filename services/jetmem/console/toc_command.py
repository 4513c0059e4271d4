"""`jetmem toc TENANT`, `browse`, `route`: the table of contents over time, and questions that find their own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console import toc_operations
from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, answered, call, for_people, refused
from jetmem.console.default_group import DefaultGroup
from jetmem.console.moments import FORMS, moment, zone_named
from jetmem.console.query_commands import After, Cursor, Fifty, Ten, WaitMs

if TYPE_CHECKING:
    from datetime import tzinfo

    from rich.tree import Tree

    from jetmem.client import Client
    from jetmem_schemas.requests import TocReply
    from jetmem_schemas.shown import NodeItem

#: Of a line of the tree: title and id at their longest.
_WIDE: Final = 1_000
_SHOW: Final = "show"
Node = Annotated[str | None, typer.Argument(help="Node id, like toc:week:2026-W03; the years if not given.")]


class _Toc(DefaultGroup):
    default = _SHOW


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=_Toc, no_args_is_help=True, help="The table of contents; `jetmem toc TENANT` draws it.")
    group.command(_SHOW)(show)
    toc_operations.register(group)
    app.add_typer(group, name="toc")
    for command in (browse, route):
        app.command(command.__name__)(command)


def show(
    tenant: Tenant,
    node: Node = None,
    depth: Annotated[int, typer.Option(min=0, max=4, help="Levels to draw below; JSON has the node alone.")] = 2,
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="Children to draw of each node.")] = 50,
    version: Annotated[int | None, typer.Option(help="An older version of the node.")] = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Draw the table of contents: years, months, weeks, days, segments; `jetmem toc TENANT` is the same."""
    fields = {"node": node, "version": version, "after": after, "wait_ms": wait_ms}
    refused("toc", fields)
    if for_people(as_json):
        call(server, creds, tenant, lambda client: _draw(client, tenant, fields, depth, most))
    else:
        typer.echo(call(server, creds, tenant, lambda client: client.ask("toc", fields)))


async def _draw(client: Client, tenant: str, fields: dict[str, Any], depth: int, most: int) -> None:
    from msgspec import UnsetType
    from rich.tree import Tree

    from jetmem.console import tables

    reply = await client.toc(**fields)
    zone = zone_named(reply.timezone)
    if isinstance(reply.node, UnsetType):
        tree = Tree(tenant)
        for year in reply.nodes if isinstance(reply.nodes, list) else []:
            await _grow(client, tree, year, zone, depth, most)
    else:
        tree = Tree(tables.node_line(reply.node, zone))
        await _below(client, tree, reply.node, zone, depth, most)
    show_tree(tree, reply)


async def _grow(client: Client, tree: Tree, node: NodeItem, zone: tzinfo, depth: int, most: int) -> None:
    from jetmem.console import tables

    await _below(client, tree.add(tables.node_line(node, zone)), node, zone, depth, most)


async def _below(client: Client, branch: Tree, node: NodeItem, zone: tzinfo, depth: int, most: int) -> None:
    """Bullets of a segment, children of other nodes."""
    from jetmem.console import tables

    if not node.children:
        for line in tables.bullet_lines(node):
            branch.add(line)
    elif depth:
        page = await client.browse(node.id, limit=most)
        for child in page.nodes:
            await _grow(client, branch, child, zone, depth - 1, most)
        if len(node.children) > len(page.nodes):
            branch.add(f"… {len(node.children) - len(page.nodes)} more: jetmem browse {client.tenant} {node.id}")


def show_tree(tree: Tree, reply: TocReply) -> None:
    """Print a tree; ids are never cut."""
    from jetmem.console import tables

    console, wide = tables.console(), tables.console()
    wide.width = _WIDE
    wide.print(tree, no_wrap=True, overflow="ignore", crop=False)
    if not reply.nodes and isinstance(reply.nodes, list):
        console.print("the table of contents is empty; is the name of the tenant spelt right?")
    tables.footer(console, reply)


def browse(
    tenant: Tenant,
    node: Annotated[str, typer.Argument(help="Node id, like toc:week:2026-W03.")],
    limit: Fifty = None,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show the children of a node with their bullets, in order of time."""
    from jetmem.console import tables

    fields = {"node": node, "limit": limit, "cursor": cursor, "after": after, "wait_ms": wait_ms}
    answered("browse", tenant, fields, tables.show_children, as_json, server, creds)


def route(
    tenant: Tenant,
    question: Annotated[str, typer.Argument(help="What to know; time words like `last week` are understood.")],
    limit: Ten = None,
    now: Annotated[
        str | None, typer.Option(help=f"What time words are relative to: {FORMS}; now if not given.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes that a walk may read.", show_default="300")] = None,
    ms: Annotated[int | None, typer.Option(help="Milliseconds that a walk may take.", show_default="1500")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every strategy that was tried, and why.")] = False,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Answer by the strategy that suits the question, and say which; `--explain` and JSON say why."""
    from datetime import datetime

    from jetmem.console import tables

    # where the tenant set no zone, whoever sits at a terminal means his own yesterday
    asked_at = datetime.now().astimezone().isoformat(timespec="seconds") if now is None else moment(now, "--now")
    budget = {name: value for name, value in (("nodes", nodes), ("ms", ms)) if value is not None}
    fields = {"query": question, "limit": limit, "now": asked_at, "budget": budget or None}
    fields |= {"after": after, "wait_ms": wait_ms}
    show = tables.show_route_explained if explain else tables.show_route
    answered("route", tenant, fields, show, as_json, server, creds)
