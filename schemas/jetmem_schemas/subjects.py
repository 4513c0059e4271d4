"""Every subject and stream name, built and taken apart here only."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

from jetmem_schemas.errors import SchemaError

PARTITIONS: Final = 64
MEMORY: Final = "MEMORY"
RECORD: Final = "RECORD"
EMBED: Final = "EMBED"
DEAD: Final = "DEAD"
STREAMS: Final = (MEMORY, RECORD, EMBED, DEAD)
#: The stream of the key-value bucket TENANTS: settings of tenants.
TENANTS: Final = "KV_TENANTS"
#: The stream of the key-value bucket OWNERS: which shard has which partition.
OWNERS: Final = "KV_OWNERS"

#: Kinds of message an agent (or, for `derived`, a stage) may publish.
AGENT_KINDS: Final = ("event", "run", "procedure", "forget")
KINDS: Final = (*AGENT_KINDS, "derived")
#: Reserved token: "none" for agent or session.
NONE: Final = "_"
#: Kind of a derived message, in place of the session: a node of the table of contents.
NODE: Final = "node"

MEMORY_SUBJECTS: Final = tuple(f"mem.*.{kind}.>" for kind in KINDS)
MEMORY_SOURCE: Final = "mem.*.*.*.*"
MEMORY_DESTINATION: Final = ".".join(
    ("memp", f"{{{{partition({PARTITIONS},1)}}}}", *(f"{{{{wildcard({n})}}}}" for n in range(1, 5)))
)
RECORD_SUBJECTS: Final = ("memrec.*",)
RECORD_HEADS: Final = "memrec.heads"
#: Any message may carry it: the W3C context of the trace that it belongs to.
TRACE_HEADER: Final = "traceparent"
EMBED_SUBJECTS: Final = ("memjob.embed.*",)
DEAD_SUBJECTS: Final = ("memdead.*.*",)
TENANTS_SUBJECTS: Final = ("$KV.TENANTS.>",)
OWNERS_SUBJECTS: Final = ("$KV.OWNERS.>",)
QUERY_ALL: Final = "mem.*.query.>"
NOTIFY_ALL: Final = "mem.*.notify.>"
#: Where a broker with users sends what only looks like a notification: it was not published by a stage.
NOT_NOTIFIED: Final = "mem.{{wildcard(1)}}.not.notify.>"
SERVICE_DISCOVERY: Final = "$SRV"
#: Where answers come unless a user has a place of its own.
INBOX: Final = "_INBOX"
#: What a server makes of the place for an answer when the question comes from another account.
ANSWERS_ACROSS: Final = "_R_.>"
API_INFO: Final = "$JS.API.INFO"

#: `(?!\n)`: in Python `$` also matches before a last line feed.
TOKEN_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
ID_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,64}$(?!\n)"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Tenants and subjects whose parts are remembered; a batch names few, many times.
_REMEMBERED = 4096
_FNV_OFFSET = 2166136261
_FNV_PRIME = 16777619


class Address(msgspec.Struct, frozen=True):
    """Where a message on MEMORY was sent. `kind` is one of `KINDS`; `session` is the last token."""

    tenant: str
    kind: str
    agent: str
    session: str


def is_token(text: str) -> bool:
    """Whether `text` may stand as one token: tenant, agent, session."""
    return _TOKEN.fullmatch(text) is not None


def token(text: str, field: str) -> str:
    """Return `text` if it is a token that names something, else refuse it.

    Raises:
        SchemaError: `bad_subject`, with `field`; `_` alone is reserved.
    """
    if not is_token(text) or text == NONE:
        raise SchemaError("bad_subject", f"{field} must match [A-Za-z0-9_-]{{1,64}} and not be '_'", field)
    return text


@lru_cache(_REMEMBERED)
def partition_of(tenant: str) -> int:
    """The partition that the broker's subject transform gives a tenant: FNV-1a 32 (server source) mod 64."""
    value = _FNV_OFFSET
    for byte in tenant.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value % PARTITIONS


def space(tenant: str, kind: str) -> str:
    """A name for one kind of what a tenant has, where a stage keeps kinds apart; no tenant has such a name."""
    return f"{tenant}.{kind}"


def owner(name: str) -> str:
    """The tenant of a space; a tenant's own name is itself one."""
    return name.partition(".")[0]


def memory(tenant: str, kind: str, agent: str, session: str) -> str:
    """Where one message is published.

    Raises:
        SchemaError: `bad_subject` with the field, so that a client refuses before the broker is asked.
    """
    token(tenant, "tenant")
    for field, value in (("agent", agent), ("session", session)):
        if not is_token(value):
            raise SchemaError("bad_subject", f"{field} must match [A-Za-z0-9_-]{{1,64}}", field)
    return f"mem.{tenant}.{kind}.{agent}.{session}"


@lru_cache(_REMEMBERED)
def parse_memory(subject: str) -> Address:
    """Take apart a subject as MEMORY stores it (`memp.<p>.…`, or `mem.…` for a wrong shape).

    Raises:
        SchemaError: `bad_subject`; `tenant` can still be had by `tenant_of`.
    """
    parts = subject.split(".")
    if parts[0] != "memp" or len(parts) != 6:
        raise SchemaError("bad_subject", "subject must be mem.<tenant>.<kind>.<agent>.<session>", "subject")
    _, _, tenant, kind, agent, session = parts
    if kind not in KINDS:
        raise SchemaError("bad_subject", f"unknown kind, must be one of {', '.join(KINDS)}", "subject")
    token(tenant, "tenant")
    for field, value in (("agent", agent), ("session", session)):
        if not is_token(value):
            raise SchemaError("bad_subject", f"{field} must match [A-Za-z0-9_-]{{1,64}}", field)
        if value == NONE and kind not in ("forget", "derived"):
            raise SchemaError("bad_subject", f"{field} '_' is reserved", field)
    return Address(tenant, kind, agent, session)


def published(stored: str) -> str:
    """The subject an agent used, from the one MEMORY stores."""
    parts = stored.split(".")
    return "mem." + ".".join(parts[2:]) if parts[0] == "memp" else stored


def tenant_of(stored: str) -> str:
    """The tenant of a stored subject if it is a legal token, else `_`."""
    parts = stored.split(".")
    position = 2 if parts[0] == "memp" else 1
    tenant = parts[position] if len(parts) > position else NONE
    return tenant if is_token(tenant) else NONE


def home(stored: str) -> int:
    """The partition that a message of MEMORY belongs to; of a wrong shape, its tenant's."""
    parts = stored.split(".", 2)
    if parts[0] == "memp" and parts[1].isdecimal():
        return int(parts[1])
    return partition_of(tenant_of(stored))


def memory_partition(partition: int) -> str:
    """The filter of one partition of MEMORY."""
    return f"memp.{partition}.>"


def record(partition: int) -> str:
    """Where persist announces facts of one partition."""
    return f"memrec.{partition}"


def embed_job(stage: str) -> str:
    """Where a stage leaves texts to be embedded."""
    return f"memjob.embed.{stage}"


def dead(code: str, tenant: str) -> str:
    """Where a message that cannot be recorded goes."""
    return f"memdead.{code}.{tenant}"


def dead_filter(tenant: str = "*", code: str = "*") -> str:
    """A filter over dead letters."""
    return f"memdead.{code}.{tenant}"


def said(tenant: str, kind: str, agent: str = "") -> str:
    """Everything of one kind that a tenant's agents, or one of them, may publish; `*` is every tenant."""
    return f"mem.{tenant}.{kind}.{agent}.>" if agent else f"mem.{tenant}.{kind}.>"


def inbox(public_key: str) -> str:
    """Prefix of where answers to a user come: nobody else may listen there."""
    return f"{INBOX}.{public_key}"


def query(tenant: str, verb: str) -> str:
    """Where a question is asked."""
    return f"mem.{token(tenant, 'tenant')}.query.{verb}"


def parse_query(subject: str) -> tuple[str, str]:
    """Tenant and verb of a request's subject.

    Raises:
        SchemaError: `bad_subject` or `unknown_verb`.
    """
    parts = subject.split(".")
    tenant = token(parts[1], "tenant")
    if len(parts) != 4:
        raise SchemaError("unknown_verb", "subject must be mem.<tenant>.query.<verb>", "verb")
    return tenant, parts[3]


def query_endpoint(verb: str) -> str:
    """Where one verb is asked, for whatever tenant; what service discovery shows."""
    return f"mem.*.query.{verb}"


def discovery(verb: str, *names: str) -> str:
    """Where NATS service discovery asks: all services, those of a name, or one (name, id)."""
    return ".".join((SERVICE_DISCOVERY, verb, *names))


def service(stage: str, partition: int | str, verb: str) -> str:
    """Where one stage asks another about a partition."""
    return f"memsvc.{stage}.{partition}.{verb}"


def service_all(stage: str, partition: int | str) -> str:
    """Subscription of a stage for every verb of one partition."""
    return f"memsvc.{stage}.{partition}.*"


def service_status(stage: str) -> str:
    """Where every process of a stage answers `status`."""
    return f"memsvc.{stage}.all.status"


def notify(tenant: str, topic: str) -> str:
    """Where a tenant's agents hear of dead letters and, later, waves of success."""
    return f"mem.{tenant}.notify.{topic}"


def tenant_settings(tenant: str) -> str:
    """Where a tenant's settings lie, or under `_` those of all."""
    return f"$KV.TENANTS.{tenant}"


def owners(stage: str) -> str:
    """Where it is written which shard of a stage has which partition."""
    return f"$KV.OWNERS.{stage}"


def settings_tenant(subject: str) -> str:
    """The tenant of a subject of the bucket; "" if it can be nobody's."""
    name = subject.removeprefix("$KV.TENANTS.")
    return name if is_token(name) else ""


def acknowledgements(stream: str) -> tuple[str, str]:
    """Where what a stream delivered is acknowledged, in both forms that servers have."""
    return f"$JS.ACK.{stream}.>", f"$JS.ACK.*.*.{stream}.>"


def raw_stream_api(verb: str, stream: str) -> str:
    """JetStream API subject for configurations that nats-py cannot express."""
    return f"$JS.API.{verb}.{stream}"
