"""Gather, decide, apply: batches of MEMORY become one synced write each. Runs on the writer thread only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, TypeVar

import msgspec

from jetmem.domain import keys
from jetmem.persist import core, expiring, nodes
from jetmem.persist.erase import chunks, erase
from jetmem.persist.ports import Message
from jetmem.persist.record import (
    TRIMMED,
    TRIMMING,
    Checkpoint,
    ForgetRow,
    LastForget,
    OutboxRow,
    Record,
    Write,
    copy_key,
    due,
    forget_key,
    is_letter,
    last_forget_key,
)
from jetmem.runtime import limits, metrics
from jetmem.runtime.crashpoints import crashpoint
from jetmem.runtime.errors import Poison
from jetmem.runtime.store import WriteSet
from jetmem_schemas import subjects
from jetmem_schemas.errors import SchemaError
from jetmem_schemas.events import Forget
from jetmem_schemas.internal import Entry, Facts, Forgotten
from jetmem_schemas.subjects import partition_of

M = TypeVar("M", bound=Message)
_encode = msgspec.msgpack.Encoder().encode
#: Header values are one line of printable ASCII, and short.
_HEADER_CHARS_MAX: Final = 500
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ORIGINAL: Final = "Jetmem-Original-"
#: The server refuses 64 KiB of headers for ever; half of it leaves room for ours.
_ORIGINAL_CHARS_MAX: Final = 32 * 1024


@dataclass(slots=True)
class Applied:
    """What one write, or a batch, led to: facts to announce, and whether the outbox has rows."""

    facts: list[Facts]
    outbox: bool
    recorded: int


class Recorder:
    """Applies messages in the order of their sequence. One instance a reader; writer thread only.

    Attributes:
        checkpoint: Where the write in the making is; writer thread only.
        synced: Where the disk is; replaced after each sync, after `heads`. What others are told.
        heads: The last synced entry of each partition; replaced, never changed.
        parts: The partitions whose messages are recorded, others are passed over; replaced, never changed.
        numbers: Where outbox rows get theirs from.
    """

    def __init__(
        self,
        record: Record,
        reader: str,
        parts: Iterable[int] = range(subjects.PARTITIONS),
        *,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.record = record
        self.reader = reader
        self.parts = frozenset(parts)
        self.checkpoint = record.checkpoint(reader)
        self.synced = self.checkpoint
        self.heads = record.heads()
        self.numbers = numbers or count(_last_number(record, "outbox") + 1)

    def apply(self, messages: Sequence[Message]) -> Applied:
        """Record a batch: all of it is on disk when this returns."""
        whole = Applied([], False, 0)
        for each in self.steps(messages):
            whole = Applied(whole.facts + each.facts, whole.outbox or each.outbox, whole.recorded + each.recorded)
        return whole

    def steps(self, messages: Sequence[Message]) -> Iterator[Applied]:
        """Record a batch, one write after the other: what was yielded is on disk, and the writer may do other work.

        Messages at or below the checkpoint change nothing. A forget has writes of its own, in its place.
        """
        write = self._begin()
        for message in messages:
            if message.seq <= self.checkpoint.seq:
                continue
            if not self._is_ours(message):
                self.checkpoint = self._behind(message)
                continue
            candidate = self._judge(write, message)
            if candidate is not None and candidate.forget is not None:
                yield from self._commit(write)
                yield from self._forget(candidate, candidate.forget, message)
                write = self._begin()
            elif candidate is not None:
                self._take(write, candidate, message)
            self.checkpoint = self._behind(message)
        yield from self._commit(write)

    def ours(self, messages: list[M]) -> list[M]:
        """Those of a batch that are recorded here, not passed over."""
        if len(self.parts) == subjects.PARTITIONS:
            return messages
        return [each for each in messages if self._is_ours(each)]

    def adopt(self, created: str) -> None:
        """Bind the record to the stream it will read from its first message on.

        What is recorded already came from another stream: its sequences say nothing about this one. Its copies went
        with it; only if it is the same stream, cut or set back, may some of them still be there.
        """
        write, before = self._begin(), self.checkpoint
        for part, head in self.heads.items():
            write.batch.put("meta", b"base:" + keys.partition(part), keys.u64(head.rseq))
        if created != before.created:
            self._drop_copies(write)
        self._set(Checkpoint(created, epoch=before.epoch + (1 if before.created else 0)), write)

    def _drop_copies(self, write: Write) -> None:
        """Nothing of MEMORY is to be erased any more, nor in doubt; letters are, DEAD is a stream of its own."""
        for family in ("purge", "repeats"):
            for key, _ in self.record.store.scan(family, b""):
                if family != "purge" or not is_letter(key):
                    write.batch.delete(family, key)
        for key in (TRIMMED, TRIMMING):
            write.batch.delete("meta", key)

    def mark_erased(self, seq: int) -> None:
        """Note that the checkpoint's own message is about to be erased, so that its absence is no alarm."""
        if seq == self.checkpoint.seq:
            self._set(msgspec.structs.replace(self.checkpoint, erased=True), self._begin())

    def begin_at(self, created: str, seq: int, epoch: int = 0) -> None:
        """Read on behind a message that others may erase."""
        self._set(Checkpoint(created, seq, erased=True, epoch=epoch), self._begin())

    def write_with(self, batch: WriteSet, **changes: Any) -> None:
        """Write a batch together with changes of the checkpoint, between two batches of messages."""
        self._set(msgspec.structs.replace(self.checkpoint, **changes), Write(self.record, batch))

    def _is_ours(self, message: Message) -> bool:
        return len(self.parts) == subjects.PARTITIONS or subjects.home(message.subject) in self.parts

    def _behind(self, message: Message) -> Checkpoint:
        """Who else owns what is passed over may erase it: that it is gone is no sign of loss then."""
        erased = not self._is_ours(message)
        return Checkpoint(self.checkpoint.created, message.seq, message.at, erased, self.checkpoint.epoch)

    def _set(self, checkpoint: Checkpoint, write: Write) -> None:
        self.checkpoint = checkpoint
        self._mark(write)
        self.record.store.write(write.batch, sync=True)
        self.synced = checkpoint

    def _begin(self) -> Write:
        return Write(self.record, self.record.store.batch())

    def _mark(self, write: Write) -> None:
        write.batch.put("meta", b"reader:" + self.reader.encode(), _encode(self.checkpoint))

    def _commit(self, write: Write) -> Iterator[Applied]:
        if self.checkpoint == self.synced and not len(write.batch):
            return
        self._mark(write)
        facts = write.finish()
        crashpoint("persist:before-write")
        self.record.store.write(write.batch, sync=False)
        crashpoint("persist:after-write")
        self.record.store.sync()
        crashpoint("persist:after-sync")
        self.heads = self.heads | write.heads
        self.synced = self.checkpoint
        yield Applied(facts, write.outbox > 0, sum(len(f.entries) for f in facts))

    def _judge(self, write: Write, message: Message) -> core.Candidate | None:
        try:
            candidate = core.judge(message.subject, message.data, message.seq, message.at)
        except (SchemaError, Poison) as error:
            self._dead(write, message, error.code, error.message, error.field)
            return None
        if candidate.node is not None:
            around = nodes.around(write, candidate.tenant, candidate.node)
            verdict = core.decide_node(candidate.node, message.data, around)
        else:
            verdict = core.decide(candidate, write.known(candidate.tenant, candidate.id))
        if verdict is core.Verdict.RECORD:
            return candidate
        if verdict is core.Verdict.CONFLICT and not self._respelt(write, candidate, message):
            reason = f"id {candidate.id} is recorded with other content; ids are unique for ever"
            self._dead(write, message, "conflict", reason, "id", candidate.id)
            return None
        self._pass_over(write, candidate, verdict, message)
        return None

    def _pass_over(self, write: Write, candidate: core.Candidate, verdict: core.Verdict, message: Message) -> None:
        """Note the copy in MEMORY of what is not recorded again, so that a forget reaches it."""
        metrics.duplicates.inc()
        metrics.operations.labels("publish", "duplicate").inc()
        if verdict in (core.Verdict.FORGOTTEN, core.Verdict.STALE):
            write.batch.put("purge", copy_key(message.seq, message.at), due(candidate.tenant))
            return
        if candidate.node is not None:
            mine = nodes.copies_prefix(candidate.tenant, candidate.id)
        else:
            mine = keys.under(keys.tenant(partition_of(candidate.tenant), candidate.tenant), candidate.id)
        write.batch.put("repeats", mine + keys.u64(message.seq), keys.time(message.at))

    def _respelt(self, write: Write, candidate: core.Candidate, message: Message) -> bool:
        known = write.known(candidate.tenant, candidate.id)
        held = write.entry(partition_of(candidate.tenant), known.rseq) if known else None
        if held is None or held.kind != core.entry_kind(candidate.kind):
            return False
        if (held.agent, held.session) != (candidate.agent, candidate.session):
            return False
        return core.same_content(held.body, message.data)

    def _take(self, write: Write, candidate: core.Candidate, message: Message) -> None:
        part = partition_of(candidate.tenant)
        entry = Entry(
            write.head(part).rseq + 1, message.seq, message.at, core.entry_kind(candidate.kind), candidate.tenant,
            candidate.agent, candidate.session, candidate.id, candidate.ts, message.data,
        )  # fmt: skip
        write.append(part, entry)
        if candidate.node is not None:
            nodes.add(write, entry, candidate.node)
        else:
            write.remember(candidate.tenant, candidate.id, core.IdRow(entry.rseq, candidate.hash))
            write.order(part, entry, candidate.summary)
            expiring.put(write.batch, entry)
        metrics.persisted.labels(candidate.kind).inc()
        metrics.operations.labels("publish", "ok").inc()

    def _forget(self, candidate: core.Candidate, forget: Forget, message: Message) -> Iterator[Applied]:
        """Erase what a forget covers: entries of at most 500 ids, each its own write, the checkpoint with the last.

        Nodes go before the events that they were made from: after a kill between two writes they are looked for again
        by what is left of these.
        """
        part = partition_of(candidate.tenant)
        said = list(self._selected(candidate.tenant, forget))
        derived = [(rseq, "", "") for rseq in self._derived(candidate.tenant, forget, said)]
        planned = list(chunks([*derived, *said], limits.FORGET_IDS_MAX))
        for number, chunk in enumerate(planned):
            last = number == len(planned) - 1
            write = self._begin()
            gone = erase(write, candidate.tenant, chunk)
            ids = [g.id for g in gone if g.kind != "derived"]
            body = _encode(Forgotten(ids, [g.rseq for g in gone], last))
            rseq = write.head(part).rseq + 1
            entry = Entry(
                rseq, message.seq, message.at, "forgot", candidate.tenant, candidate.agent, candidate.session,
                candidate.id if last else f"{candidate.id}:{number}"[-64:], candidate.ts, body,
            )  # fmt: skip
            write.append(part, entry)
            if last:
                write.remember(candidate.tenant, candidate.id, core.IdRow(rseq, candidate.hash))
                self._remember_forget(write, candidate.tenant, message, len(said), rseq)
                self._drop_outbox(write, candidate.tenant, forget)
                self.checkpoint = self._behind(message)
            yield from self._commit(write)

    def _derived(self, tenant: str, forget: Forget, said: Sequence[tuple[int, str, str]]) -> list[int]:
        """Numbers of the nodes that go with what a forget covers, in order."""
        if forget.all:
            return nodes.entries_of(self.record, tenant)
        return nodes.made_from(self.record, tenant, (rseq for rseq, _, _ in said))

    def _remember_forget(self, write: Write, tenant: str, message: Message, erased: int, rseq: int) -> None:
        epoch = self.checkpoint.epoch
        row = ForgetRow(tenant, message.seq, erased, message.at, message.data, epoch=epoch)
        write.batch.put("unpurged", forget_key(tenant, epoch, message.seq), _encode(row))
        write.batch.put("meta", last_forget_key(tenant), _encode(LastForget(epoch, message.seq, rseq)))

    def _selected(self, tenant: str, forget: Forget) -> Iterator[tuple[int, str, str]]:
        """(rseq, agent, session) of what a forget covers; the agent is "" for what no counter counts."""
        if forget.ids is not None:
            rows = self.record.id_rows(tenant, list(dict.fromkeys(forget.ids)))
            rseqs = [row.rseq for row in rows if row is not None and not row.forgotten]
            for start in range(0, len(rseqs), limits.FORGET_IDS_MAX):
                for entry in self.record.entries_at(partition_of(tenant), rseqs[start : start + limits.FORGET_IDS_MAX]):
                    yield entry.rseq, entry.agent if entry.kind == "event" else "", entry.session
            return
        for rseq, ts, summary in self.record.of_tenant(tenant):
            if core.selects(forget, summary, ts):
                yield rseq, summary.agent if summary.kind == "event" else "", summary.session

    def _drop_outbox(self, write: Write, tenant: str, forget: Forget) -> None:
        for key, raw in self.record.store.scan("outbox", b""):
            row = msgspec.msgpack.decode(raw, type=OutboxRow)
            if row.tenant == tenant and core.covers_dead(forget, row.source, row.id, row.data, row.at):
                write.batch.delete("outbox", key)
                write.batch.put("purge", copy_key(row.seq, row.at), due(tenant))

    def _dead(self, write: Write, message: Message, code: str, reason: str, field: str, id_: str = "") -> None:
        tenant = subjects.tenant_of(message.subject)
        source = subjects.published(message.subject)
        headers = _original(message.headers) | {
            "Nats-Msg-Id": f"dead-{message.seq}-{message.at}",
            "Jetmem-Subject": _line(source),
            "Jetmem-Seq": str(message.seq),
            "Jetmem-Time": str(message.at),
            "Jetmem-Epoch": str(self.checkpoint.epoch),
            "Jetmem-Code": code,
            "Jetmem-Reason": _line(reason),
            "Jetmem-Field": _line(field),
            "Jetmem-Id": id_,
        }
        row = OutboxRow(
            subjects.dead(code, tenant), headers, message.data, tenant, source, message.seq, id_, message.at
        )
        write.batch.put("outbox", keys.u64(next(self.numbers)), _encode(row))
        write.outbox += 1
        metrics.dead_letters.labels(code).inc()
        metrics.operations.labels("publish", code).inc()


def _original(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a refused message, as far as the broker takes them again beside ours."""
    kept: dict[str, str] = {}
    room = _ORIGINAL_CHARS_MAX
    for name, value in headers.items():
        line = _line(value, room)
        room -= len(name) + len(line) + len(_ORIGINAL)
        if room < 0:
            break
        if _HEADER_NAME.fullmatch(name):
            kept[_ORIGINAL + name] = line
    return kept


def _line(text: str, chars_max: int = _HEADER_CHARS_MAX) -> str:
    ascii_only = text[:chars_max].encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in ascii_only)[:chars_max]


def _last_number(record: Record, family: str) -> int:
    rows: Iterable[tuple[bytes, bytes]] = record.store.scan(family, b"", back=True)
    for key, _ in rows:
        return keys.from_u64(key)
    return 0
