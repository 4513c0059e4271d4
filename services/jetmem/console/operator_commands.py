"""`jetmem dead-letters list|show|redrive|drop`, `jetmem trim`, `jetmem rebuild STAGE`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console.calling import LOCAL, NO_TENANT, AsJson, Creds, Server, call, confirm, fail, for_people
from jetmem.console.moments import when

if TYPE_CHECKING:
    from jetmem.client import Client
    from jetmem.console.dead_letters import Dead

#: How long a stage may take to begin a trim or a rebuild.
_BEGIN_S: Final = 30.0
_ASK_EVERY_S: Final = 0.5
#: A stage that is to begin anew ends first, within a drain; it is away for a second at least.
_GOES_WITHIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.05
#: One that is paused has caught up as far as it may.
_WELL: Final = ("ok", "paused")

Code = Annotated[str | None, typer.Option(help="Only with this code.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]
Seq = Annotated[list[int] | None, typer.Option(help="Sequence on DEAD; may be repeated.")]
Every = Annotated[bool, typer.Option("--all", help="All of them.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

dead_letters = typer.Typer(help="What could not be recorded.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(dead_letters, name="dead-letters")
    app.command("rebuild")(rebuild)
    app.command("trim")(trim)


@dead_letters.command("list")
def list_(
    code: Code = None,
    tenant: OfTenant = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 100,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """List dead letters, the oldest first; as JSON one object a line."""
    from jetmem.console.dead_letters import find

    _check_code(code)

    async def work(client: Client) -> list[Dead]:
        return [dead async for dead in find(client.nats, code=code, tenant=tenant, limit=limit)]

    found = call(server, creds, NO_TENANT, work)
    if not for_people(as_json):
        for dead in found:
            typer.echo(json.dumps(dead.summary()))
        return
    from jetmem.console import tables

    names = ("seq", "time", "code", "tenant", "field", "reason", "subject", "bytes")
    shown_as = {"seq": ">seq", "time": "time (UTC)", "bytes": ">bytes"}  # letters of many tenants, so on no one's clock
    table = tables.lines(*(shown_as.get(name, name) for name in names))
    for row in (dead.summary() for dead in found):
        shown = row | {"time": when(row["time"], UTC)}
        table.add_row(*(tables.clean(str(shown[name])) for name in names))
    tables.console().print(table if found else "no dead letters")


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
    from jetmem.console.dead_letters import erase, find, persist_runs, publish_again

    _selected(code, tenant, seq, every)

    async def work(client: Client) -> int:
        count = 0
        await persist_runs(client.nats)  # or letters would be published again that cannot be erased
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
    """Erase dead letters for ever, and the refused messages that they carry."""
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
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Have persist remove from MEMORY what is recorded and older than the kept window."""
    answers = call(server, creds, NO_TENANT, lambda c: ask_stage(c, "persist", "trim", {"dry_run": dry_run}, place=0))
    typer.echo(_trimmed(answers) if for_people(as_json) else json.dumps(answers, default=str))


def _trimmed(answer: dict[str, Any]) -> str:
    """What a trim did, or would do."""
    from jetmem.console.tables import count

    if not answer["removed"]:
        return f"nothing to trim: MEMORY holds {answer['first']:,} to {answer['last']:,}, {answer['bytes']:,} bytes"
    verb = "would be removed" if answer["dry_run"] else "removed"
    return f"{count(answer['removed'], 'message')} {verb} from MEMORY; kept from sequence {answer['keep_from']:,} on"


def rebuild(
    stage: Annotated[str, typer.Argument(help="A projection of the record; a wrong one lists them all.")],
    tenant: Annotated[str | None, typer.Option(help="Wait for the vectors of this tenant too.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it has caught up.")] = True,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Empty a projection and fill it from the record; questions are answered from what is there meanwhile."""
    from jetmem import flow

    names = [each.name for each in flow.projections()]
    if stage not in names:
        fail(f"{stage} is no projection of the record; {', '.join(names)} can be rebuilt", 2)

    async def work(client: Client) -> None:
        await ask_stage(client, stage, "rebuild", {})
        typer.echo(f"{stage} begins anew and reads the whole record", err=True)
        if wait:
            await _gone(client, stage)
            await _caught_up(client, stage)

    call(server, creds, tenant or NO_TENANT, work)
    typer.echo("rebuilt" if wait else "begun")


async def _gone(client: Client, stage: str) -> None:
    """Wait until the process that was asked has ended: until then it is as well as before."""
    from jetmem.client import TimedOut, Unavailable

    with contextlib.suppress(TimeoutError, TimedOut, Unavailable):
        async with asyncio.timeout(_GOES_WITHIN_S):
            while True:
                await ask_stage(client, stage, "status", {})
                await asyncio.sleep(_LOOK_EVERY_S)


async def _caught_up(client: Client, stage: str) -> None:
    from jetmem import flow
    from jetmem.client import TimedOut, Unavailable

    embeds = "vector" in flow.stage(stage).arms
    said = ""
    while True:
        try:
            reply = await client.status()
            mine = [each for each in reply.stages if each.stage == stage]
            pending = reply.pending_vectors if embeds else 0
            if mine and not pending and all(each.state in _WELL for each in mine):
                return
            states = ", ".join(each.state for each in mine) or "no answer"
            text = f"{stage}: {states}" + (f", {pending} texts without vector" if embeds else "")
        except (Unavailable, TimedOut) as error:
            text = f"waiting: {error.message}"
        if text != said:
            said = text
            typer.echo(text, err=True)
        await asyncio.sleep(_ASK_EVERY_S)


async def ask_stage(
    client: Client, stage: str, verb: str, body: Any, *, place: int | str = "all", wait_s: float = _BEGIN_S
) -> Any:
    """Ask a stage, or whoever owns a partition of it, to do something; its answer, whatever it holds.

    Raises:
        ClientError: As questions raise it.
    """
    from jetmem.adapters.nats_ask import ask
    from jetmem.client.errors import of_reply
    from jetmem.runtime.errors import RequestFailed
    from jetmem_schemas import subjects

    try:
        return await ask(client.nats, subjects.service(stage, place, verb), body, Any, wait_s)
    except RequestFailed as error:
        raise of_reply(error.code, error.message, error.field) from error


def _check_code(code: str | None) -> None:
    """One that is misspelt must not look like one that has no letters."""
    from jetmem_schemas.errors import DEAD_CODES

    if code is not None and code not in DEAD_CODES:
        fail(f"--code must be {', '.join(DEAD_CODES)}; not {code}", 2)


def _selected(code: str | None, tenant: str | None, seq: list[int] | None, every: bool) -> None:
    _check_code(code)
    if not (code or tenant or seq or every):
        fail("one of --code, --tenant, --seq, --all is needed", 2)
    if every and (code or tenant or seq):
        fail("--all goes with no other selector", 2)
