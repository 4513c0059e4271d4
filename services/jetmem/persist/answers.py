"""What persist answers: slices of the log, records by id, time and session, counters. Reads only, on the read pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.persist import nodes
from jetmem.persist.core import Summary
from jetmem.persist.record import NodeRow, Record
from jetmem.runtime import limits
from jetmem.runtime.errors import RequestFailed
from jetmem_schemas.internal import (
    Activity,
    ActivityReply,
    ActivityRequest,
    Entry,
    FetchedItem,
    FetchReply,
    FetchRequest,
    Head,
    NodesReply,
    NodesRequest,
    ScanReply,
    ScanRequest,
    TimelineReply,
    TimelineRequest,
)
from jetmem_schemas.subjects import partition_of

#: Rows looked at for one page; a rarer filter gives a shorter page with a cursor, never a long silence.
_LOOKED_AT_MAX: Final = 50_000
_PLACE_BYTES: Final = 16
#: What MessagePack puts before a string of bytes.
_PREFIX_BYTES: Final = 5
_encode = msgspec.msgpack.Encoder().encode
_summary = msgspec.msgpack.Decoder(Summary).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_activity = msgspec.msgpack.Decoder(Activity).decode


class _Tags(msgspec.Struct):
    tags: list[str] = []


_tags = msgspec.json.Decoder(_Tags).decode


def scan(record: Record, part: int, request: ScanRequest, head: Head, checkpoint: int) -> ScanReply:
    """A slice of a partition's log after a position, if that position is of this log; nothing beyond `head`."""
    if not _same_history(record, part, request, head):
        return ScanReply([], head, checkpoint, mismatch=True)
    entries: list[bytes] = []
    size = 0
    for rseq, encoded in record.entries(part, request.after):
        if rseq > head.rseq:
            break
        if entries and size + len(encoded) > request.bytes_max:
            break
        entries.append(encoded)
        size += len(encoded)
        if size > request.bytes_max:
            break
    return ScanReply(entries, head, checkpoint)


def _same_history(record: Record, part: int, request: ScanRequest, head: Head) -> bool:
    if request.after == 0:
        return True
    if request.after > head.rseq:
        return False
    entry = record.entry(part, request.after)
    return entry is not None and entry.seq == request.after_seq


def fetch(record: Record, request: FetchRequest, checkpoint: int) -> FetchReply:
    """Records by id, in the order asked, each with neighbours of its session."""
    part = partition_of(request.tenant)
    items: list[FetchedItem] = []
    size = 0
    for id_ in request.ids:
        row = record.id_row(request.tenant, id_)
        entry = record.entry(part, row.rseq) if row is not None and not row.forgotten else None
        if entry is None or entry.kind != "event":
            continue
        item = FetchedItem(
            _encode(entry),
            [_encode(e) for e in _neighbours(record, part, entry, request.before, request.within_ms, back=True)][::-1],
            [_encode(e) for e in _neighbours(record, part, entry, request.after, request.within_ms, back=False)],
        )
        size += len(item.entry) + sum(map(len, item.before)) + sum(map(len, item.after))
        if items and size > limits.REPLY_BYTES_MAX:
            return FetchReply(items, checkpoint, cut=True)
        items.append(item)
    return FetchReply(items, checkpoint)


def _neighbours(record: Record, part: int, entry: Entry, count: int, within_ms: int, *, back: bool) -> Iterator[Entry]:
    if not count:
        return
    prefix = keys.under(keys.tenant(part, entry.tenant), entry.agent, entry.session)
    place = keys.time(entry.ts) + keys.u64(entry.rseq)
    size = 0
    for key, _ in record.store.scan("sessions", prefix, start=prefix + place, back=back):
        when = key[-_PLACE_BYTES:]
        if when == place:
            continue
        if within_ms and abs(keys.from_time(when[:8]) - entry.ts) > within_ms:
            return
        near = record.entry(part, keys.from_u64(when[8:]))
        if near is None or near.kind != "event":
            continue
        size += len(near.body)
        if size > limits.REPLY_BYTES_MAX // 4:
            return
        yield near
        count -= 1
        if not count:
            return


def timeline(record: Record, request: TimelineRequest, checkpoint: int) -> TimelineReply:
    """One page of a tenant's events by time, or of a session's."""
    part = partition_of(request.tenant)
    prefix = keys.tenant(part, request.tenant)
    by_session = bool(request.agent and request.session)
    family = "sessions" if by_session else "time"
    if by_session:
        prefix = keys.under(prefix, request.agent, request.session)
    entries: list[bytes] = []
    size = 0
    last = b""
    for looked_at, (key, value) in enumerate(_in_range(record, family, prefix, request)):
        if looked_at >= _LOOKED_AT_MAX:
            return TimelineReply(entries, last, checkpoint)
        entry = _matching(record, part, key, value, request)
        if entry is not None:
            size += len(entry.body) + 200
            if entries and (len(entries) == request.limit or size > limits.REPLY_BYTES_MAX):
                return TimelineReply(entries, last, checkpoint)
            entries.append(_encode(entry))
        last = key[-_PLACE_BYTES:]
    return TimelineReply(entries, b"", checkpoint)


def _in_range(record: Record, family: str, prefix: bytes, request: TimelineRequest) -> Iterator[tuple[bytes, bytes]]:
    low = keys.time(request.since) if request.since is not None else b""
    high = keys.time(request.until) if request.until is not None else None
    if len(request.cursor) not in (0, _PLACE_BYTES):
        raise RequestFailed("bad_cursor", "the cursor is not one that this verb gave out", "cursor")
    start = prefix + low if not request.descending else None
    if request.descending and high is not None:
        start = prefix + high
    if request.cursor:
        start = prefix + request.cursor
    for key, value in record.store.scan(family, prefix, start=start, back=request.descending):
        place = key[-_PLACE_BYTES:]
        if place == request.cursor or (high is not None and place >= high and request.descending):
            continue
        if (high is not None and place >= high) or (request.descending and low and place < low):
            return
        yield key, value


def _matching(record: Record, part: int, key: bytes, value: bytes, request: TimelineRequest) -> Entry | None:
    if value:
        summary = _summary(value)
        if summary.kind != "event" or not _fits(summary, request):
            return None
    entry = record.entry(part, keys.from_u64(key[-8:]))
    if entry is None or entry.kind != "event":
        return None
    if request.tags and not set(request.tags) <= set(_tags(entry.body).tags):
        return None
    if not value and (request.author or request.kinds or request.roles):
        return entry if _fits(_summary_of(entry), request) else None
    return entry


class _Said(msgspec.Struct):
    author: str = ""
    kind: str = "message"
    role: str = "user"


_said = msgspec.json.Decoder(_Said).decode


def _summary_of(entry: Entry) -> Summary:
    said = _said(entry.body)
    return Summary("event", entry.agent, entry.session, said.author, said.kind, said.role)


def _fits(summary: Summary, request: TimelineRequest) -> bool:
    return (
        request.agent in ("", summary.agent)
        and request.session in ("", summary.session)
        and request.author in ("", summary.author)
        and (not request.kinds or summary.event_kind in request.kinds)
        and (not request.roles or summary.role in request.roles)
    )


def activity(record: Record, request: ActivityRequest, checkpoint: int, *, agents: bool) -> ActivityReply:
    """One page of sessions or agents, the latest first; `since`/`until` select by overlap of their time span."""
    prefix = keys.tenant(partition_of(request.tenant), request.tenant)
    family = "recent_agents" if agents else "recent_sessions"
    start = prefix + request.cursor if request.cursor else None
    items: list[Activity] = []
    last = b""
    looked_at = 0
    for key, raw in record.store.scan(family, prefix, start=start):
        place = key.removeprefix(prefix)
        if place == request.cursor:
            continue
        looked_at += 1
        if len(items) == request.limit or looked_at > _LOOKED_AT_MAX:
            return ActivityReply(items, last, checkpoint)
        item = _activity(raw)
        last = place
        if request.since is not None and item.last < request.since:
            break
        if request.agent in ("", item.agent) and (request.until is None or item.first < request.until):
            items.append(item)
    return ActivityReply(items, b"", checkpoint)


def toc_nodes(record: Record, request: NodesRequest, checkpoint: int) -> NodesReply:
    """Nodes by id, the newest or one version, or every year by time; what is gone is not among them."""
    part = partition_of(request.tenant)
    if not request.ids:
        rows = [row for row in nodes.years(record, request.tenant) if not row.gone]
        found = _recorded(record, part, request.tenant, rows)
        return _filled(sorted(found, key=lambda entry: (entry.ts, entry.id)), request, checkpoint)
    held = (
        nodes.versions(record, request.tenant, request.ids, request.version)
        if request.version
        else nodes.newest(record, request.tenant, request.ids)
    )
    rows = [row for row in held if row is not None and not row.gone]
    return _filled(_recorded(record, part, request.tenant, rows), request, checkpoint)


def _recorded(record: Record, part: int, tenant: str, rows: list[NodeRow]) -> Iterator[Entry]:
    """Their entries; a forget may have blanked one since its row was read."""
    for row in rows:
        entry = record.entry(part, row.rseq)
        if entry is not None and entry.kind == "derived" and entry.tenant == tenant:
            yield entry


def _filled(entries: Iterable[Entry], request: NodesRequest, checkpoint: int) -> NodesReply:
    found: list[bytes] = []
    size = 0
    for entry in entries:
        body = _brief(entry.body) if request.brief else entry.body
        size += len(body) + _PREFIX_BYTES
        if found and size > limits.REPLY_BYTES_MAX:
            return NodesReply(found, checkpoint, cut=True)
        found.append(body)
    return NodesReply(found, checkpoint)


def _brief(body: bytes) -> bytes:
    """A node without what only walks read; nothing else of it is looked at."""
    fields = _fields(body)
    for name in ("terms", "sources"):
        fields.pop(name, None)
    return msgspec.json.encode(fields)
