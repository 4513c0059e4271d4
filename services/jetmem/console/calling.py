"""What every command that talks to a broker shares: its options, one sentence for each error, exit codes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer

from jetmem.console import ending

if TYPE_CHECKING:
    from rich.console import Console

    from jetmem.client import Client, ClientError
    from jetmem.client.sdk import Connecting

T = TypeVar("T")
#: A person waits this long for a broker that is not there.
CONNECT_S: Final = 3.0

Server = Annotated[str, typer.Option("--server", envvar="JETMEM_SERVER", help="Broker URL; comma-separated.")]
Creds = Annotated[
    str, typer.Option("--creds", envvar="JETMEM_CREDS", help="Key of a user, or NATS credentials: a file.")
]
Tenant = Annotated[str, typer.Argument(help="Whose memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the reply as JSON; also whenever it is piped.")]
LOCAL: Final = "nats://127.0.0.1:4222"
#: Refusals of what was asked that are about no one field.
_USAGE: Final = frozenset({"bad_json", "bad_utf8", "too_deep", "too_large", "empty_forget", "unknown_verb"})
#: What names a field and is no fault of what was asked.
_NOT_USAGE: Final = frozenset({"not_found", "denied"})
#: For commands that are about no tenant in particular; the SDK wants one.
NO_TENANT: Final = "none"


def call(server: str, creds: str, tenant: str, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Connect, do the work, close; an error of the SDK becomes one sentence and exit code 1."""
    from jetmem.client import ClientError

    async def run() -> T:
        async with connecting(server, creds, tenant, "jetmem cli") as client:
            return await client.undenied(work(client))

    try:
        return asyncio.run(run())
    except ClientError as error:
        fail(f"{error.code}: {told(error)}", code_of(error))


def connecting(server: str, creds: str, tenant: str, name: str) -> Connecting:
    """A connection as commands make it: with the key they are given, and no patience for a broker that is away."""
    from jetmem.client import connect

    tls_ca = os.environ.get("JETMEM_TLS_CA")
    return connect(server, tenant=tenant, creds=creds or None, tls_ca=tls_ca, name=name, connect_timeout_s=CONNECT_S)


def refused(verb: str, fields: dict[str, Any]) -> None:
    """End with a usage error if a question would be refused, before anyone is asked it."""
    from jetmem.client import ClientError
    from jetmem.client.questions import encoded

    try:
        encoded(verb, {name: value for name, value in fields.items() if value is not None})
    except ClientError as error:
        fail(f"{error.code}: {told(error)}", 2)


def answered(
    verb: str,
    tenant: str,
    fields: dict[str, Any],
    show: Callable[[Console, Any], None],
    as_json: bool,
    server: str,
    creds: str,
) -> Any:
    """Ask one question and show the reply: people by `show`, programs as it came. Returns it, too."""
    import msgspec

    from jetmem_schemas import requests

    refused(verb, fields)
    raw = call(server, creds, tenant, lambda client: client.ask(verb, fields))
    reply: Any = msgspec.json.decode(raw, type=requests.VERBS[verb][1])
    if for_people(as_json):
        from jetmem.console import tables

        show(tables.console(), reply)
    else:
        typer.echo(raw)
    return reply


def told(error: ClientError) -> str:
    """Its sentence, and what a person at a command line can do about it."""
    from jetmem.client import Unreachable

    hint = "; start one with `jetmem up`, or name another with --server" if isinstance(error, Unreachable) else ""
    # what is missing is told by the sentence; which field of the question named it, no option is called by
    return (error.message if error.code == "not_found" else error.sentence) + hint


def code_of(error: ClientError) -> int:
    """A refusal that names a field is about what was asked, so it is usage, like an option that typer refuses."""
    return 2 if (error.field and error.code not in _NOT_USAGE) or error.code in _USAGE else 1


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
