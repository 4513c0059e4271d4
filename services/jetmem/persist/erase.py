"""Erasing entries: words leave every row, numbers and hashes stay."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from jetmem.domain import keys
from jetmem.persist import expiring, nodes
from jetmem.persist.core import IdRow
from jetmem.persist.record import Record, Write, activity_key, copy_key, due, recent_key
from jetmem_schemas.internal import Activity, Entry
from jetmem_schemas.subjects import partition_of

_encode = msgspec.msgpack.Encoder().encode
_PLACE_BYTES: Final = 16
_TIME_BYTES: Final = 8


class Chunk(NamedTuple):
    """What one write erases; `unfinished` is the agent whose events go on in the next one, if any."""

    rseqs: list[int]
    unfinished: str = ""


def chunks(found: Iterable[tuple[int, str, str]], size: int) -> Iterator[Chunk]:
    """Cut (rseq, agent, session) into writes, sessions and agents together; at least one, maybe empty.

    In this order a session's counters change in one write, or two, and an agent's ends are looked for once.
    The agent is "" for what no counter counts. Agents, and sessions of an agent, stay in the order of their first.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for rseq, agent, session in found:
        # a million events name few agents and sessions: one string each
        groups.setdefault(sys.intern(agent), {}).setdefault(sys.intern(session), []).append(rseq)
    order: list[int] = []
    agents: list[str] = []
    for agent, sessions in groups.items():
        for rseqs in sessions.values():
            order += rseqs
            agents += [agent] * len(rseqs)
    for start in range(0, max(1, len(order)), size):
        end = start + size
        goes_on = end < len(order) and agents[end - 1] == agents[end]
        yield Chunk(order[start:end], agents[end] if goes_on else "")


def erase(write: Write, tenant: str, chunk: Chunk) -> list[Entry]:
    """Blank entries of one tenant in one write; returns what they were.

    The log keeps a blank under each number, the id row its hash (a repeat stays a no-op), `purge` the messages of
    MEMORY whose copies must go too. Applying it again changes nothing: blanks are passed over.
    """
    part = partition_of(tenant)
    gone = [e for e in write.record.entries_at(part, chunk.rseqs) if e.kind not in ("blank", "forgot")]
    derived, said = ([e for e in gone if (e.kind == "derived") is made] for made in (True, False))
    known = write.record.id_rows(tenant, [entry.id for entry in said])
    for entry, row in zip(said, known, strict=True):
        _blank(write, part, entry)
        _unlist(write, part, entry, row)
    for entry in derived:
        _blank(write, part, entry)
        _purge_repeats(write, tenant, nodes.copies_prefix(tenant, entry.id))
    nodes.remove(write, tenant, derived)
    _recount(write, part, tenant, gone, chunk.unfinished)
    return gone


def _blank(write: Write, part: int, entry: Entry) -> None:
    blank = Entry(entry.rseq, entry.seq, entry.at, "blank", entry.tenant, "", "", "", 0, b"")
    write.batch.put("log", keys.log(part, entry.rseq), _encode(blank))
    write.batch.put("purge", copy_key(entry.seq, entry.at), due(entry.tenant))


def _unlist(write: Write, part: int, entry: Entry, known: IdRow | None) -> None:
    batch, prefix = write.batch, keys.tenant(part, entry.tenant)
    write.remember(entry.tenant, entry.id, IdRow(entry.rseq, known.hash if known else b"", forgotten=True))
    when = keys.time(entry.ts) + keys.u64(entry.rseq)
    batch.delete("time", prefix + when)
    batch.delete("sessions", activity_key(part, entry.tenant, entry.agent, entry.session) + when)
    expiring.drop(batch, entry)
    _purge_repeats(write, entry.tenant, keys.under(prefix, entry.id))


def _purge_repeats(write: Write, tenant: str, prefix: bytes) -> None:
    for key, at in write.record.store.scan("repeats", prefix):
        write.batch.delete("repeats", key)
        write.batch.put("purge", key[-8:] + at, due(tenant))


@dataclass(slots=True)
class _Lost:
    """What one agent loses in this write."""

    places: dict[str, set[bytes]] = field(default_factory=dict)
    renewed: dict[str, Activity | None] = field(default_factory=dict)
    emptied: int = 0

    def count(self) -> int:
        return sum(len(places) for places in self.places.values())

    def span(self) -> tuple[int, int]:
        every = [place for places in self.places.values() for place in places]
        return _ts(min(every)), _ts(max(every))


def _recount(write: Write, part: int, tenant: str, gone: Sequence[Entry], unfinished: str) -> None:
    """Subtract from the counters of the sessions and agents that lost events."""
    lost: dict[str, _Lost] = {}
    for entry in gone:
        if entry.kind == "event":
            places = lost.setdefault(entry.agent, _Lost()).places.setdefault(entry.session, set())
            places.add(keys.time(entry.ts) + keys.u64(entry.rseq))
    for agent, mine in lost.items():
        rows = [activity_key(part, tenant, agent, session) for session in mine.places]
        held = write.record.activities(rows)
        for key, old, (session, places) in zip(rows, held, mine.places.items(), strict=True):
            if old is not None:
                new = mine.renewed[session] = _remaining(write.record, key, old, places)
                mine.emptied += new is None
                _replace(write, tenant, "activity", key, old, new)
        _recount_agent(write, part, tenant, agent, mine, unfinished=agent == unfinished)


def _remaining(record: Record, prefix: bytes, old: Activity, places: set[bytes]) -> Activity | None:
    """What is left of a session; an end is looked for only if it fell, from where it was.

    Before it and behind it lie the marks of what was deleted earlier, which a search would have to pass over.
    """
    left = old.events - len(places)
    if left <= 0:
        return None
    first, last = old.first, old.last
    if _ts(min(places)) == first:
        found = record.store.scan("sessions", prefix, start=prefix + keys.time(first))
        first = next(_ts(k[-_PLACE_BYTES:]) for k, _ in found if k[-_PLACE_BYTES:] not in places)
    if _ts(max(places)) == last:
        found = record.store.scan(
            "sessions", prefix, start=prefix + keys.time(last) + keys.u64(keys.U64_MAX), back=True
        )
        last = next(_ts(k[-_PLACE_BYTES:]) for k, _ in found if k[-_PLACE_BYTES:] not in places)
    return Activity(old.agent, old.session, left, first, last)


def _recount_agent(write: Write, part: int, tenant: str, agent: str, lost: _Lost, *, unfinished: bool) -> None:
    """Subtract at once, look for the ends with the last write that takes events of this agent.

    A row in `meta` remembers between the writes that they may have fallen, also over a kill between two of them.
    """
    key = activity_key(part, tenant, agent, "")
    old = write.record.activity("agents", key)
    if old is None:
        return
    loose = b"loose:" + key
    left, sessions = old.events - lost.count(), old.sessions - lost.emptied
    first, last = old.first, old.last
    if unfinished:
        write.batch.put("meta", loose, b"")
    else:
        was_loose = write.record.store.get("meta", loose) is not None
        if was_loose:
            write.batch.delete("meta", loose)
        if left > 0 and (was_loose or first == lost.span()[0] or last == lost.span()[1]):
            first, last = _ends_of(write.record, part, tenant, agent, lost.renewed)
    new = Activity(agent, "", left, first, last, sessions) if left > 0 else None
    _replace(write, tenant, "agents", key, old, new)


def _ends_of(
    record: Record, part: int, tenant: str, agent: str, renewed: dict[str, Activity | None]
) -> tuple[int, int]:
    first: list[int] = []
    last: list[int] = []
    for _, raw in record.store.scan("activity", keys.under(keys.tenant(part, tenant), agent)):
        item = msgspec.msgpack.decode(raw, type=Activity)
        now = renewed.get(item.session, item)
        if now is not None:
            first.append(now.first)
            last.append(now.last)
    return min(first), max(last)


def _ts(place: bytes) -> int:
    return keys.from_time(place[:_TIME_BYTES])


def _replace(write: Write, tenant: str, family: str, key: bytes, old: Activity, new: Activity | None) -> None:
    recent = "recent_sessions" if family == "activity" else "recent_agents"
    if new is None or new.last != old.last:
        write.batch.delete(recent, recent_key(tenant, old))
    if new is None:
        write.batch.delete(family, key)
        return
    write.batch.put(family, key, _encode(new))
    write.batch.put(recent, recent_key(tenant, new), _encode(new))
