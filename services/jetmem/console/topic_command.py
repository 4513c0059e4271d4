"""`jetmem topics`, `jetmem topic`: what is talked about, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, answered
from jetmem.console.moments import span
from jetmem.console.query_commands import After, Agent, Cursor, Since, Twenty, Until, WaitMs


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (topics, topic):
        app.command(command.__name__)(command)


def topics(
    tenant: Tenant,
    limit: Twenty = None,
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
    from jetmem.console import topic_tables

    fields = {
        "limit": limit,
        "agent": agent,
        **span(since, until),
        "cursor": cursor,
    }
    fields |= {"after": after, "wait_ms": wait_ms}
    answered("topics", tenant, fields, topic_tables.show_topics, as_json, server, creds)


def topic(
    tenant: Tenant,
    topic_id: Annotated[str, typer.Argument(metavar="ID", help="Topic id, as `jetmem topics` shows them.")],
    limit: Twenty = None,
    cursor: Cursor = None,
    after: After = None,
    wait_ms: WaitMs = None,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show one topic: its segments, the latest first, and the topics most like it."""
    from jetmem.console import topic_tables

    fields = {"id": topic_id, "limit": limit, "cursor": cursor, "after": after, "wait_ms": wait_ms}
    answered("topic", tenant, fields, topic_tables.show_topic, as_json, server, creds)
