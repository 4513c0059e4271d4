"""`jetmem dead-letters list|show|redrive|drop`, `jetmem trim`, `jetmem rebuild index`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console.calling import LOCAL, NO_TENANT, AsJson, Creds, Server, call, confirm, fail, for_people

if TYPE_CHECKING:
    from jetmem.client import Client
    from jetmem.console.dead_letters import Dead

#: How long a stage may take to begin a trim or a rebuild.
_BEGIN_S: Final = 30.0
_ASK_EVERY_S: Final = 0.5

Code = Annotated[str | None, typer.Option(help="Only with this code.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]
Seq = Annotated[list[int] | None, typer.Option(help="Sequence on DEAD; may be repeated.")]
Every = Annotated[bool, typer.Option("--all", help="All of them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

dead_letters = typer.Typer(help="What could not be recorded.", no_args_is_help=True)
rebuild = typer.Typer(help="Make a projection anew from the record.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dead_letters, name="dead-letters")
    app.add_typer(rebuild, name="rebuild")
    app.command("trim")(trim)


@dead_letters.command("list")
def list_(
    code: Code = None,
    tenant: OfTenant = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 100,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List dead letters, the oldest first; as JSON one object a line."""
    from jetmem.console.dead_letters import find

    async def work(client: Client) -> list[Dead]:
        return [dead async for dead in find(client.nats, code=code, tenant=tenant, limit=limit)]

    found = call(server, creds, NO_TENANT, work)
    if not for_people(as_json):
        for dead in found:
            typer.echo(json.dumps(dead.summary()))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("seq", "when", "code", "tenant", "field", "reason", "subject", "bytes")
    for dead in found:
        row = dead.summary()
        names = ("seq", "time", "code", "tenant", "field", "reason", "subject", "bytes")
        table.add_row(*(escape(str(row[name])) for name in names))
    Console().print(table)


@dead_letters.command()
def show(
    seq: Annotated[int, typer.Argument(help="Sequence on DEAD.")],
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show one dead letter with its payload; bytes that are not UTF-8 are escaped."""
    from jetmem.console.dead_letters import find

    async def work(client: Client) -> Dead | None:
        return await anext(find(client.nats, seqs=[seq]), None)

    dead = call(server, creds, NO_TENANT, work)
    if dead is None:
        fail(f"not_found: no dead letter {seq}")
    payload = dead.payload.decode(errors="backslashreplace")
    whole = {**dead.summary(), "headers": dead.headers, "payload": payload}
    typer.echo(json.dumps(whole, ensure_ascii=True, indent=2 if for_people(as_json) else None))


@dead_letters.command()
def redrive(
    code: Code = None,
    tenant: OfTenant = None,
    seq: Seq = None,
    every: Every = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Publish again under the original subject, id and time; what is refused again comes back as a new dead letter."""
    from jetmem.console.dead_letters import erase, find, publish_again

    _selected(code, tenant, seq, every)

    async def work(client: Client) -> int:
        count = 0
        async for dead in find(client.nats, code=code, tenant=tenant, seqs=seq):
            await publish_again(client.nats, dead)
            await erase(client.nats, dead)
            count += 1
        return count

    typer.echo(f"{call(server, creds, NO_TENANT, work)} redriven")


@dead_letters.command()
def drop(
    code: Code = None,
    tenant: OfTenant = None,
    seq: Seq = None,
    every: Every = False,
    yes: Yes = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Erase dead letters for ever."""
    from jetmem.console.dead_letters import erase, find

    _selected(code, tenant, seq, every)

    async def count(client: Client) -> int:
        return len([1 async for _ in find(client.nats, code=code, tenant=tenant, seqs=seq)])

    async def work(client: Client) -> int:
        dropped = 0
        async for dead in find(client.nats, code=code, tenant=tenant, seqs=seq):
            await erase(client.nats, dead)
            dropped += 1
        return dropped

    if not yes:
        confirm(f"Erase {call(server, creds, NO_TENANT, count)} dead letters for ever?", yes)
    typer.echo(f"{call(server, creds, NO_TENANT, work)} dropped")


def trim(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Have persist remove from MEMORY what is recorded and older than the kept window."""
    answers = call(server, creds, NO_TENANT, lambda c: _stage(c, "persist", "trim", {"dry_run": dry_run}))
    typer.echo(json.dumps(answers, default=str))


@rebuild.command()
def index(
    tenant: Annotated[str, typer.Option(help="Whose status tells the progress.")] = NO_TENANT,
    wait: Annotated[bool, typer.Option(help="Wait until it has caught up.")] = True,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Empty the index and fill it from the record; questions are answered from what is there meanwhile."""

    async def work(client: Client) -> None:
        typer.echo(json.dumps(await _stage(client, "index", "rebuild", {}), default=str), err=True)
        if wait:
            await _caught_up(client)

    call(server, creds, tenant, work)
    typer.echo("rebuilt" if wait else "begun")


async def _caught_up(client: Client) -> None:
    from jetmem.client import TimedOut, Unavailable

    said = ""
    while True:
        try:
            reply = await client.status()
            mine = [stage for stage in reply.stages if stage.stage == "index"]
            if mine and reply.pending_vectors == 0 and all(stage.state == "ok" for stage in mine):
                return
            states = ", ".join(stage.state for stage in mine) or "no answer"
            text = f"index: {states}, {reply.pending_vectors} texts without vector"
        except (Unavailable, TimedOut) as error:
            text = f"waiting: {error.message}"
        if text != said:
            said = text
            typer.echo(text, err=True)
        await asyncio.sleep(_ASK_EVERY_S)


async def _stage(client: Client, stage: str, verb: str, body: dict[str, Any]) -> Any:
    """Ask a stage to do something; its answer, whatever it holds."""
    import msgspec
    import nats.errors

    from jetmem.client import RequestRefused, TimedOut, Unavailable
    from jetmem_schemas import requests, subjects

    subject = subjects.service(stage, "all", verb)
    try:
        msg = await client.nats.request(subject, msgspec.msgpack.encode(body), timeout=_BEGIN_S)
    except nats.errors.NoRespondersError:
        raise Unavailable(f"{stage} is not running, or not on this broker") from None
    except nats.errors.TimeoutError:
        raise TimedOut(f"{stage} did not answer {verb} within {_BEGIN_S:g} s") from None
    headers = msg.headers or {}
    if requests.ERROR_CODE_HEADER in headers:
        raise RequestRefused(headers[requests.ERROR_CODE_HEADER], headers.get(requests.ERROR_HEADER, ""))
    return msgspec.msgpack.decode(msg.data) if msg.data else {}


def _selected(code: str | None, tenant: str | None, seq: list[int] | None, every: bool) -> None:
    if not (code or tenant or seq or every):
        fail("one of --code, --tenant, --seq, --all is needed", 2)
    if every and (code or tenant or seq):
        fail("--all goes with no other selector", 2)
