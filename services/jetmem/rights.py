"""Who may do what at the broker: every stage by what the flow says of it, every user of a tenant by its role.

What is not named is refused. Stages and streams are in one account of the broker, all tenants' users in another, which
imports no more than agents need (decision 0023): a stream's interface, settings and what stages say to each other are
not there to be asked, whatever place an agent names for its answers.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from jetmem import flow
from jetmem_schemas import subjects
from jetmem_schemas.requests import ERASING

Role = Literal["owner", "writer", "reader"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
#: The account of stages, streams and operators.
SERVICES: Final = "jetmem"
#: The account of every tenant's users.
AGENTS: Final = "agents"
#: For people who operate it, and what manages streams: everything in the account of the stages.
OPERATOR: Final = "operator"

#: What the account of the stages offers to that of the agents, and no more: requests, and what is only heard.
REQUESTS: Final = (*(subjects.said("*", kind) for kind in subjects.AGENT_KINDS), subjects.QUERY_ALL)
HEARD: Final = (subjects.NOTIFY_ALL,)
#: What is published on those in the account of the agents itself, and to where nobody listens it goes instead. Only an
#: answer can be: a server checks no right of a publisher to the place that it names for one, in its own account.
LED_AWAY: Final = {subjects.NOTIFY_ALL: subjects.NOT_NOTIFIED}

_ANY: Final = "*"
_ALL: Final = ">"
#: What a stage does with a stream that it reads in order or shares.
_READS: Final = ("CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.MSG.NEXT")
#: What the stage that records does with streams: fetch one message, erase it, trim.
_KEEPS: Final = ("STREAM.MSG.GET", "STREAM.MSG.DELETE", "STREAM.PURGE")


class Rights(msgspec.Struct, frozen=True):
    """Subjects. Who may listen has a place for answers beside these, its own."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


def services() -> tuple[str, ...]:
    """Whoever is no tenant's: every stage, and the operator."""
    return (*(stage.name for stage in flow.STAGES), OPERATOR)


def of_user(role: Role, tenant: str, agent: str = "") -> Rights:
    """What a tenant's user may: a reader asks and listens, a writer also publishes, an owner also forgets.

    Args:
        role: Erasing is an owner's alone, as a message and as a question.
        tenant: Whose.
        agent: The only one that a writer publishes as; "" for any.
    """
    kinds = {"reader": (), "writer": subjects.AGENT_KINDS[:3], "owner": subjects.AGENT_KINDS}[role]
    return Rights(
        publish=(*(subjects.said(tenant, kind, agent) for kind in kinds), subjects.query(tenant, _ANY)),
        subscribe=(subjects.notify(tenant, _ALL),),
        deny=() if role == "owner" else tuple(subjects.query(tenant, verb) for verb in sorted(ERASING)),
    )


def of_service(name: str) -> Rights:
    """What a stage's user may, or the operator's."""
    return Rights((_ALL,), (_ALL,)) if name == OPERATOR else of_stage(flow.stage(name))


def of_stage(stage: flow.Stage) -> Rights:
    """The least that a stage runs with; what it reads, emits, says and asks is in its line of the flow.

    Answers go to places for answers only, not to whatever place the asker names.
    """
    publish = [subjects.API_INFO, f"{subjects.INBOX}.{_ALL}", subjects.ANSWERS_ACROSS]
    subscribe = [subjects.service(stage.name, _ANY, _ANY)]
    read = [*filter(None, (stage.reads,)), *([subjects.TENANTS] if stage.tenants else ())]
    made = [*read, *(stream for stream in stage.emits if stream != subjects.MEMORY)]
    made += [subjects.OWNERS] if stage.shares else []
    publish += [subjects.raw_stream_api(f"STREAM.{verb}", stream) for stream in made for verb in ("INFO", "CREATE")]
    for stream in read:
        publish += [subjects.raw_stream_api(verb, f"{stream}{end}") for verb in _READS for end in ("", f".{_ALL}")]
        publish += subjects.acknowledgements(stream)
    publish += [subjects.said(_ANY, kind) for kind in stage.says]
    publish += [subject for stream in stage.emits for subject in _emitted(stream, stage.name)]
    publish += subjects.TENANTS_SUBJECTS if stage.tenants else ()
    publish += [_question(each) for each in stage.asks]
    if stage.reads == subjects.MEMORY:
        publish += [subjects.raw_stream_api(verb, s) for verb in _KEEPS for s in (stage.reads, subjects.DEAD)]
    if stage.shares:
        publish += [subjects.raw_stream_api("STREAM.MSG.GET", subjects.OWNERS), subjects.owners(stage.name)]
    if stage.projects:
        publish += [subjects.service(each.name, _ANY, "scan") for each in flow.STAGES if each.reads == subjects.MEMORY]
    if stage.reads == subjects.EMBED:  # jobs that are put back, and vectors to whoever asked
        publish += [*subjects.EMBED_SUBJECTS, subjects.service(_ANY, _ANY, "vectors")]
    if not stage.reads:  # it is asked by agents
        publish += [subjects.raw_stream_api("STREAM.INFO", stream) for stream in (subjects.MEMORY, subjects.DEAD)]
        subscribe += [subjects.QUERY_ALL, subjects.discovery(_ALL)]
    return Rights(tuple(dict.fromkeys(publish)), tuple(subscribe))


def _question(asked: str) -> str:
    stage, _, verb = asked.partition(".")
    return subjects.service(stage, _ANY, verb)


def _emitted(stream: str, stage: str) -> tuple[str, ...]:
    return {
        subjects.RECORD: subjects.RECORD_SUBJECTS,
        subjects.EMBED: (subjects.embed_job(stage),),
        subjects.DEAD: subjects.DEAD_SUBJECTS,
    }.get(stream, ())
