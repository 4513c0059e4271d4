"""`jetmem`: the command line. Commands live in `jetmem.console`; nothing heavy is imported before one is chosen.

Exit codes: 0 done, 1 failed, 2 refused (usage, settings, a folder or port in use, a store of another format), 130
interrupted by Ctrl-C or, where work is then told or undone, SIGTERM. An expected problem is one sentence on standard
error, never a traceback.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

import typer

from jetmem.console import (
    demo_command,
    ending,
    load_command,
    operator_commands,
    procedure_command,
    process_commands,
    query_commands,
    server_commands,
    shards_command,
    tenant_commands,
    toc_command,
    top_command,
    topic_command,
    user_commands,
)

app = typer.Typer(
    name="jetmem",
    help="Memory for AI agents, fed by a message queue.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (
    server_commands,
    query_commands,
    toc_command,
    topic_command,
    procedure_command,
    load_command,
    tenant_commands,
    user_commands,
    operator_commands,
    shards_command,
    process_commands,
    top_command,
    demo_command,
):
    commands.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jetmem {metadata.version('jetmem')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Memory for AI agents, fed by a message queue."""


def main() -> None:
    """Run the command line and end the process."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(ending.INTERRUPTED)
    except Exception as error:
        known = ending.expected(error)
        if known is None:
            raise
        typer.echo(f"jetmem: {known[0]}", err=True)
        sys.exit(known[1])
