"""`jetmem topics`, `jetmem topic`: what is talked about, and where."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, call, for_people, refused
from jetmem.console.moments import moment
from jetmem.console.query_commands import After, Agent, Cursor, Limit, Since, Until, WaitMs


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (topics, topic):
        app.command(command.__name__)(command)


def topics(
    tenant: Tenant,
    limit: Limit = None,
    agent: Agent = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List topics, the most important first."""
    import msgspec

    from jetmem.console import tables, topic_tables
    from jetmem_schemas.requests import TopicsReply

    fields = {"limit": limit, "agent": agent, "since": moment(since), "until": moment(until), "cursor": cursor}
    raw = _ask("topics", tenant, fields | {"after": after, "wait_ms": wait_ms}, server, creds)
    if for_people(as_json):
        topic_tables.show_topics(tables.console(), msgspec.json.decode(raw, type=TopicsReply))
    else:
        typer.echo(raw)


def topic(
    tenant: Tenant,
    topic_id: Annotated[str, typer.Argument(metavar="ID", help="Topic id, as `jetmem topics` shows them.")],
    limit: Limit = None,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show one topic: its segments, the latest first, and the topics most like it."""
    import msgspec

    from jetmem.console import tables, topic_tables
    from jetmem_schemas.requests import TopicReply

    fields = {"id": topic_id, "limit": limit, "cursor": cursor, "after": after, "wait_ms": wait_ms}
    raw = _ask("topic", tenant, fields, server, creds)
    if for_people(as_json):
        topic_tables.show_topic(tables.console(), msgspec.json.decode(raw, type=TopicReply))
    else:
        typer.echo(raw)


def _ask(verb: str, tenant: str, fields: dict[str, Any], server: str, creds: str) -> bytes:
    refused(verb, fields)
    return call(server, creds, tenant, lambda client: client.ask(verb, fields))
