"""Publishing many: JetStream atomic batches, one committed while the next is being sent.

Order: a batch is committed only after the one before it was acknowledged, so all events of one call are stored in
the order given, whatever is tried again. An unknown outcome means the same batch once more; as every event carries
its id, what was stored already is a no-op.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from jetmem.client.acks import Answer, Outcome, judge
from jetmem.client.errors import ClientError, NotStored, Refused, TimedOut, Unavailable
from jetmem.client.ids import Ids
from jetmem.client.link import Link, Lost, Slot
from jetmem.client.outgoing import Outgoing, Prepared
from jetmem.client.publishing import Patience, publish_wave, waves

#: The server's limit.
BATCH_EVENTS_MAX: Final = 1_000
#: Two batches of this plus one payload stay well inside the connection's buffer, and one is sent well inside 10 s.
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"
#: Sent and not yet committed, the one that is being committed included; the server takes 50 of all clients.
STAGED_MAX: Final = 2
#: A lost connection explains one; after the second some message is refused, and one by one shows which.
INCOMPLETE_MAX: Final = 2


class Receipts(msgspec.Struct, frozen=True):
    """All events of one call are on disk. `repeated` of them were sent more than once; each is recorded once."""

    count: int
    last_seq: int
    repeated: int = 0
    refused: int = 0


class Progress(msgspec.Struct, frozen=True):
    """What one more batch stored: its ids, and `count` events of the call so far."""

    ids: tuple[str, ...]
    count: int
    last_seq: int


OnProgress = Callable[[Progress], None]
OnRefused = Callable[[Outgoing, Refused], None]


class Batch:
    """Messages that are stored together, or not at all. `slot` is where the commit is answered, if it was sent."""

    def __init__(self, messages: list[Prepared]) -> None:
        self.messages = messages
        self.id = ""
        self.slot: Slot | None = None


class Publisher:
    """One call of `publish_many`; `source` yields batches in order, at most `BATCH_EVENTS_MAX` messages each."""

    def __init__(
        self,
        link: Link,
        ids: Ids,
        *,
        timeout_s: float | None,
        on_progress: OnProgress | None,
        on_refused: OnRefused | None,
    ) -> None:
        self._link = link
        self._ids = ids
        self._timeout_s = timeout_s
        self._patience = Patience(timeout_s)
        self._on_progress = on_progress
        self._on_refused = on_refused
        self._staged: deque[Batch] = deque()
        self._atomic: bool | None = None
        self._count = self._last_seq = self._repeated = self._refused = 0

    @property
    def last_seq(self) -> int:
        """Sequence of the last event known to be stored."""
        return self._last_seq

    def refused(self, out: Outgoing, error: Refused) -> None:
        """Report one message that will never be stored.

        Raises:
            Refused: Nobody asked to hear of them.
        """
        if self._on_refused is None:
            raise error
        self._refused += 1
        self._on_refused(out, error)

    async def run(self, source: AsyncIterator[list[Prepared]]) -> Receipts:
        """Publish everything that `source` gives; an empty list from it means that it has nothing at the moment.

        Raises:
            NotStored: No acknowledgement for `timeout_s`.
            Refused: One message will never be stored, and there is no `on_refused`.
        """
        try:
            async for messages in source:
                await self._take(messages)
            await self._take([])
        except Unavailable as error:
            raise self._not_stored(error.message) from error
        finally:
            for batch in self._staged:
                self._unstage(batch)
        return Receipts(self._count, self._last_seq, self._repeated, self._refused)

    async def _take(self, messages: list[Prepared]) -> None:
        if messages:
            batch = Batch(messages)
            self._staged.append(batch)
            with contextlib.suppress(Refused):  # it is found again, and judged, when its turn comes
                await self._stage(batch)
        while len(self._staged) >= (STAGED_MAX if messages else 1):
            await self._settle_first()

    async def _stage(self, batch: Batch) -> None:
        """Send all but the last; a failure here shows at the commit, which then finds the batch incomplete."""
        self._unstage(batch)
        if self._atomic is False:
            return
        await self._link.ready(self._patience.left())
        batch_id = self._ids.next()
        slot = batch.slot = self._link.slot({m.subject for m in batch.messages})
        rest = enumerate(batch.messages[:-1], 1)
        if self._atomic is None and len(batch.messages) > 1:
            next(rest)
            if not await self._probe(batch.messages[0], batch_id):
                return
        try:
            for number, message in rest:
                headers = {BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}
                await self._link.send(message.subject, message.payload, headers=headers)
        except Lost as error:
            self._patience.reason = str(error)
            return
        if not slot.future.done():
            batch.id = batch_id

    def _unstage(self, batch: Batch) -> None:
        batch.id = ""
        if batch.slot is not None:
            self._link.drop(batch.slot)
            batch.slot = None

    async def _probe(self, first: Prepared, batch_id: str) -> bool:
        """Learn from a first message, before the rest is sent, whether server and stream know atomic batches.

        An older server stores that message at once; it is stored again with the others, under the same id.
        """
        slot = self._link.slot((first.subject,))
        try:
            await self._link.send(first.subject, first.payload, slot.reply, {BATCH_ID: batch_id, BATCH_SEQUENCE: "1"})
            answer = judge(await self._link.wait(slot, self._patience.ack_s()))
        except (Lost, TimedOut) as error:
            answer = Answer(Outcome.AGAIN, reason=str(error))
        finally:
            self._link.drop(slot)
        if answer.outcome is Outcome.AGAIN:
            self._patience.reason = answer.reason
        elif answer.outcome is not Outcome.NEVER:
            self._atomic = answer.outcome is Outcome.OPENED
        return self._atomic is True

    async def _settle_first(self) -> None:
        """Have the oldest batch stored, whatever it takes, before anything after it is."""
        batch = self._staged[0]
        self._patience.reset()
        incomplete = 0
        while True:
            try:
                answer = await self._try(batch)
            except Refused:
                answer = Answer(Outcome.NEVER)
            if answer.outcome is Outcome.STORED and answer.batch:
                self._atomic = True
                self._staged.popleft()
                return self._done(batch.messages, answer.seq, self._patience.attempts)
            if answer.outcome in (Outcome.NOT_ATOMIC, Outcome.STORED):
                self._atomic = False
            incomplete += answer.outcome is Outcome.INCOMPLETE
            if answer.outcome not in (Outcome.AGAIN, Outcome.INCOMPLETE) or incomplete >= INCOMPLETE_MAX:
                await self._one_by_one(batch)
                self._staged.popleft()
                return None
            self._unstage(batch)
            await self._patience.pause(answer.reason)
            if self._patience.over():
                raise self._not_stored(self._patience.reason)

    async def _try(self, batch: Batch) -> Answer:
        await self._link.ready(self._patience.left())
        if not batch.id:
            await self._stage(batch)
        if self._atomic is False:
            return Answer(Outcome.NOT_ATOMIC)
        slot = batch.slot
        if slot is None or not (batch.id or slot.future.done()):
            return Answer(Outcome.AGAIN, reason=self._patience.reason)
        headers = {BATCH_ID: batch.id, BATCH_SEQUENCE: str(len(batch.messages)), BATCH_COMMIT: "1"}
        last = batch.messages[-1]
        try:
            if not slot.future.done():
                await self._link.send(last.subject, last.payload, slot.reply, headers)
            return judge(await self._link.wait(slot, self._patience.ack_s()))
        except (Lost, TimedOut) as error:
            return Answer(Outcome.AGAIN, reason=str(error))

    async def _one_by_one(self, batch: Batch) -> None:
        """Without batches: waves in which each session has one message, so that none overtakes within a session."""
        self._unstage(batch)
        for wave in waves(batch.messages):
            results = await publish_wave(self._link, wave, self._timeout_s)
            for message, result in zip(wave, results, strict=True):
                if isinstance(result, Refused):
                    batch.messages.remove(message)
                    self.refused(message.again(), result)
                elif isinstance(result, ClientError):
                    raise self._not_stored(result.message)
                else:
                    batch.messages.remove(message)
                    self._done([message], result.seq, result.attempts)

    def _done(self, messages: list[Prepared], seq: int, attempts: int) -> None:
        self._count += len(messages)
        self._last_seq = max(self._last_seq, seq)
        self._repeated += len(messages) if attempts > 1 else 0
        if self._on_progress is not None:
            self._on_progress(Progress(tuple(m.id for m in messages), self._count, self._last_seq))

    def _not_stored(self, reason: str) -> NotStored:
        pending = [m.again() for batch in self._staged for m in batch.messages]
        return NotStored(reason, pending, self._count)
