"""`jetmem recommend`, `predict`, `procedures`, `procedure`, `related`, `patterns`, `insights`: what runs taught."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any, Final

import typer

from jetmem.console import sharing_command
from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, answered, fail
from jetmem.console.default_group import DefaultGroup
from jetmem.console.query_commands import After, Cursor, WaitMs

Task = Annotated[str, typer.Argument(help="What is to be done, in words.")]
Name = Annotated[str, typer.Argument(help="The procedure's name, as `jetmem procedures` shows it.")]
Context = Annotated[list[str] | None, typer.Option(help="Where: name=value, as runs tell it; may be repeated.")]
ForAgent = Annotated[
    str | None, typer.Option(help="Who asks: where agents differ, its own runs tell what to expect of it.")
]
#: Values that are not text: what JSON writes without quotation marks.
_SCALARS = (bool, int, float, type(None))
_LIST: Final = "list"


class _Procedures(DefaultGroup):
    default = _LIST


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (recommend, predict, procedure, related, patterns, insights):
        app.command(command.__name__)(command)
    told = "What is known of procedures; `jetmem procedures TENANT` lists them."
    group = typer.Typer(cls=_Procedures, no_args_is_help=True, help=told)
    group.command(_LIST)(procedures)
    sharing_command.register(group)
    app.add_typer(group, name="procedures")


def recommend(
    tenant: Tenant,
    task: Task,
    context: Context = None,
    agent: ForAgent = None,
    k: Annotated[int, typer.Option("-k", "--limit", help="How many at most.")] = 5,
    explore: Annotated[str, typer.Option(help="none, or thompson: draw the order, what was seldom tried may lead.")] = (
        "none"
    ),
    seed: Annotated[
        str, typer.Option(help="With --explore thompson: the same one gives the same draw until new runs are learnt.")
    ] = "",
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show what works for a task: procedures by how likely they are to succeed, and why."""
    from jetmem.console import procedure_tables

    fields = {"task": task, "context": _context(context), "agent": agent, "k": k, "after": after, "wait_ms": wait_ms}
    fields |= {"explore": explore, "seed": seed or None}
    answered("recommend", tenant, fields, procedure_tables.show_recommended, as_json, server, creds)


def predict(
    tenant: Tenant,
    task: Task,
    name: Name,
    context: Context = None,
    agent: ForAgent = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show how likely one procedure is to succeed at a task."""
    from jetmem.console import procedure_tables

    fields: dict[str, Any] = {"task": task, "procedure": name, "context": _context(context), "agent": agent}
    fields |= {"after": after, "wait_ms": wait_ms}
    answered("predict", tenant, fields, partial(procedure_tables.show_predicted, name), as_json, server, creds)


def procedures(
    tenant: Tenant,
    sort: Annotated[
        str, typer.Option(help="name, runs, rate or lift (both by their lower bounds) or last (used).")
    ] = "runs",
    state: Annotated[str | None, typer.Option(help="Only fluid ones, or only crystalline (proved) ones.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List procedures with how they did; --sort lift puts those first that surely do best beside the tenant's rate."""
    from jetmem.console import procedure_tables

    fields = {"sort": sort, "state": state, "limit": limit, "cursor": cursor, "after": after, "wait_ms": wait_ms}
    show = partial(procedure_tables.show_procedures, state)
    answered("procedures", tenant, fields, show, as_json, server, creds)


def procedure(
    tenant: Tenant,
    name: Name,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show one procedure: its steps, its latest outcomes, how it does by agent and by context."""
    from jetmem.console import procedure_tables

    fields = {"id": name, "after": after, "wait_ms": wait_ms}
    answered("procedure", tenant, fields, procedure_tables.show_procedure, as_json, server, creds)


def related(
    tenant: Tenant,
    name: Name,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only similar_to, context_related or follows; may be repeated.")
    ] = None,
    hops: Annotated[int, typer.Option(help="How far, 1 to 3.")] = 1,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Draw the procedures that one is related to, the strongest first."""
    from jetmem.console import procedure_tables

    fields = {"id": name, "kinds": kind or None, "hops": hops, "limit": limit, "after": after, "wait_ms": wait_ms}
    answered("related", tenant, fields, partial(procedure_tables.show_related, name), as_json, server, creds)


def patterns(
    tenant: Tenant,
    done: Annotated[list[str] | None, typer.Option(help="A step already done, in order: what comes next?")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Only those of several agents that succeed mostly.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List steps in a row that recur in successful runs, the surest first."""
    from jetmem.console import procedure_tables

    fields: dict[str, Any] = {"done": done or None, "shared": shared or None, "limit": limit, "cursor": cursor}
    fields |= {"after": after, "wait_ms": wait_ms}
    show = partial(procedure_tables.show_patterns, done or [])
    answered("patterns", tenant, fields, show, as_json, server, creds)


def insights(
    tenant: Tenant,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 10,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show clusters of tasks, the largest first: what works and what fails in each."""
    from jetmem.console import procedure_tables

    fields = {"limit": limit, "after": after, "wait_ms": wait_ms}
    answered("insights", tenant, fields, procedure_tables.show_insights, as_json, server, creds)


def _context(given: list[str] | None) -> dict[str, Any] | None:
    """`lang=python`, `retries=3`, `ci=true`: numbers, true, false and null are what they are in JSON, all else text."""
    found: dict[str, Any] = {}
    for each in given or []:
        name, equals, value = each.partition("=")
        if not (name and equals):
            fail(f"--context must be name=value, not {each}", 2)
        found[name] = _scalar(value)
    return found or None


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return text
    return value if isinstance(value, _SCALARS) else text
