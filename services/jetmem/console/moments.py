"""Times as people give them, and as they read them: on the clock of the tenant, whose zone is said once.

The query service knows whose clock that is: it understands times without an offset by it, and names it in its replies.
"""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import TYPE_CHECKING, Final

import typer

from jetmem.console.calling import call, fail

if TYPE_CHECKING:
    from jetmem.client import Client

#: For the help of options.
FORMS: Final = (
    "2026-01-15, 2026-01-15T09:30 (the tenant's clock unless it ends in Z or +01:00), epoch ms, or 2h, 7d ago"
)
_AGO: Final = re.compile(r"(\d{1,9})([smhdw])(?: ago)?")
#: A date without its dashes, or a part of one, which is none; as epoch ms all were the first day of 1970.
_SHORT: Final = re.compile(r"(?:19|20)\d\d(?:(?:0[1-9]|1[0-2])(?:\d\d)?)?")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FURTHEST: Final = timezone(timedelta(hours=14))
#: How long a command waits to hear of the tenant's zone.
_ASK_S: Final = 3.0


def moment(text: str | None, option: str) -> str | int | None:
    """A time as people give it, as requests take it; what is none ends the command with a usage error."""
    if text is None:
        return None
    if not _SHORT.fullmatch(text) and re.fullmatch(r"-?\d+", text):
        return int(text)
    ago = _AGO.fullmatch(text)
    if ago:
        return int((time.time() - int(ago[1]) * _UNIT_S[ago[2]]) * 1000)
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        fail(f"bad_time: {option} must be a time, like {FORMS}; not {text[:64]!r}", 2)


def span(since: str | None, until: str | None) -> dict[str, str | int | None]:
    """Both ends as `moment` understands them."""
    return {"since": moment(since, "--since"), "until": moment(until, "--until")}


def earliest(when: str | int | None) -> str | int | None:
    """A time of `moment` without an offset where clocks are furthest ahead; others as they are."""
    if not isinstance(when, str) or (floating := datetime.fromisoformat(when)).tzinfo is not None:
        return when
    return floating.replace(tzinfo=_FURTHEST).isoformat()


def settled(when: str | int | None, tenant: str, server: str, creds: str, *, or_utc: bool) -> str | int | None:
    """A time of `moment` without an offset, where the tenant is: for what must be said before it is sent.

    Args:
        when: As `moment` understood it; others stay as they are.
        tenant: Whose clock.
        server: Of the command.
        creds: Of the command.
        or_utc: If the query service does not answer, take it for UTC and say so, rather than fail.
    """
    if not isinstance(when, str) or (floating := datetime.fromisoformat(when)).tzinfo is not None:
        return when
    zone, why = call(server, creds, tenant, zone_told)
    if why and not or_utc:
        fail(f"{why}, and {when} means no moment without it; add Z for UTC, or an offset")
    if why:
        typer.echo(f"jetmem: {when} is taken for UTC, as {why}", err=True)
    return floating.replace(tzinfo=zone).isoformat()


def zone_named(name: str) -> tzinfo:
    """The zone that a reply names, an IANA name or an offset like UTC+02:00; UTC if this machine does not know it."""
    from jetmem_schemas.errors import SchemaError
    from jetmem_schemas.tenants import zone_of

    with contextlib.suppress(SchemaError):
        return UTC if name == "UTC" else zone_of(name)
    with contextlib.suppress(ValueError):
        offset = datetime.strptime(name, "UTC%z").utcoffset()
        return timezone(offset) if offset else UTC
    return UTC


async def zone_told(client: Client) -> tuple[tzinfo, str]:
    """Where the tenant is, as the query service says it; UTC if it does not answer, and why, or "" if it does."""
    from jetmem.client import ClientError

    try:
        return zone_named((await client.status(timeout_s=_ASK_S)).timezone), ""
    except ClientError as error:
        return UTC, f"the tenant's time zone cannot be asked for ({error.code})"


def when(stamp: str, zone: tzinfo) -> str:
    """`2026-01-15T09:30:00.000Z` as `2026-01-15 10:30:00` in Amsterdam; with its offset in an hour that comes twice."""
    try:
        moment = datetime.fromisoformat(stamp).astimezone(zone)
    except (ValueError, OverflowError):  # beyond the calendar there
        return "".join(c if c.isprintable() else " " for c in stamp)
    twice = moment.utcoffset() != moment.replace(fold=1 - moment.fold).utcoffset()
    return moment.isoformat(" ", "seconds")[: None if twice else 19]
