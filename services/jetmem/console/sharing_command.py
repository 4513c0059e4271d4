"""`jetmem procedures export|merge`: counts shared between tenants and deployments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, call, fail, for_people
from jetmem.console.operator_commands import ask_stage

if TYPE_CHECKING:
    from jetmem.client import Client
    from jetmem.domain.procedures.federation import Export

_STAGE: Final = "learn"
#: Pages of one export are asked for in a row; erasing, or many exports at once, make it begin again.
_TRIES: Final = 5

Out = Annotated[Path | None, typer.Option("--out", help="Write it to this file; else it is printed.")]
Files = Annotated[list[Path], typer.Argument(help="What export or merge wrote.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for command in (export, merge):
        group.command(command.__name__)(command)


def export(
    tenant: Tenant,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats", help="Counts of runs and successes. Has to be said: it is what leaves, and all that can."
        ),
    ] = False,
    source: Annotated[str, typer.Option(help="What these counts are to be called; else as the tenant is.")] = "",
    epsilon: Annotated[
        float | None, typer.Option(help="Add Laplace noise that hides any one run; smaller hides better.")
    ] = None,
    out: Out = None,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Write each procedure's name with its runs and successes, as JSON to be merged with that of others.

    They are the parameters of what is thought of its rate: Beta(successes + 1, runs - successes + 1).
    Names of procedures leave, even with noise; no task, step, failure, lesson, context or agent does. Each export of
    other runs, or with another epsilon, adds its own epsilon to what is told of one run.
    """
    from jetmem.console import sharing_files, tables
    from jetmem.domain.procedures.federation import taken

    if not stats:
        fail("say what is to be exported: --stats, counts of runs and successes, is all that can be", 2)
    name = source or tenant
    sharing_files.check_asked(name, epsilon)

    async def work(client: Client) -> tuple[Export, int]:
        return await _exported(client, tenant, name, epsilon or 0.0)

    found, left_out = call(server, creds, tenant, work)
    if not found.procedures:
        fail(f"not_found: no run of {tenant} names a procedure; is the tenant's name spelt right?")
    sharing_files.put(sharing_files.text_of(taken(found)), out)
    many = tables.count(len(found.procedures), "procedure")
    typer.echo(f"{many} of {tenant} as {name}, up to entry {found.version:,}", err=True)
    if left_out:
        typer.echo(f"{left_out:,} more were left out, the last by name", err=True)


def merge(
    files: Files,
    median: Annotated[
        bool, typer.Option("--median", help="Take the middle rate, which few that lie cannot move; else the mean.")
    ] = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Put exports together, and show what all of them say of each procedure.

    Of each source the latest export counts, however often and in whatever order files are merged. No source is worth
    more than 200 runs of a procedure or, among three, twice what the middle one has. A source is who it says it is.
    """
    from jetmem.console import sharing_files, sharing_tables, tables
    from jetmem.domain.procedures.federation import How

    how: How = "median" if median else "mean"
    merged, replaced = sharing_files.merged(files)
    for sentence in replaced:
        typer.echo(sentence, err=True)
    text = sharing_files.text_of(merged, how)
    if out is not None:
        sharing_files.put(text, out)
    if for_people(as_json):
        sharing_tables.show_merged(tables.console(), merged, how)
    elif out is None or as_json:
        typer.echo(text)


async def _exported(client: Client, tenant: str, source: str, epsilon: float) -> tuple[Export, int]:
    """The whole export, and how many procedures were too many.

    Raises:
        ClientError: As questions raise it.
    """
    from jetmem.client import RequestRefused

    for _ in range(_TRIES - 1):
        try:
            return await _pages(client, tenant, source, epsilon)
        except RequestRefused as error:
            if error.code != "bad_cursor":
                raise
    return await _pages(client, tenant, source, epsilon)


async def _pages(client: Client, tenant: str, source: str, epsilon: float) -> tuple[Export, int]:
    import msgspec

    from jetmem.domain.procedures.federation import Export, Shared
    from jetmem_schemas.sharing import ExportReply, ExportRequest
    from jetmem_schemas.subjects import partition_of

    found: dict[str, Shared] = {}
    asked = ExportRequest(tenant, source, epsilon)
    while True:
        answer = await ask_stage(client, _STAGE, "export", asked, place=partition_of(tenant))
        reply = msgspec.convert(answer, ExportReply)
        found |= {name: Shared(runs, successes) for name, runs, successes in reply.procedures}
        if not reply.more:
            return Export(source, reply.version, found, epsilon), reply.left_out
        asked = msgspec.structs.replace(asked, version=reply.version, start=len(found))
