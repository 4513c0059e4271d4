"""What every command that talks to a broker shares: its options, one sentence for each error, exit codes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

from jetmem.console import ending

if TYPE_CHECKING:
    from jetmem.client import Client, ClientError

T = TypeVar("T")
#: A person waits this long for a broker that is not there.
CONNECT_S: Final = 3.0

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
        # a refusal that names a field is about what was asked, so it is usage, like an option that typer refuses
        fail(f"{error.code}: {error.message}" + (f" (field {error.field})" if error.field else ""), _code(error))


def _code(error: ClientError) -> int:
    return 2 if error.field else 1


def fail(sentence: str, code: int = 1) -> NoReturn:
    """Say one sentence on standard error and end."""
    ending.fail("jetmem", sentence, code)


def for_people(as_json: bool) -> bool:
    """Whether a table is wanted rather than JSON."""
    return not as_json and sys.stdout.isatty()


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal only `--yes` will do."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("not done: there is no terminal to ask on; add --yes", 2)
    if not typer.confirm(question, err=True):
        fail("not done")
