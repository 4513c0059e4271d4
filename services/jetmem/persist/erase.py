"""Erasing entries: words leave every row, numbers and hashes stay."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jetmem.domain import keys
from jetmem.persist.core import IdRow
from jetmem.persist.record import Record, Write, activity_key, recent_key
from jetmem_schemas.internal import Activity, Entry
from jetmem_schemas.subjects import partition_of

_encode = msgspec.msgpack.Encoder().encode


def erase(write: Write, tenant: str, rseqs: Sequence[int]) -> list[Entry]:
    """Blank entries of one tenant in one write; returns what they were.

    The log keeps a blank under each number, the id row its hash (a repeat stays a no-op), `purge` the MEMORY
    sequences whose copies must go too. Applying it again changes nothing: blanks are passed over.
    """
    part = partition_of(tenant)
    gone: list[Entry] = []
    for rseq in rseqs:
        entry = write.record.entry(part, rseq)
        if entry is None or entry.kind in ("blank", "forgot"):
            continue
        gone.append(entry)
        _blank(write, part, entry)
    _recount(write, part, tenant, gone)
    return gone


def _blank(write: Write, part: int, entry: Entry) -> None:
    batch, prefix = write.batch, keys.tenant(part, entry.tenant)
    blank = Entry(entry.rseq, entry.seq, entry.at, "blank", entry.tenant, "", "", "", 0, b"")
    batch.put("log", keys.log(part, entry.rseq), _encode(blank))
    known = write.known(entry.tenant, entry.id)
    write.remember(entry.tenant, entry.id, IdRow(entry.rseq, known.hash if known else b"", forgotten=True))
    when = keys.time(entry.ts) + keys.u64(entry.rseq)
    batch.delete("time", prefix + when)
    batch.delete("sessions", keys.under(prefix, entry.agent, entry.session) + when)
    batch.put("purge", keys.u64(entry.seq), b"")
    for key, _ in write.record.store.scan("repeats", keys.under(prefix, entry.id)):
        batch.delete("repeats", key)
        batch.put("purge", key[-8:], b"")


def _recount(write: Write, part: int, tenant: str, gone: Sequence[Entry]) -> None:
    """Set the counters of the sessions and agents that lost events."""
    lost: dict[tuple[str, str], set[bytes]] = {}
    for entry in gone:
        if entry.kind == "event":
            lost.setdefault((entry.agent, entry.session), set()).add(keys.time(entry.ts) + keys.u64(entry.rseq))
    renewed: dict[tuple[str, str], Activity | None] = {}
    for (agent, session), places in lost.items():
        key = activity_key(part, tenant, agent, session)
        old = write.record.activity("activity", key)
        if old is not None:
            new = _remaining(write.record, keys.under(keys.tenant(part, tenant), agent, session), old, places)
            renewed[(agent, session)] = new
            _replace(write, tenant, "activity", key, old, new)
    for agent in {a for a, _ in lost}:
        _recount_agent(write, part, tenant, agent, renewed)


def _remaining(record: Record, prefix: bytes, old: Activity, places: set[bytes]) -> Activity | None:
    left = old.events - len(places)
    if left <= 0:
        return None
    first = next(k for k, _ in record.store.scan("sessions", prefix) if k[-16:] not in places)
    last = next(k for k, _ in record.store.scan("sessions", prefix, back=True) if k[-16:] not in places)
    return Activity(old.agent, old.session, left, keys.from_time(first[-16:-8]), keys.from_time(last[-16:-8]))


def _recount_agent(
    write: Write, part: int, tenant: str, agent: str, renewed: dict[tuple[str, str], Activity | None]
) -> None:
    prefix = keys.under(keys.tenant(part, tenant), agent)
    sessions: list[Activity] = []
    for _, raw in write.record.store.scan("activity", prefix):
        item = msgspec.msgpack.decode(raw, type=Activity)
        now = renewed.get((agent, item.session), item)
        if now is not None:
            sessions.append(now)
    key = activity_key(part, tenant, agent, "")
    old = write.record.activity("agents", key)
    new = None
    if sessions:
        new = Activity(
            agent, "", sum(s.events for s in sessions), min(s.first for s in sessions),
            max(s.last for s in sessions), len(sessions),
        )  # fmt: skip
    if old is not None:
        _replace(write, tenant, "agents", key, old, new)


def _replace(write: Write, tenant: str, family: str, key: bytes, old: Activity, new: Activity | None) -> None:
    recent = "recent_sessions" if family == "activity" else "recent_agents"
    write.batch.delete(recent, recent_key(tenant, old))
    if new is None:
        write.batch.delete(family, key)
        return
    write.batch.put(family, key, _encode(new))
    write.batch.put(recent, recent_key(tenant, new), _encode(new))
