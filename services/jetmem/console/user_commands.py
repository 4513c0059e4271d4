"""`jetmem tenant add|revoke|refresh`: users of tenants at the broker, as files for its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console.calling import AsJson, Tenant, confirm, fail, for_people
from jetmem.console.tenant_commands import tenant_app

if TYPE_CHECKING:
    from jetmem.rights import Role
    from jetmem.users import User, Users

Folder = Annotated[
    Path,
    typer.Option(
        "--users", help="Folder: nats.d/users.conf is for nats-server, keys/ for whoever connects; `compose` for ours."
    ),
]
Agent = Annotated[str | None, typer.Option(help="Its one agent: a writer of it publishes as no other.")]
RoleName = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="owner (publishes, asks, forgets), writer (publishes, asks), reader (asks). "
        "[default: writer with --agent, else owner]",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_RELOAD: Final = "nats-server takes it with a reload: SIGHUP to it, or `docker compose kill -s HUP nats`"


def register(app: typer.Typer) -> None:
    """Add the commands to those of tenants."""
    tenant_app.command("add")(add)
    tenant_app.command("revoke")(revoke)
    tenant_app.command("refresh")(refresh)


def add(tenant: Tenant, users: Folder, agent: Agent = None, role: RoleName = None, as_json: AsJson = False) -> None:
    """Add a user of a tenant: its key, and what it may do in the broker's configuration.

    The first also makes the keys of every stage and of the operator: start them with theirs (`JETMEM_CREDS`) when the
    broker has taken the configuration.
    """
    from jetmem.client.errors import Refused
    from jetmem.users import Users
    from jetmem_schemas.subjects import inbox

    _check(tenant, agent)
    wanted = _role(role) or ("writer" if agent else "owner")
    if agent and wanted == "owner":
        fail("bad_field: an owner is no one agent: leave --agent out, or add a writer or a reader", 2)
    known = Users(users)
    try:
        user, files = known.add(tenant, wanted, agent or "")
    except Refused as error:
        fail(f"{error.code}: {error.message}", 2)
    if not for_people(as_json):
        typer.echo(json.dumps(_told(known, user) | {"inbox_prefix": inbox(user.key)}))
    else:
        typer.echo(f"{user.name}: its key is {files[-1]}, its inbox prefix {inbox(user.key)}")
    _made(files[:-1])


def revoke(
    tenant: Tenant,
    users: Folder,
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    role: Annotated[str | None, typer.Option(help="Only those of this role: owner, writer or reader.")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take users of a tenant out, all or those of an agent or a role; the broker cuts them off when it has reloaded."""
    from jetmem.users import Users

    _check(tenant, agent)
    known, wanted = Users(users), _role(role)
    named = f"users of {tenant}" + (f", agent {agent}" if agent else "") + (f", role {wanted}" if wanted else "")
    confirm(f"Revoke {named}?", yes)
    gone = known.revoke(tenant, wanted, agent)
    if not gone:
        fail(f"not_found: there are no {named} in {known.file}")
    for user in gone:
        typer.echo(f"{user.name} revoked" if for_people(as_json) else json.dumps(_told(known, user)))
    typer.echo(_RELOAD, err=True)


def refresh(users: Folder) -> None:
    """Write what users may do as this version has it, for an upgrade; a stage that has no key yet gets one."""
    from jetmem.client.errors import Refused
    from jetmem.users import Users

    try:
        _made(Users(users).refresh())
    except Refused as error:
        fail(f"{error.code}: {error.message}", 2)


def _made(files: list[Path]) -> None:
    """What there is to do now."""
    if files:
        typer.echo(f"new keys, too: {', '.join(map(str, files))}", err=True)
    typer.echo(_RELOAD, err=True)


def _told(known: Users, user: User) -> dict[str, Any]:
    told = {"tenant": user.tenant, "role": user.role, "agent": user.agent or None, "key": user.key}
    return {"user": user.name, **told, "file": str(known.key_file(user))}


def _check(tenant: str, agent: str | None) -> None:
    from jetmem.client.errors import Refused
    from jetmem.client.sdk import check_tokens

    try:
        check_tokens(tenant, "agent" if agent is None else agent)
    except Refused as error:
        fail(f"{error.code}: {error.message}", 2)


def _role(name: str | None) -> Role | None:
    from jetmem.rights import ROLES

    for role in ROLES:
        if role == name:
            return role
    if name is not None:
        fail(f"bad_field: --role must be {', '.join(ROLES)}; not {name}", 2)
    return None
