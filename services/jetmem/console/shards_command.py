"""`jetmem shards`: which shard of persist has how many partitions, and whether a move is over."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console.calling import LOCAL, NO_TENANT, AsJson, Creds, Server, call, fail, for_people

if TYPE_CHECKING:
    from jetmem.client import Client
    from jetmem_schemas.owning import Owners

_STAGE: Final = "persist"
_LOOK_S: Final = 1.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("shards")(shards)


def shards(
    wait_for: Annotated[
        int | None,
        typer.Option(
            help="Wait until every partition is where so many shards have it, and nowhere else.", min=1, max=64
        ),
    ] = None,
    wait_s: Annotated[
        float, typer.Option(help="With --wait-for: seconds to wait at most; then exit code 1.", min=0)
    ] = 3_600.0,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Show which shard of persist has which partitions, and what is still moving."""

    async def work(client: Client) -> dict[str, Any]:
        deadline = time.monotonic() + (wait_s if wait_for else 0)
        while True:
            found = summary(await _table(client), wait_for)
            if not found["waiting"] or time.monotonic() >= deadline:
                return found
            await asyncio.sleep(_LOOK_S)

    found = call(server, creds, NO_TENANT, work)
    typer.echo(sentences(found) if for_people(as_json) else json.dumps(found))
    if wait_for and found["waiting"]:
        fail(f"partitions are not where {wait_for} shards have them: {found['waiting']} are still to come", 1)


async def _table(client: Client) -> Owners:
    from jetmem.adapters.part_owners import read_owners
    from jetmem.client import Unavailable
    from jetmem.runtime.errors import Broken, Retryable

    try:
        return (await read_owners(client.nats, _STAGE))[0]
    except (Retryable, Broken) as error:
        raise Unavailable(str(error)) from error


def summary(table: Owners, wanted: int | None) -> dict[str, Any]:
    """Partitions by owner, those that other stores may still hold some of, and how many are not where they should be.

    Args:
        table: The owners; empty before persist ever ran.
        wanted: So many shards should share them; None if whoever has them is right.
    """
    left = [part for part, line in enumerate(table) if line.left]
    moving = [part for part, line in enumerate(table) if wanted and (line.owner != part % wanted or not line.store)]
    counted = Counter(line.owner for line in table)
    owners = {f"{_STAGE}-{owner}" if owner >= 0 else "nobody": counted[owner] for owner in sorted(counted)}
    return {"owners": owners, "left": left, "waiting": len({*left, *moving}) if table else 64}


def sentences(found: dict[str, Any]) -> str:
    """The same for people."""
    from jetmem.console.tables import count

    if not found["owners"]:
        return "no partition has an owner: persist has not run yet"
    lines = [f"{name}: {count(parts, 'partition')}" for name, parts in found["owners"].items()]
    if found["left"]:
        lines.append(f"{count(len(found['left']), 'partition')} may still be in files of stores they left")
    return "\n".join(lines)
