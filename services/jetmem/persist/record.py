"""The record on disk: which rows an entry has, and one write in the making."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import msgspec

from jetmem.domain import keys
from jetmem.persist import expiring
from jetmem.persist.core import IdRow, Summary
from jetmem.runtime import limits
from jetmem.runtime.store import Store, WriteSet
from jetmem_schemas.internal import Activity, Entry, Facts, Head, decode_entry
from jetmem_schemas.subjects import partition_of

#: Of a store with the whole record, …
WHOLE: Final = 1
#: … and of one that lacks partitions, or has parked some: who knows no shards would take itself for the owner of all.
SHARED: Final = 2
#: Rows are the same in both. When rows change, all three become the next number: whoever reads those knows shards.
FORMAT: Final = SHARED
#: What is copied of a partition to another store: rises with the formats, and by 100 where more rows go along.
COPIED: Final = FORMAT + 100
#: log: entries by number · ids: IdRow by (tenant, id) · time, sessions: order of events · activity, agents: counters ·
#: recent_*: latest first · outbox: what must still be published · unpurged: forgets whose words some file may hold ·
#: forgets: all others · purge: messages of MEMORY to be erased, by sequence and broker time, and letters of DEAD ·
#: repeats: further copies of a recorded id in MEMORY · nodes: the newest version of each node · versions: all of
#: them · sources: the entries each was made from · meta: checkpoint, heads, each tenant's last forget, agents being
#: recounted, how far MEMORY was trimmed, which events expire when (`expiring`).
FAMILIES: Final = (
    "log", "ids", "time", "sessions", "activity", "agents", "recent_sessions", "recent_agents",
    "outbox", "unpurged", "forgets", "purge", "repeats",
    "nodes", "versions", "sources", "meta",
)  # fmt: skip

#: Keys in `meta`: no file of MEMORY has anything below this sequence; a trim that is not over (`Trimming`).
TRIMMED: Final = b"trimmed"
TRIMMING: Final = b"trimming"

_encode = msgspec.msgpack.Encoder().encode
_id_row = msgspec.msgpack.Decoder(IdRow).decode
_summary = msgspec.msgpack.Decoder(Summary).decode
_activity = msgspec.msgpack.Decoder(Activity).decode
_head = msgspec.msgpack.Decoder(Head).decode


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Where a reader of MEMORY is: the stream's identity, the last message applied and its broker time.

    `erased`: that message was erased by us, so that its absence is no sign of loss. `epoch` counts the streams that
    were taken for the one before: sequences of two epochs are in no order.
    """

    created: str = ""
    seq: int = 0
    at: int = 0
    erased: bool = False
    epoch: int = 0


class OutboxRow(msgspec.Struct, frozen=True):
    """A message to be published as a consequence; `tenant` and the rest let a forget find it."""

    subject: str
    headers: dict[str, str]
    data: bytes
    tenant: str
    source: str
    seq: int
    id: str = ""
    at: int = 0


class ForgetRow(msgspec.Struct, frozen=True):
    """A forget that was applied; `purged` once no file of ours holds what it erased, then without its body."""

    tenant: str
    seq: int
    erased: int
    at: int
    body: bytes
    purged: bool = False
    epoch: int = 0


forget_row = msgspec.msgpack.Decoder(ForgetRow).decode


class Due(msgspec.Struct, frozen=True, array_like=True):
    """Value of a `purge` row: a message that is to be erased for forgets of `tenant`.

    A server that is killed between noting that a message is gone and overwriting it has the message gone and the bytes
    there after its next start. So `server` is the broker process that was asked, noted before it is; `held` is a
    message that is gone though that process ended before it said so: until its file goes too, no forget of the tenant
    is purged. `stream` is when DEAD was made, of a letter.
    """

    tenant: str = ""
    server: str = ""
    held: bool = False
    stream: str = ""


_due = msgspec.msgpack.Decoder(Due).decode


class Trimming(msgspec.Struct, frozen=True, array_like=True):
    """A trim erases below `upto` without rows; `server` is the broker process that was asked, "" for no trim."""

    server: str = ""
    upto: int = 0


class LastForget(msgspec.Struct, frozen=True, array_like=True):
    """A tenant's last forget, so that `status` needs no look at all of them; `rseq` is its last entry."""

    epoch: int
    seq: int
    rseq: int = 0


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """One recorded version of a node; `gone` ends the node."""

    version: int
    rseq: int
    gone: bool = False


class Record:
    """Reads of the store, by key. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def checkpoint(self, reader: str) -> Checkpoint:
        """Where a reader is; the beginning if it never was."""
        raw = self.store.get("meta", b"reader:" + reader.encode())
        return msgspec.msgpack.decode(raw, type=Checkpoint) if raw else Checkpoint()

    def head(self, part: int) -> Head:
        """The last entry of a partition."""
        raw = self.store.get("meta", b"head:" + keys.partition(part))
        return _head(raw) if raw else Head()

    def heads(self) -> dict[int, Head]:
        """The last entry of each partition that has one."""
        return {k[-1]: _head(v) for k, v in self.store.scan("meta", b"head:")}

    def id_row(self, tenant: str, id_: str) -> IdRow | None:
        """What is kept of an id."""
        raw = self.store.get("ids", id_key(tenant, id_))
        return _id_row(raw) if raw else None

    def id_rows(self, tenant: str, ids: Sequence[str]) -> list[IdRow | None]:
        """What is kept of many ids, in the order asked."""
        found = self.store.get_many("ids", [id_key(tenant, id_) for id_ in ids])
        return [_id_row(raw) if raw else None for raw in found]

    def entry(self, part: int, rseq: int) -> Entry | None:
        """One entry of the log."""
        raw = self.store.get("log", keys.log(part, rseq))
        return decode_entry(raw) if raw else None

    def entries(self, part: int, after: int) -> Iterator[tuple[int, bytes]]:
        """Encoded entries of a partition with numbers above `after`, in order."""
        for key, value in self.store.scan("log", keys.partition(part), start=keys.log(part, after + 1)):
            yield keys.from_u64(key[1:]), value

    def covering(self, part: int, seq: int) -> int:
        """The greatest `rseq` whose entry came from MEMORY sequence ≤ `seq`; 0 if none. 20 reads for a million.

        Entries of a MEMORY that was lost, and taken as lost, are covered by every sequence of the one after it.
        """
        base = self.store.get("meta", b"base:" + keys.partition(part))
        low, high = keys.from_u64(base) if base else 0, self.head(part).rseq
        while low < high:
            middle = (low + high + 1) // 2
            entry = self.entry(part, middle)
            if entry is not None and entry.seq <= seq:
                low = middle
            else:
                high = middle - 1
        return low

    def of_tenant(self, tenant: str) -> Iterator[tuple[int, int, Summary]]:
        """(rseq, ts, summary) of everything recorded of a tenant, by time."""
        prefix = keys.tenant(partition_of(tenant), tenant)
        for key, value in self.store.scan("time", prefix):
            yield keys.from_u64(key[-8:]), keys.from_time(key[-16:-8]), _summary(value)

    def entries_at(self, part: int, rseqs: Sequence[int]) -> list[Entry]:
        """Entries by number, in the order asked; those that are not there are left out."""
        found = self.store.get_many("log", [keys.log(part, rseq) for rseq in rseqs])
        return [decode_entry(raw) for raw in found if raw]

    def trimmed(self) -> int:
        """No file of MEMORY has anything below this sequence."""
        raw = self.store.get("meta", TRIMMED)
        return keys.from_u64(raw) if raw else 0

    def trimming(self) -> Trimming:
        """The trim that is not over, or of which nobody knows what it erased."""
        raw = self.store.get("meta", TRIMMING)
        return msgspec.msgpack.decode(raw, type=Trimming) if raw else Trimming()

    def forget(self, tenant: str, epoch: int, seq: int) -> ForgetRow | None:
        """The forget that MEMORY had under a sequence, in this epoch or, if there is none, in the latest before it."""
        for each in range(epoch, -1, -1):
            for family in ("unpurged", "forgets"):
                raw = self.store.get(family, forget_key(tenant, each, seq))
                if raw is not None:
                    return forget_row(raw)
        return None

    def last_forget(self, tenant: str) -> LastForget | None:
        """A tenant's last forget, if it ever had one."""
        raw = self.store.get("meta", last_forget_key(tenant))
        return msgspec.msgpack.decode(raw, type=LastForget) if raw else None

    def activities(self, keys_: Sequence[bytes]) -> list[Activity | None]:
        """Counters of many sessions."""
        return [_activity(raw) if raw else None for raw in self.store.get_many("activity", keys_)]

    def activity(self, family: str, key: bytes) -> Activity | None:
        """Counters of one session (`activity`) or agent (`agents`)."""
        raw = self.store.get(family, key)
        return _activity(raw) if raw else None


def id_key(tenant: str, id_: str) -> bytes:
    """Key of an id."""
    return keys.tenant(partition_of(tenant), tenant) + id_.encode()


def forget_key(tenant: str, epoch: int, seq: int) -> bytes:
    """Key of a forget."""
    return keys.tenant(partition_of(tenant), tenant) + keys.u64(epoch) + keys.u64(seq)


def last_forget_key(tenant: str) -> bytes:
    """Key, in `meta`, of a tenant's `LastForget`."""
    return b"forgot:" + keys.tenant(partition_of(tenant), tenant)


def copy_key(seq: int, at: int) -> bytes:
    """Key of a message of MEMORY that is to be erased.

    The broker's time makes it the same message: after a loss another stream has another one under the sequence.
    """
    return keys.u64(seq) + keys.time(at)


def letter_key(seq: int) -> bytes:
    """Key, in `purge`, of a letter of DEAD; no message of MEMORY has that sequence."""
    return keys.u64(keys.U64_MAX) + keys.u64(seq)


def is_letter(key: bytes) -> bool:
    """Whether a `purge` row is of DEAD."""
    return key.startswith(letter_key(0)[:8])


def due(tenant: str) -> bytes:
    """Value of a new `purge` row."""
    return _encode(Due(tenant))


def due_row(raw: bytes) -> Due:
    """Value of a `purge` row; those of older stores are empty, and hold nobody."""
    return _due(raw) if raw else Due()


def recent_key(tenant: str, item: Activity) -> bytes:
    """Key that sorts sessions or agents by their last event, the latest first."""
    latest_first = keys.u64(keys.U64_MAX - keys.from_u64(keys.time(item.last)))
    return keys.under(keys.tenant(partition_of(tenant), tenant) + latest_first, item.agent, item.session)


@dataclass(slots=True)
class Write:
    """One synced write in the making: data, checkpoint, heads and outbox rows together.

    Reads through itself, so that later messages of a batch see earlier ones. Used by the writer thread only.
    """

    record: Record
    batch: WriteSet
    heads: dict[int, Head] = field(default_factory=dict)
    ids: dict[bytes, IdRow] = field(default_factory=dict)
    nodes: dict[bytes, NodeRow] = field(default_factory=dict)
    versions: dict[bytes, NodeRow] = field(default_factory=dict)
    bodies: dict[tuple[int, int], Entry] = field(default_factory=dict)
    counters: dict[tuple[str, bytes], tuple[str, Activity | None, Activity]] = field(default_factory=dict)
    announced: dict[int, tuple[int, int, list[bytes]]] = field(default_factory=dict)
    outbox: int = 0

    def known(self, tenant: str, id_: str) -> IdRow | None:
        """What is kept of an id, this write included."""
        key = id_key(tenant, id_)
        return self.ids.get(key) or self.record.id_row(tenant, id_)

    def entry(self, part: int, rseq: int) -> Entry | None:
        """An entry, this write included."""
        return self.bodies.get((part, rseq)) or self.record.entry(part, rseq)

    def head(self, part: int) -> Head:
        """The last entry of a partition, this write included."""
        if part not in self.heads:
            self.heads[part] = self.record.head(part)
        return self.heads[part]

    def remember(self, tenant: str, id_: str, row: IdRow) -> None:
        """Set what is kept of an id."""
        key = id_key(tenant, id_)
        self.ids[key] = row
        self.batch.put("ids", key, _encode(row))

    def append(self, part: int, entry: Entry) -> None:
        """Add one entry at the end of its partition; its number must be the next."""
        before = self.head(part)
        encoded = _encode(entry)
        self.batch.put("log", keys.log(part, entry.rseq), encoded)
        self.bodies[(part, entry.rseq)] = entry
        self.heads[part] = Head(entry.rseq, entry.seq)
        if part not in self.announced:
            self.announced[part] = (entry.rseq, before.seq, [])
        self.announced[part][2].append(encoded)

    def order(self, part: int, entry: Entry, summary: Summary) -> None:
        """Make an entry findable by time and, an event, by session; count it."""
        when = keys.time(entry.ts) + keys.u64(entry.rseq)
        self.batch.put("time", keys.tenant(part, entry.tenant) + when, _encode(summary))
        if entry.kind == "event":
            self.batch.put("sessions", activity_key(part, entry.tenant, entry.agent, entry.session) + when, b"")
            self.count(part, entry)

    def count(self, part: int, entry: Entry) -> None:
        """Add one event to its session's and agent's counters."""
        fresh = self._add("activity", part, entry, entry.session, 0)
        self._add("agents", part, entry, "", 1 if fresh else 0)

    def _add(self, family: str, part: int, entry: Entry, session: str, sessions: int) -> bool:
        key = activity_key(part, entry.tenant, entry.agent, session)
        held = self.counters.get((family, key))
        old = held[1] if held else self.record.activity(family, key)
        now = held[2] if held else old
        new = (
            Activity(
                entry.agent, session, now.events + 1, min(now.first, entry.ts), max(now.last, entry.ts),
                now.sessions + sessions,
            )
            if now
            else Activity(entry.agent, session, 1, entry.ts, entry.ts, 1)
        )  # fmt: skip
        self.counters[(family, key)] = (entry.tenant, old, new)
        return now is None

    def finish(self) -> list[Facts]:
        """Put heads and counters into the batch; returns what is to be announced once it is synced."""
        for part, head in self.heads.items():
            self.batch.put("meta", b"head:" + keys.partition(part), _encode(head))
        for part, (first, _, _) in self.announced.items():
            if expiring.listed(self.record.store, part) == first - 1:
                expiring.note(self.batch, part, self.heads[part].rseq)
        for (family, key), (tenant, old, new) in self.counters.items():
            recent = "recent_sessions" if family == "activity" else "recent_agents"
            if old is not None and old.last != new.last:
                self.batch.delete(recent, recent_key(tenant, old))
            self.batch.put(family, key, _encode(new))
            self.batch.put(recent, recent_key(tenant, new), _encode(new))
        return [
            Facts(part, first + at, seq if at == 0 else decode_entry(slice_[-1]).seq, chunk)
            for part, (first, seq, encoded) in self.announced.items()
            for at, chunk, slice_ in _chunks(encoded)
        ]


@lru_cache(4096)
def activity_key(part: int, tenant: str, agent: str, session: str) -> bytes:
    """Key of a session's or (session "") an agent's counters."""
    prefix = keys.tenant(part, tenant)
    return keys.under(prefix, agent, session) if session else keys.under(prefix, agent)


def _chunks(encoded: list[bytes]) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Slices within the size of one announcement: (offset, entries, the entries before them)."""
    start, size = 0, 0
    for position, entry in enumerate(encoded):
        if size and size + len(entry) > limits.FACTS_BYTES_MAX:
            yield start, encoded[start:position], encoded[:start]
            start, size = position, 0
        size += len(entry)
    if start < len(encoded):
        yield start, encoded[start:], encoded[:start]
