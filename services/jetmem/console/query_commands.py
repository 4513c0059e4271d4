"""`jetmem search`, `get`, `expand`, `timeline`, `sessions`, `agents`, `status`, `publish`, `forget`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, answered, confirm, fail
from jetmem.console.moments import FORMS, moment, settled, span
from jetmem.console.publish_command import Tag, publish

if TYPE_CHECKING:
    from rich.console import Console

_LIMIT: Final = "How many at most."
Ten = Annotated[int | None, typer.Option(help=_LIMIT, show_default="10")]
Twenty = Annotated[int | None, typer.Option(help=_LIMIT, show_default="20")]
Fifty = Annotated[int | None, typer.Option(help=_LIMIT, show_default="50")]
Cursor = Annotated[str | None, typer.Option(help="Go on where the last page ended.")]
Agent = Annotated[str | None, typer.Option(help="Only of this agent.")]
Session = Annotated[str | None, typer.Option(help="Only of this session.")]
Author = Annotated[str | None, typer.Option(help="Only what this one said.")]
Kind = Annotated[list[str] | None, typer.Option(help="Only of this kind; may be repeated.")]
Role = Annotated[list[str] | None, typer.Option(help="Only of this role; may be repeated.")]
Since = Annotated[str | None, typer.Option(help=f"From this time on: {FORMS}.")]
Until = Annotated[str | None, typer.Option(help="Before this time, given likewise.")]
After = Annotated[int | None, typer.Option(help="Wait for what was published up to this sequence.")]
WaitMs = Annotated[int | None, typer.Option(help="How many milliseconds to wait for --after.", show_default="0")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (search, get, expand, timeline, sessions, agents, status, publish, forget):
        app.command(command.__name__)(command)


def search(
    tenant: Tenant,
    question: Annotated[str, typer.Argument(help="What to look for.")],
    mode: Annotated[str, typer.Option(help="hybrid, text or vector.")] = "hybrid",
    target: Annotated[str, typer.Option(help="events, nodes (of the table of contents) or both.")] = "events",
    limit: Ten = None,
    agent: Agent = None,
    session: Session = None,
    author: Author = None,
    kind: Kind = None,
    role: Role = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    around: Annotated[int | None, typer.Option(help="Neighbours to show with each hit.", show_default="0")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each hit was ranked by.")] = False,
    salience: Annotated[float | None, typer.Option(help="Weight of what matters whatever is asked, 0 to 1.")] = None,
    half_life: Annotated[
        float | None, typer.Option(help="Days in which an event loses half of what age takes.")
    ] = None,
    supersede: Annotated[
        bool | None, typer.Option("--supersede/--no-supersede", help="Lower what newer hits say again.")
    ] = None,
    fold: Annotated[bool | None, typer.Option("--fold/--no-fold", help="Show near-duplicates as one hit.")] = None,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Find what was said, or where the table of contents tells of it, by words and by meaning."""
    options = {"salience": salience, "age_half_life_days": half_life, "supersede": supersede, "fold": fold}
    fields = {
        **_filters(agent, session, author, kind, role, tag, since, until),
        "query": question,
        "mode": mode,
        "target": target,
        "limit": limit,
        "around": around,
        "cursor": cursor,
        "explain": explain or None,
        "rank": {name: value for name, value in options.items() if value is not None} or None,
        "after": after,
        "wait_ms": wait_ms,
    }
    _ask("search", tenant, fields, as_json, server, creds)


def get(
    tenant: Tenant,
    ids: Annotated[list[str], typer.Argument(help="Event ids.")],
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show events by their ids."""
    _ask("get", tenant, {"ids": ids, "after": after, "wait_ms": wait_ms}, as_json, server, creds)


def expand(
    tenant: Tenant,
    event_id: Annotated[str | None, typer.Argument(metavar="ID", help="Event id.")] = None,
    grip: Annotated[str | None, typer.Option(help="Instead of an event: a grip, as `jetmem toc` shows them.")] = None,
    before_events: Annotated[int | None, typer.Option(help="Events before it.", show_default="3")] = None,
    after_events: Annotated[int | None, typer.Option(help="Events after it.", show_default="3")] = None,
    within_minutes: Annotated[int | None, typer.Option(help="No further away than this.", show_default="30")] = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show one event, or the very words behind a grip, with what came before and after."""
    near = {"before_events": before_events, "after_events": after_events, "within_minutes": within_minutes}
    if (event_id is None) == (grip is None):
        fail("one of ID, --grip is needed", 2)
    _ask("expand", tenant, {"id": event_id, "grip": grip, **near}, as_json, server, creds)


def timeline(
    tenant: Tenant,
    limit: Fifty = None,
    order: Annotated[str, typer.Option(help="desc or asc.")] = "desc",
    agent: Agent = None,
    session: Session = None,
    author: Author = None,
    kind: Kind = None,
    role: Role = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show events in the order of their time, the latest first."""
    fields = {
        **_filters(agent, session, author, kind, role, tag, since, until),
        "limit": limit,
        "order": order,
        "cursor": cursor,
        "after": after,
        "wait_ms": wait_ms,
    }
    _ask("timeline", tenant, fields, as_json, server, creds)


def sessions(
    tenant: Tenant,
    limit: Fifty = None,
    agent: Agent = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List sessions, the latest first."""
    fields = {
        "limit": limit,
        "agent": agent,
        **span(since, until),
        "cursor": cursor,
    }
    _ask("sessions", tenant, fields, as_json, server, creds)


def agents(
    tenant: Tenant,
    limit: Fifty = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List agents, the latest first."""
    fields = {"limit": limit, **span(since, until), "cursor": cursor}
    _ask("agents", tenant, fields, as_json, server, creds)


def status(tenant: Tenant, as_json: AsJson = False, server: Server = LOCAL, creds: Creds = "") -> None:
    """Show how far each stage is for a tenant."""
    _ask("status", tenant, {}, as_json, server, creds)


def forget(
    tenant: Tenant,
    ids: Annotated[list[str] | None, typer.Option("--id", "--ids", help="Event id; may be repeated.")] = None,
    agent: Annotated[str | None, typer.Option(help="All of this agent.")] = None,
    session: Annotated[str | None, typer.Option(help="With --agent: only this session.")] = None,
    author: Annotated[str | None, typer.Option(help="All that this one said.")] = None,
    before: Annotated[str | None, typer.Option(help=f"All before this time: {FORMS}.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything of the tenant.")] = False,
    reason: Annotated[str, typer.Option(help="Why; recorded.")] = "",
    state: Annotated[int | None, typer.Option(help="How far the forget recorded under this sequence is.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Erase for ever what one selector covers; with --state, say how far an earlier forget is."""
    selector: dict[str, Any] = {"ids": [i for each in ids or [] for i in each.split(",")] or None}
    selector |= {"agent": agent, "session": session, "author": author, "before": moment(before, "--before")}
    chosen = {name: value for name, value in selector.items() if value is not None} | (
        {"all": True} if everything else {}
    )
    if state is not None:
        if chosen:
            fail("--state goes with no selector; nothing was erased", 2)
        _ask("forget", tenant, {"seq": state}, as_json, server, creds)
        return
    if not chosen:
        fail("one of --id, --agent, --author, --before, --all is needed; nothing was erased", 2)
    _check_selector(chosen)
    if before is not None:
        chosen["before"] = settled(chosen["before"], tenant, server, creds, or_utc=False)
    confirm(f"Erase for ever {_erased(chosen)} of tenant {tenant}?", yes)
    _ask("forget", tenant, {**chosen, "reason": reason or None}, as_json, server, creds)


def _check_selector(chosen: dict[str, Any]) -> None:
    """Before anyone is asked whether to erase it: what is no selector must not look like one."""
    if "session" in chosen and "agent" not in chosen:
        fail("--session needs --agent beside it; nothing was erased", 2)
    ways = [name for name in ("ids", "agent", "author", "before", "all") if name in chosen]
    if len(ways) > 1:
        fail(f"only one selector is allowed, not {' and '.join(ways)}; nothing was erased", 2)


def _erased(chosen: dict[str, Any]) -> str:
    """What a forget selects, as one says it."""
    if "ids" in chosen:
        ids = chosen["ids"]
        return f"event or run {ids[0]}" if len(ids) == 1 else f"{len(ids)} events or runs"
    if "agent" in chosen:
        session = f" in session {chosen['session']}" if "session" in chosen else ""
        return f"everything of agent {chosen['agent']}{session}"
    if "author" in chosen:
        return f"everything that {chosen['author']} said"
    return "everything" if chosen.get("all") else f"everything before {chosen.get('before')}"


def _filters(
    agent: str | None,
    session: str | None,
    author: str | None,
    kind: list[str] | None,
    role: list[str] | None,
    tag: list[str] | None,
    since: str | None,
    until: str | None,
) -> dict[str, Any]:
    fields = {"agent": agent, "session": session, "author": author, "kind": kind or None, "role": role or None}
    return {**fields, "tags": tag or None, **span(since, until)}


def _ask(verb: str, tenant: str, fields: dict[str, Any], as_json: bool, server: str, creds: str) -> None:
    show = partial(_show, verb, str(fields.get("id") or ""))
    reply = answered(verb, tenant, fields, show, as_json, server, creds)
    if verb == "get" and not reply.events:
        raise typer.Exit(1)


def _show(verb: str, at: str, console: Console, reply: Any) -> None:
    from jetmem.console import tables

    shows: dict[str, Callable[[], None]] = {
        "search": lambda: tables.show_hits(console, reply),
        "get": lambda: tables.show_events(console, reply.events, reply),
        "timeline": lambda: tables.show_events(console, reply.events, reply),
        "expand": lambda: tables.show_expanded(console, reply, at),
        "sessions": lambda: tables.show_sessions(console, reply),
        "agents": lambda: tables.show_agents(console, reply),
        "status": lambda: tables.show_status(console, reply),
        "forget": lambda: tables.show_forget(console, reply),
    }
    shows[verb]()
