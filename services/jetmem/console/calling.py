"""What every command that talks to a broker shares: its options, one sentence for each error, exit codes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from jetmem.client import Client

T = TypeVar("T")
#: A person waits this long for a broker that is not there.
CONNECT_S: Final = 3.0
#: Ended by Ctrl-C, as shells have it.
INTERRUPTED: Final = 130

Server = Annotated[str, typer.Option("--server", envvar="JETMEM_SERVER", help="Broker URL; comma-separated.")]
Creds = Annotated[str, typer.Option("--creds", envvar="JETMEM_CREDS", help="NATS credentials file.")]
Tenant = Annotated[str, typer.Argument(help="Whose memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the reply as JSON; also whenever it is piped.")]
LOCAL: Final = "nats://127.0.0.1:4222"
#: For commands that are about no tenant in particular; the SDK wants one.
NO_TENANT: Final = "none"


def call(server: str, creds: str, tenant: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do the work, close; an error of the SDK becomes one sentence and exit code 1."""
    from jetmem.client import ClientError, connect

    async def run() -> T:
        async with connect(
            server, tenant=tenant, creds=creds or None, name="jetmem cli", connect_timeout_s=CONNECT_S
        ) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except ClientError as error:
        fail(f"{error.code}: {error.message}" + (f" (field {error.field})" if error.field else ""))


def fail(sentence: str, code: int = 1) -> NoReturn:
    """Say one sentence on standard error and end."""
    typer.echo(f"jetmem: {sentence}", err=True)
    raise typer.Exit(code)


def for_people(as_json: bool) -> bool:
    """Whether a table is wanted rather than JSON."""
    return not as_json and sys.stdout.isatty()


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal only `--yes` will do."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("not done: there is no terminal to ask on; add --yes", 2)
    if not typer.confirm(question):
        fail("not done")
