"""`jetmem publish`, and what became of what was published."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from jetmem.console.calling import LOCAL, AsJson, Creds, Server, Tenant, call, fail, for_people
from jetmem.console.moments import FORMS, earliest, moment, settled

if TYPE_CHECKING:
    from jetmem.client import Client, Receipt

#: A dead letter is told of within this time of what was read with it.
_DEAD_WITHIN_S: Final = 5.0
_ASK_WAIT_MS: Final = 2_000
_ASK_AGAIN_S: Final = 0.2

Tag = Annotated[list[str] | None, typer.Option(help="Tag; may be repeated.")]


def publish(
    tenant: Tenant,
    agent: Annotated[str, typer.Argument(help="Agent token.")],
    session: Annotated[str, typer.Argument(help="Session token.")],
    text: Annotated[str, typer.Argument(help="What was said; - reads standard input.")],
    event_id: Annotated[str | None, typer.Option("--id", help="Unique for ever; made if not given.")] = None,
    role: Annotated[str | None, typer.Option(help="user, assistant, system or tool.")] = None,
    author: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    ts: Annotated[str | None, typer.Option(help=f"When: {FORMS}.")] = None,
    kind: Annotated[str | None, typer.Option(help="message, note, tool_call, …")] = None,
    tag: Tag = None,
    importance: Annotated[float | None, typer.Option(help="0 to 1.")] = None,
    supersedes: Annotated[str | None, typer.Option(help="Id of an event that this corrects.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is recorded, or say why it is not.")] = False,
    timeout: Annotated[float, typer.Option(help="Give up after so many seconds.", min=0.001)] = 30.0,
    as_json: AsJson = False,
    server: Server = LOCAL,
    creds: Creds = "",
) -> None:
    """Publish one event; accepted when it is on the broker's disk.

    What is accepted is recorded at once, or becomes a dead letter if it cannot be: another content was recorded under
    its id, for one. --wait says which, with exit code 1 for a dead letter.
    """
    if text == "-":
        try:
            text = sys.stdin.buffer.read().decode().rstrip("\n")
        except UnicodeDecodeError as error:
            fail(f"bad_utf8: standard input is not UTF-8 at byte {error.start}", 2)
    when = moment(ts, "--ts")
    _check_ahead(earliest(when))
    fields: dict[str, Any] = {"id": event_id, "role": role, "author": author, "ts": earliest(when), "kind": kind}
    fields |= {"tags": tag or None, "importance": importance, "supersedes": supersedes}
    given = {name: value for name, value in fields.items() if value is not None}
    _check(tenant, agent, session, {"text": text, **given} if text else given)
    if when is not None:  # nobody is asked where the tenant is before the rest is right
        given["ts"] = settled(when, tenant, server, creds, or_utc=True)
        _check_ahead(given["ts"])

    async def work(client: Client) -> tuple[Receipt, dict[str, Any]]:
        watch = Watch(client)
        if wait:
            await watch.begin()
        receipt = await client.publish(text, session=session, agent=agent, timeout_s=timeout, **given)
        return receipt, await watch.outcome(receipt, timeout) if wait else {"state": "accepted"}

    receipt, outcome = call(server, creds, tenant, work)
    _tell(receipt, outcome, as_json)
    if outcome["state"] not in ("accepted", "recorded", "repeated"):
        raise typer.Exit(1)


class Watch:
    """Finds out what persist made of one event; `begin` before it is published, as dead letters are told of once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._dead: dict[int, dict[str, Any]] = {}

    async def begin(self) -> None:
        """Listen for dead letters."""
        import msgspec
        from nats.aio.msg import Msg

        from jetmem.client.flushing import flushed
        from jetmem_schemas import subjects

        async def note(msg: Msg) -> None:
            letter = msgspec.json.decode(msg.data)
            self._dead[int(letter["seq"])] = letter

        await self._client.nats.subscribe(subjects.notify(self._client.tenant, "dead_letter"), cb=note)
        await flushed(self._client.nats)

    async def outcome(self, receipt: Receipt, timeout_s: float) -> dict[str, Any]:
        """`state`: recorded, repeated (it was before), dead (with code, message and field), forgotten or unknown."""
        until = time.monotonic() + timeout_s
        passed_at: float | None = None
        while time.monotonic() < until:
            letter = self._dead.get(receipt.seq)
            if letter is not None:
                return {"state": "dead", **{name: letter[name] for name in ("code", "message", "field")}}
            reply = await self._client.get(receipt.id, after=receipt.seq, wait_ms=_ASK_WAIT_MS)
            seqs = [event.seq for event in reply.events]
            if receipt.seq in seqs:
                return {"state": "recorded"}
            if reply.fresh.get("record", 0) >= receipt.seq:
                passed_at = passed_at or time.monotonic()
                if time.monotonic() - passed_at > _DEAD_WITHIN_S:
                    return {"state": "repeated", "first": seqs[0]} if seqs else {"state": "forgotten"}
            await asyncio.sleep(_ASK_AGAIN_S)
        return {"state": "unknown"}


def _tell(receipt: Receipt, outcome: dict[str, Any], as_json: bool) -> None:
    import msgspec

    state = outcome["state"]
    if not for_people(as_json):
        typer.echo(msgspec.json.encode(msgspec.structs.asdict(receipt) | outcome))
        return
    typer.echo(f"accepted {receipt.id} as {receipt.seq}")
    said = {
        "accepted": "",
        "recorded": "recorded",
        "repeated": f"recorded before, as {outcome.get('first')}; nothing was added",
        "forgotten": "not recorded: this id was forgotten, and stays so",
        "dead": f"not recorded, a dead letter: {outcome.get('code')}: {outcome.get('message')}",
        "unknown": "not known yet whether it is recorded: persist has not read it, or does not answer",
    }[state]
    if said:
        typer.echo(said, err=state not in ("recorded", "repeated"))


def _check(tenant: str, agent: str, session: str, event: dict[str, Any]) -> None:
    """Refuse what would never be stored before anyone is asked; the SDK checks the same when it publishes."""
    from jetmem.client import Outgoing, Refused
    from jetmem.client.ids import Ids
    from jetmem.client.outgoing import prepare

    try:
        prepare(Outgoing(event=event, session=session), tenant, agent, Ids())
    except Refused as error:
        fail(f"{error.code}: {error.sentence}", 2)


def _check_ahead(when: str | int | None) -> None:
    """Refuse here what would be accepted and then be a dead letter; what is no time at all is refused by the SDK."""
    import msgspec

    from jetmem_schemas import events
    from jetmem_schemas.errors import SchemaError

    if when is None:
        return
    try:
        at = events.epoch_ms(msgspec.convert(when, events.Time), "ts")
    except (msgspec.ValidationError, SchemaError):
        return
    if at > time.time() * 1000 + events.FUTURE_MS_MAX:
        hours = events.FUTURE_MS_MAX // 3_600_000
        fail(f"bad_time: ts must be no more than {hours} hours ahead, not {events.rfc3339(at)}", 2)
